"""lm-evaluation-harness gives the same answers with our models as with its own.

Its own model `hf` runs the same weights with `transformers` and torch.
"""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
lm_eval = pytest.importorskip('lm_eval')

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from iblm_jax import harness  # noqa: E402

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
LONG = ' '.join(f'word {n} of a long text,' for n in range(40))


def requests(kind, *arguments):
  return [Instance(kind, {}, one, n) for n, one in enumerate(arguments)]


def save_tokenizer(folder):
  """Bytes, a few pairs of them, and the end of a text."""
  import tokenizers

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
  end = '<|endoftext|>'
  made.add_special_tokens([end])
  transformers.PreTrainedTokenizerFast(
      tokenizer_object=made, bos_token=end, eos_token=end, pad_token=end
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


@pytest.mark.parametrize(
    'options',
    [
        {'until': ['\n'], 'max_gen_toks': 20},
        {'until': 'e', 'max_gen_toks': 40, 'do_sample': False},
        {'until': ['the', 'is', 'a'], 'max_new_tokens': 33},
    ],
)
def test_the_same_is_generated(pair, options):
  hf, own = pair
  contexts = [text for text, _ in PAIRS if text] + [LONG[:100]]
  asked = requests('generate_until', *[(text, options) for text in contexts])
  with pytest.warns(UserWarning, match='more tokens than the model reads'):
    found = own.generate_until(asked)
  assert found == hf.generate_until(asked)
  assert len({*found}) > 3


