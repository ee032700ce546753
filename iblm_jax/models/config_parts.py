"""Parts of a decoder's options, and how its fields are declared."""

import dataclasses
import functools
from typing import Any

from iblm_jax import fields

# A number of things; None is allowed where the type allows it.
count = functools.partial(fields.field, low=1, allowed='an integer >= 1')


def choice(*names: str, default: str | None = None) -> Any:
  """Declares a field that holds one of some names, by default the first."""
  return fields.field(default or names[0], choices=names)


@dataclasses.dataclass(frozen=True)
class MixerConfig:
  """How a block mixes positions by learned weights instead of attention.

  Attributes:
    length: Tokens of the longest sequence: weights belong to pairs of
      positions.
    num_heads: H, slices of the features that are mixed by weights of their own;
      1 mixes all features alike, without projections.
    kernel: k, neighbouring features that enter each mixed feature.
    expansion: Hidden positions per position of a second map after a GELU; None
      has one map and no GELU.

  Raises:
    ValueError: A value is outside its range.

  References:
    arXiv 2409.01482; arXiv 2602.13466 and its public code.
  """

  length: int = count()
  num_heads: int = count(1)
  kernel: int = count(1)
  expansion: int | None = count(None)

  def __post_init__(self):
    fields.check(self)
    if self.expansion is not None and self.num_heads > 1:
      raise ValueError(
          'expansion is for one head, got'
          f' num_heads={self.num_heads} and expansion={self.expansion}.'
      )


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
  """Stretches the wavelengths of rotary positions for longer sequences.

  Attributes:
    kind: 'linear' (all wavelengths alike) or 'llama3' (short wavelengths stay,
      long ones are stretched, those between in part).
    factor: How much longer a stretched wavelength gets.
    low: Of 'llama3': wavelengths above `original_length / low` are stretched.
    high: Of 'llama3': wavelengths below `original_length / high` stay.
    original_length: Of 'llama3': tokens of the sequences before stretching.

  Raises:
    ValueError: A value is outside its range, or low is not below high.

  References:
    Linear: arXiv 2306.15595; Llama 3: arXiv 2407.21783.
  """

  kind: str = choice('linear', 'llama3')
  factor: float = fields.field(1.0, above=0)
  low: float = fields.field(1.0, above=0)
  high: float = fields.field(4.0, above=0)
  original_length: int = count(8192)

  def __post_init__(self):
    fields.check(self)
    if self.low >= self.high:
      raise ValueError(
          f'low must be below high, got low={self.low}, high={self.high}.'
      )
