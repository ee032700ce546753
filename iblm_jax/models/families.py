"""The model families behind one interface: whose config it is, decides."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import jax

from iblm_jax import tagged
from iblm_jax.models import autoencoder, decoder, outputs
from iblm_jax.models import config as model_config
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import model as memory
from iblm_jax.models.nn import attention, embeddings
from iblm_jax.models.nn import partition_specs as boxed

DecoderConfig = model_config.DecoderConfig
AutoencoderConfig = autoencoder.AutoencoderConfig
MemoryConfig = memory_config.MemoryConfig
ModelConfig = DecoderConfig | AutoencoderConfig | MemoryConfig

_MODULES: Mapping[type, types.ModuleType] = {
    DecoderConfig: decoder,
    AutoencoderConfig: autoencoder,
    MemoryConfig: memory,
}
# A decoder's config has no field `family`, so that it is what is meant without.
UNION = tagged.Union(
    'family',
    lambda: {getattr(cls, 'family', 'decoder'): cls for cls in _MODULES},
    default='decoder',
)


def family(cfg: ModelConfig) -> Any:
  """The module with `init`, `apply` and `logical_axes` of a config.

  Example:
    >>> family(DecoderConfig(8)).__name__
    'iblm_jax.models.decoder'
  """
  return _MODULES[type(cfg)]


def shapes(cfg: ModelConfig) -> Any:
  """Shapes and dtypes of the parameters that `init` makes of a config.

  Example:
    >>> cfg = DecoderConfig(vocab_size=8, num_layers=2, width=16, num_heads=2)
    >>> shapes(cfg)['blocks']['mlp']['up']['kernel'].shape
    (2, 16, 64)
  """
  return boxed.shapes(family(cfg).boxed_init, cfg)


def name(cfg: ModelConfig) -> str:
  """'decoder', 'mixer', 'autoencoder' or 'memory'."""
  if isinstance(cfg, DecoderConfig):
    return 'decoder' if cfg.mixer is None else 'mixer'
  return cfg.family


def the_decoder(cfg: ModelConfig, purpose: str) -> DecoderConfig:
  """The config, where it is a decoder's.

  Raises:
    ValueError: for another family, naming the purpose.
  """
  if not isinstance(cfg, DecoderConfig):
    raise ValueError(
        f'{purpose} needs a model of the family decoder, got'
        f' {type(cfg).__name__}.'
    )
  return cfg


def stacks(cfg: ModelConfig) -> dict[str, DecoderConfig]:
  """The stacks of blocks of a model, by the name of their field ('' for it)."""
  if isinstance(cfg, DecoderConfig):
    return {'': cfg}
  if isinstance(cfg, MemoryConfig) and not cfg.has_encoder:
    return {'decoder': cfg.decoder}
  return {'encoder': cfg.encoder, 'decoder': cfg.decoder}


def measured(cfg: ModelConfig) -> DecoderConfig:
  """The stack whose layers `apply` collects from: the first that reads."""
  return next(iter(stacks(cfg).values()))


def resolve_attention(cfg: ModelConfig, platform: str) -> Any:
  """The config with 'auto' replaced by the path of a platform."""
  if isinstance(cfg, DecoderConfig):
    path = attention.resolve(cfg.attention, platform, cfg.compute_dtype)
    return dataclasses.replace(cfg, attention=path)
  parts = {
      name: resolve_attention(getattr(cfg, name), platform)
      for name in ('encoder', 'decoder')
  }
  return dataclasses.replace(cfg, **parts)


def vocab_size(cfg: ModelConfig) -> int:
  """V."""
  return measured(cfg).vocab_size


def fixed_length(cfg: ModelConfig) -> int | None:
  """Tokens that a row must have; None where any number will do."""
  return None if isinstance(cfg, DecoderConfig) else cfg.length


def measured_length(cfg: ModelConfig) -> int | None:
  """Tokens of a row of the measured stack; None for those of the data."""
  if isinstance(cfg, MemoryConfig):
    if cfg.has_encoder:
      return cfg.length if cfg.is_oracle else cfg.chunk_length
    return cfg.window
  return fixed_length(cfg)


def longest(cfg: ModelConfig) -> int | None:
  """Tokens that a row may have at most; None for any."""
  if not isinstance(cfg, DecoderConfig):
    return cfg.length
  if cfg.mixer is not None:
    return cfg.mixer.length
  return cfg.max_length if cfg.positions == 'learned' else None


def encoder(cfg: ModelConfig) -> DecoderConfig:
  """The stack whose states are embeddings.

  Raises:
    ValueError: for a memory model without an encoder.
  """
  if isinstance(cfg, DecoderConfig):
    return cfg
  if isinstance(cfg, MemoryConfig) and not cfg.has_encoder:
    raise ValueError(
        f'a memory model of kind {cfg.kind!r} has no encoder to read.'
    )
  return cfg.encoder


def encode(
    params: Any, tokens_BxL: jax.Array, cfg: ModelConfig, mask: jax.Array | None
) -> tuple[jax.Array, outputs.Collected]:
  """States of the encoder of any model at every position, [B, L, E].

  Args:
    params: of the whole model.
    tokens_BxL: int [B, L].
    cfg: of the model.
    mask: bool [B, L], tokens that are there; others are not read.

  Returns:
    What a head would read, and nothing collected.

  Raises:
    ValueError: see `encoder`.
  """
  part = encoder(cfg)
  tree = params if part is cfg else params['encoder']
  return autoencoder.encode(tree, tokens_BxL, part, mask)


def narrowed(
    params: Any, e_BxE: jax.Array, cfg: ModelConfig
) -> jax.Array:
  """What is kept of an encoder's vectors: all, or what passes a bottleneck.

  Args:
    params: of the whole model.
    e_BxE: one position of `encode`.
    cfg: of the model.

  Returns:
    [B, E], or fewer numbers, see `embeddings.narrowed`.
  """
  if isinstance(cfg, DecoderConfig):
    return e_BxE
  way = params if isinstance(cfg, MemoryConfig) else params['decoder']['inject']
  return embeddings.narrowed(way.get('passage', {}), e_BxE)
