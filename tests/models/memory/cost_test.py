import jax
import pytest

from iblm_jax.models import config as model_config
from iblm_jax.models.generation import decoding, memory_decoding
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import cost as memory_cost
from iblm_jax.models.memory import model as memory


def model(chunks, length, width, encoder_width, **kwargs):
  part = lambda width: model_config.llama(
      8000, num_layers=16, width=width, tie_embeddings=True
  )
  return memory_config.MemoryConfig(
      part(encoder_width), part(width), chunks, length, **kwargs
  )


# arXiv 2602.13466's shapes. 16 layers of 16 D^2 parameters in encoder and
# decoder, no embeddings and heads, causal attention over half the square, and
# windows of C + L positions, masked or not. The digits are those that a
# calculation apart from this code gave; the cache there is keys and values.
TABLE = [
    # C, L, D, E; train, prefill, the last chunk with memories at hand, cache
    ((4, 256, 512, 256), ('1.11', '0.41', '0.23', '0.254')),
    ((4, 256, 512, 512), ('1.62', '0.92', '0.23', '0.254')),
    ((8, 128, 512, 256), ('1.16', '0.32', '0.12', '0.133')),
    ((16, 256, 512, 256), ('0.90', '0.21', '0.046', '0.066')),
    ((64, 256, 512, 256), ('0.52', '0.094', '0.007', '0.020')),
]


@pytest.mark.parametrize('shape, expected', TABLE, ids=str)
def test_table_of_the_paper_s_shapes(shape, expected):
  cfg = model(*shape)
  found = (
      memory_cost.forward_flops(cfg, 'train').ratio,
      memory_cost.forward_flops(cfg, 'prefill').ratio,
      memory_cost.forward_flops(cfg, 'prefill', cached=True).ratio,
      memory_cost.cache_bytes(cfg.decoder, 8, cfg.window)
      / memory_cost.cache_bytes(cfg.decoder, 8, cfg.length),
  )
  for value, digits in zip(found, expected, strict=True):
    assert f'{value:.{len(digits) - 2}f}' == digits


def test_flops_written_out():
  cfg = model(4, 256, 512, 256)
  total = lambda width, n: 16 * (
      32 * width**2 * n + 4 * width * n * (n + 1) // 2
  )
  train = memory_cost.forward_flops(cfg, 'train')
  assert train == (3 * total(256, 256), 4 * total(512, 260), total(512, 1024))
  cached = memory_cost.forward_flops(cfg, 'train', cached=True)
  assert cached == train._replace(encoder=0)
  prefill = memory_cost.forward_flops(cfg, 'prefill')
  assert prefill == (train.encoder, total(512, 260), train.full_context)
  # One position: its matrices, and 260 or 1,024 keys.
  of_token = lambda keys: 16 * (32 * 512**2 + 4 * 512 * keys)
  decode = memory_cost.forward_flops(cfg, 'decode')
  assert decode == (total(256, 256) / 256, of_token(260), of_token(1024))
  assert memory_cost.forward_flops(cfg, 'decode', cached=True).encoder == 0


def test_without_memories_nothing_is_encoded():
  cfg = model(4, 8, 16, 16, kind='none')
  for mode in memory_cost.MODES:
    assert memory_cost.forward_flops(cfg, mode).encoder == 0


def test_a_mixer_pays_for_its_window():
  part = lambda length: model_config.mixer(
      11, length, width=16, num_layers=1, tie_embeddings=True
  )
  cfg = memory_config.MemoryConfig(part(24), part(24), 4, 4)
  cost = memory_cost.forward_flops(cfg, 'decode', cached=True)
  mlp, length = 2 * 2 * 16 * 64, 8
  assert cost.decoder == length * (mlp + 2 * 16 * length)
  assert memory_cost.cache_bytes(cfg, 2) == 2 * (3 * 16 * 4 + 4 * 4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_bytes_are_those_of_what_decoding_holds(dtype):
  part = model_config.llama(
      11, num_layers=3, width=16, num_heads=2, tie_embeddings=True, dtype=dtype
  )
  cfg = memory_config.MemoryConfig(part, part, num_chunks=5, chunk_length=4)
  held = lambda tree: sum(
      leaf.size * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(tree) if leaf.ndim
  )
  state = jax.eval_shape(
      lambda key: memory_decoding.start(memory.init(key, cfg), cfg, 2),
      jax.random.key(0),
  )
  assert memory_cost.cache_bytes(cfg, 2) == held(state)
  cache = jax.eval_shape(lambda: decoding.init_cache(part, 2, 20))
  assert memory_cost.cache_bytes(part, 2, 20) == held(cache)


def test_refuses():
  with pytest.raises(ValueError, match="mode must be one of .* got 'all'"):
    memory_cost.forward_flops(model(4, 8, 16, 16), 'all')
  cfg = model(4, 8, 16, 16, kind='recurrent')
  for call in (
      lambda: memory_cost.forward_flops(cfg, 'train'),
      lambda: memory_cost.cache_bytes(cfg, 1),
  ):
    with pytest.raises(ValueError, match="kind .* got 'recurrent'"):
      call()
