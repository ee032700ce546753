"""One vector for a whole sequence: which position is read, and how it travels.

What a causal encoder knows of its input when it is done is at the last token.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax import fields
from iblm_jax.models import config as model_config
from iblm_jax.models.nn import layers

POSITIONS = ('last_valid', 'last', 'penultimate')


def gather(
    h_BxLxE: jax.Array, mask_BxL: jax.Array | None, position: str
) -> jax.Array:
  """Takes the hidden vector of one position of every row.

  Args:
    h_BxLxE: Hidden vectors.
    mask_BxL: bool, the valid tokens; None for all.
    position: 'last_valid' (the last valid token), 'penultimate' (the
      valid one before it, where there is one: the last position of a mixer that
      was trained on next tokens may have had none to predict) or 'last'
      (position L - 1, padding or not).

  Returns:
    [B, E]; position 0 of a row without tokens.

  Raises:
    ValueError: The position is unknown.

  Example:
    >>> h = jnp.arange(3.0)[None, :, None]
    >>> mask = jnp.array([[True, True, False]])
    >>> [float(gather(h, mask, p)[0, 0]) for p in POSITIONS]
    [1.0, 2.0, 0.0]
  """
  if position not in POSITIONS:
    raise ValueError(f'position must be one of {POSITIONS}, got {position!r}.')
  length = h_BxLxE.shape[1]
  if position == 'last':
    return h_BxLxE[:, -1]
  if mask_BxL is None:
    mask_BxL = jnp.ones(h_BxLxE.shape[:2], bool)
  rank_BxL = jnp.cumsum(mask_BxL[:, ::-1], axis=1)[:, ::-1]  # from the end
  wanted_B = jnp.ones(h_BxLxE.shape[0], rank_BxL.dtype)
  if position == 'penultimate':
    wanted_B = jnp.clip(rank_BxL[:, 0], 1, 2)
  hit_BxL = mask_BxL & (rank_BxL == wanted_B[:, None])
  index_B = jnp.where(
      jnp.any(hit_BxL, axis=1), jnp.argmax(hit_BxL, axis=1), 0
  )
  # A product with a one-hot row: no gather along an axis that may be split.
  one_hot_BxL = index_B[:, None] == jnp.arange(length)[None]
  return jnp.sum(
      jnp.where(one_hot_BxL[..., None], h_BxLxE, 0), axis=1
  )


@dataclasses.dataclass(frozen=True)
class Passage:
  """The way of a vector from one model into another.

  Attributes:
    width_in: E.
    width_out: D; a linear map where it differs from E.
    compression: r; the vector passes through E / r numbers.

  Raises:
    ValueError: r does not divide E.
  """

  width_in: int
  width_out: int
  compression: int = model_config.count(1)

  def __post_init__(self):
    fields.check(self)
    if self.width_in % self.compression:
      raise ValueError(
          'compression must divide the width of the encoder, got'
          f' compression={self.compression} and width={self.width_in}.'
      )

  @property
  def num_numbers(self) -> int:
    """How many numbers a vector is made of where it is narrowest."""
    return min(self.width_in // self.compression, self.width_out)


def narrowed(params: Any, e_BxE: jax.Array) -> jax.Array:
  """Computes vectors where they are narrowest on their way.

  `params` are those of `Pass`; empty where it does nothing. The result is
  [B, num_numbers].
  """
  narrowest = e_BxE
  for name in ('down', 'up', 'bridge'):
    if name in params:
      e_BxE = e_BxE @ params[name]['kernel'].astype(e_BxE.dtype)
      if 'bias' in params[name]:
        e_BxE = e_BxE + params[name]['bias'].astype(e_BxE.dtype)[None]
      if e_BxE.shape[1] < narrowest.shape[1]:
        narrowest = e_BxE
  return narrowest


class Pass(nn.Module):
  """A bottleneck, then a bridge; nothing where neither is needed."""

  cfg: model_config.DecoderConfig  # of dtypes and biases
  passage: Passage

  @nn.compact
  def __call__(self, e_BxE: jax.Array) -> jax.Array:
    """Maps [B, E] to [B, D]."""
    wide, out = self.passage.width_in, self.passage.width_out
    narrow = wide // self.passage.compression
    axes = ('embed', 'mlp')
    e_BxE = e_BxE.astype(self.cfg.compute_dtype)
    if narrow < wide:
      down = layers.Linear(self.cfg, (wide, narrow), axes, name='down')
      up = layers.Linear(self.cfg, (narrow, wide), axes[::-1], name='up')
      e_BxE = up(down(e_BxE))
    if wide != out:
      e_BxE = layers.Linear(self.cfg, (wide, out), axes, name='bridge')(e_BxE)
    return e_BxE
