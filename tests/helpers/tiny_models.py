"""Models of a few hundred numbers, for tests of the families."""

import functools

import jax
import numpy as np

from iblm_jax.information import entropy
from iblm_jax.models import config as model_config
from iblm_jax.models import families
from iblm_jax.models.memory import config as memory_config

VOCAB = 11
_SIZES = dict(
    num_layers=2,
    width=8,
    mlp_width=12,
    entropy=entropy.EntropyConfig(patch_size=2),
)


def transformer(**overrides) -> model_config.DecoderConfig:
  return model_config.llama(VOCAB, **{**_SIZES, 'num_heads': 2, **overrides})


def mixer(length, **overrides) -> model_config.DecoderConfig:
  return model_config.mixer(VOCAB, length, **{**_SIZES, **overrides})


def memory(
    kind='parallel', stack='transformer', *, encoder=None, decoder=None, **rest
):
  """Three chunks of four tokens."""
  chunks, length = 3, 4
  if stack == 'mixer':
    make = functools.partial(mixer, 1 + chunks * length)
  else:
    make = transformer
  return memory_config.MemoryConfig(
      **{
          'encoder': make(**{'tie_embeddings': True, **(encoder or {})}),
          'decoder': make(**(decoder or {})),
          'num_chunks': chunks,
          'chunk_length': length,
          'kind': kind,
          **rest,
      }
  )


def random_params(like, seed=0):
  """NumPy parameters in which nothing is zero or one.

  Args:
    like: a config of any family, or a tree of shapes.
    seed: of what is drawn.
  """
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(leaf.dtype),
      like if isinstance(like, dict) else families.shapes(like),
  )


def random_tokens(batch, length, seed=1):
  rng = np.random.default_rng(seed)
  return rng.integers(VOCAB, size=(batch, length), dtype=np.int32)


def other(tokens, *index):
  """The tokens with one of them, or a slice, replaced by others."""
  tokens = tokens.copy()
  tokens[index] = (tokens[index] + 1) % VOCAB
  return tokens
