"""Options of masked mixing, the other way to let tokens see each other."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class MixerConfig:
  """How a block mixes positions by learned weights instead of attention.

  Attributes:
    length: longest sequence, in tokens: weights belong to pairs of positions.
    num_heads: H, slices of the features that are mixed by weights of their own;
      1 mixes all features alike, without projections.
    kernel: k, neighbouring features that enter each mixed feature.
    expansion: hidden positions per position of a second map after a GELU; None
      has one map and no GELU.

  Raises:
    ValueError: for a value outside its range, naming field and value.

  References:
    arXiv 2409.01482; arXiv 2602.13466 and its public code.
  """

  length: int
  num_heads: int = 1
  kernel: int = 1
  expansion: int | None = None

  def __post_init__(self):
    for name in ('length', 'num_heads', 'kernel', 'expansion'):
      value = getattr(self, name)
      if name == 'expansion' and value is None:
        continue
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be an integer >= 1, got {value!r}.')
    if self.expansion is not None and self.num_heads > 1:
      raise ValueError(
          'expansion is for one head, got'
          f' num_heads={self.num_heads} and expansion={self.expansion}.'
      )
