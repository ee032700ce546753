"""What a run reads between documents, and where its text ends."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import run

from iblm_jax import generate, training
from iblm_jax.data import prepare, sources
from iblm_jax.data.text import tokenising, tokenizers
from iblm_jax.models.generation import decoding
from iblm_jax.training import config

LENGTH = 8
MODEL = dict(
    vocab_size=259, num_layers=1, width=16, num_heads=2, mlp_width=32,
    attention='xla', dtype='float32',
)


def config_of(data, num_steps=150, **model):
  return config.from_dict(
      dict(
          model=dict(MODEL, **model),
          data=dict(data, batch_size=16),
          objective=dict(
              method='ce', measure_entropy=False, skip_first=0, skip_last=0
          ),
          optimizer=dict(schedule=dict(peak=0.02, warmup_steps=1)),
          train=dict(
              num_steps=num_steps, eval_every=num_steps, log_every=num_steps,
              checkpoint_every=num_steps,
          ),
          mesh=dict(data=1),
      )
  )


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Documents of two letters, as text and as shards."""
  folder = tmp_path_factory.mktemp('corpus')
  (folder / 'a.txt').write_text('ab\n' * 400)
  prepare.prepare(
      [str(folder / 'a.txt')],
      str(folder / 'shards'),
      tokenising.Options(documents='line', holdout=0.0),
      report=lambda line: None,
  )
  return folder


def shards_of(corpus, eot_id=256):
  files = f'{corpus}/shards/train_*.bin'
  return dict(
      kind='shards',
      shards=dict(train=files, seq_len=LENGTH, eot_id=eot_id, vocab_size=259),
  )


@pytest.mark.parametrize('kind', ['shards', 'text'])
@pytest.mark.parametrize('positions', ['rotary', 'learned'])
def test_text_ends_with_its_document(corpus, tmp_path, kind, positions):
  text = dict(
      paths=f'{corpus}/a.txt', documents='line', seq_len=LENGTH, holdout=0.0
  )
  data = shards_of(corpus) if kind == 'shards' else dict(kind='text', text=text)
  cfg = config_of(data, positions=positions, max_length=LENGTH)
  training.train(cfg, tmp_path / 'run')
  args = [f'--workdir={tmp_path}/run', '--prompt=a']
  done = run('generate', *args)
  assert (done.stdout, done.stderr) == ('ab\n', '')
  # Of a prompt past what the model reads, the last part goes on.
  args[1] = '--prompt=' + 'a' * 20
  done = run('generate', *args)
  assert done.stdout == 'a' * 20 + 'b\n'
  assert done.stderr.count('\n') == 1 and 'the prompt has 21' in done.stderr
  if positions == 'learned':
    assert 'generate.py: the prompt has 21 tokens' in done.stderr
    assert 'the last 6 of them are continued' in done.stderr
    done = run('generate', *args, '--max_tokens=8', status=2)
    assert 'have 29 tokens, more than max_length 8' in done.stderr
  else:
    assert 'more than the 8 of a row that' in done.stderr


def test_other_mark_than_that_of_the_shards_is_refused(corpus, tmp_path):
  cfg = config_of(shards_of(corpus, eot_id=257))
  with pytest.raises(ValueError, match='eot_id must be 256, .* got 257'):
    sources.make_sources(cfg.data)
  index = corpus / 'shards' / 'index.json'
  whole = index.read_text()
  try:
    for other in ('{"tokenizer": "bytes"}', '[]', '{', '[' * 100_000):
      index.write_text(other)
      sources.make_sources(cfg.data)
      if other[0] == '[':
        with pytest.raises(ValueError, match="a field 'tokenizer'"):
          sources.make_tokenizer(cfg.data)
  finally:
    index.write_text(whole)


def test_mark_is_that_of_the_data(corpus):
  tokenizer = tokenizers.ByteTokenizer()
  cfg = config_of(shards_of(corpus, eot_id=7))
  assert generate.document_mark(cfg, tokenizer) == 7
  cfg = config_of(dict(kind='text', text=dict(paths='a.txt')))
  assert generate.document_mark(cfg, tokenizer) == 256


def spaced(package, decoder):
  """A tokenizer of whole words; the decoder says where their spaces go."""
  words = ['<s>', '</s>', 'the', 'cat', '##s', '▁the', '▁cat', '▁s', '.']
  made = package.Tokenizer(
      package.models.WordLevel({w: i for i, w in enumerate(words)}, 'the')
  )
  made.pre_tokenizer = package.pre_tokenizers.WhitespaceSplit()
  made.decoder = decoder
  made.add_special_tokens(words[:2])
  return made


@pytest.mark.parametrize(
    'name,prompt,sampled,wanted',
    [
        ('Metaspace', [5], [6, 7], ' cat s'),
        ('Metaspace', [], [5, 6], 'the cat'),
        ('WordPiece', [2], [3], ' cat'),
        ('WordPiece', [2, 3], [4], 's'),
        ('WordPiece', [2, 3], [8], '.'),
        ('WordPiece', [2], [], ''),
    ],
)
def test_space_between_prompt_and_continuation_stays(
    tmp_path, name, prompt, sampled, wanted
):
  package = pytest.importorskip('tokenizers')
  made = spaced(package, getattr(package.decoders, name)())
  made.save(str(tmp_path / 'own.json'))
  tokenizer = tokenizers.load_tokenizer(str(tmp_path / 'own.json'))
  assert generate.continuation(tokenizer, prompt, sampled) == wanted


def test_bytes_go_on_as_they_did():
  tokenizer = tokenizers.ByteTokenizer()
  for prompt, sampled in (('é a', [98, 0xC3]), ('', [32, 97]), ('a', [0xA9])):
    ids = tokenizer.encode(prompt).tolist()
    assert generate.continuation(
        tokenizer, ids, sampled
    ) == tokenizer.decode(sampled)


def picked(logits, **options):
  """Tokens drawn from logits, one row for each of 200 keys."""
  logits_BxV = jnp.asarray([logits] * 200, jnp.float32)
  return np.asarray(
      decoding.sample_steps(
          lambda token_B, state: (logits_BxV, state),
          logits_BxV,
          0,
          jax.random.key(0),
          num_tokens=1,
          **{'top_k': None, 'allowed_V': None, 'temperature': 1.0} | options,
      )
  )[:, 0]


@pytest.mark.parametrize(
    'temperature', [1e-3, 1e-7, 1e-30, 1e-37, 1e-39, 1e-45, 5e-324]
)
@pytest.mark.parametrize('scale', [1.0, 1e4])
@pytest.mark.parametrize('top_k', [None, 2])
def test_tiny_temperatures_take_the_most_likely(temperature, scale, top_k):
  logits = np.array([1.0, -3.0, 2.0, 1.5, 9.0]) * scale
  allowed_V = jnp.array([True] * 4 + [False])
  found = picked(
      logits, temperature=temperature, top_k=top_k, allowed_V=allowed_V
  )
  assert set(found) == {2}
  assert set(picked(-logits, temperature=temperature)) == {1}


@pytest.mark.parametrize('temperature', [1e30, 1e39, 1e300])
def test_huge_temperatures_draw_from_all_that_are_allowed(temperature):
  allowed_V = jnp.array([True, True, False, True])
  found = picked([1.0, 2, 3, 4], temperature=temperature, allowed_V=allowed_V)
  assert set(found) == {0, 1, 3}


def test_top_k_is_k_where_more_are_as_likely():
  assert set(picked([1.0, 1, 1, 1, 0], top_k=2)) == {0, 1}
  assert set(picked([0.0, 3, 2, 1, 0], top_k=3)) == {1, 2, 3}
  # No more than are allowed.
  allowed_V = jnp.array([True, False, True, False])
  assert set(picked([1.0] * 4, top_k=3, allowed_V=allowed_V)) == {0, 2}


def test_prompt_of_tokens_that_the_model_lacks_is_refused(corpus, tmp_path):
  cfg = config_of(shards_of(corpus), num_steps=1)
  training.train(cfg, tmp_path / 'run')
  path = tmp_path / 'run' / 'config.json'
  saved = json.loads(path.read_text())
  saved['model']['vocab_size'] = 100
  path.write_text(json.dumps(saved))
  # As of version 0.1, which does not say of which config a checkpoint is.
  (tmp_path / 'run' / 'checkpoints' / '1' / 'run.json').unlink()
  done = run(
      'generate', f'--workdir={tmp_path}/run', '--prompt=a', status=2
  )
  assert 'below the 100 of the model, got 256' in done.stderr
