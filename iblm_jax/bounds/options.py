"""What a certificate claims and what its code may look like, declared first.

Everything here is fixed before the data is seen, or is paid for in bits.
"""

import dataclasses
import math
from typing import Any

from iblm_jax.bounds import code_length, smoothing

# Of bounds, see `claims`: all, those of few units, those of finite lists.
KINDS = ('hoeffding', 'freedman', 'log_wealth', 'serfling', 'log_wealth_finite')
SAMPLED_KINDS = ('hoeffding', 'log_wealth')
FINITE_KINDS = ('serfling', 'log_wealth_finite')
_CODEBOOKS = ('kmeans', 'uniform', 'step')


@dataclasses.dataclass(frozen=True)
class CertificateConfig:
  """Options of quantisation, code and claims.

  Attributes:
    levels: numbers of quantiser levels to choose from, each 2..4096; which one
      was taken is paid for.
    dims: of the parameterisation to choose from, each of them trained; which
      one was taken is paid for. () takes those of the run.
    codebook: 'kmeans' or 'uniform' (a value for each level), or 'step'
      (multiples of one number).
    scheme: of the code, one of `code_length.SCHEMES`.
    tuning_steps: updates of quantisation-aware training after the run; 0 for
      none.
    tuning_rate: its learning rate, relative to the spread of the values.
    headline: the kind of bound that is meant, one of `KINDS`: the smallest of
      several kinds would hold with less than 1 - delta. The others stand beside
      it for comparison.
    delta: probability that a claim fails, in (0, 1). Each holds with 1 - delta
      on its own, the top-k errors of one kind all at once; the smallest of
      several kinds of bound costs their sum.
    alphas: weights of the uniform distribution to choose from, in (0, 1).
    top_k: sizes of the sets of most likely tokens; () claims no errors.
    sample: units of the training set that are scored, drawn with replacement;
      None scores all of them, which needs no second bound.
    heldout: most held-out units that are scored.
    search_bits: log2 of the number of configurations that were tried, this one
      included; rounded up by whoever declares it.
    runs: codes that were scored on samples of their own and whose best is
      reported; those of other runs and of other options count.
    max_tokens: of an evaluation batch; larger ones are slower on a CPU.

  Raises:
    ValueError: for a value outside its range, naming field and value.

  >>> CertificateConfig(levels=(9, 15, 31)).choice_bits
  1.584962500721156
  """

  levels: tuple[int, ...] = (15,)
  dims: tuple[Any, ...] = ()
  codebook: str = 'kmeans'
  scheme: str = 'kt'
  tuning_steps: int = 0
  tuning_rate: float = 0.01
  headline: str = 'log_wealth'
  delta: float = 0.05
  alphas: tuple[float, ...] = smoothing.ALPHAS
  top_k: tuple[int, ...] = (1, 10)
  sample: int | None = 20_000
  heldout: int = 10_000
  search_bits: float = 0.0
  runs: int = 1
  max_tokens: int = 8192

  def __post_init__(self):
    for name, choices in (
        ('codebook', _CODEBOOKS),
        ('scheme', code_length.SCHEMES),
        ('headline', KINDS),
    ):
      if getattr(self, name) not in choices:
        raise ValueError(
            f'{name} must be one of {choices}, got {getattr(self, name)!r}.'
        )
    if self.sample is not None and self.headline not in SAMPLED_KINDS:
      raise ValueError(
          f'headline={self.headline!r} needs sample=None, all units scored; a'
          f' sample allows {SAMPLED_KINDS}, got sample={self.sample}.'
      )
    if len(set(self.dims)) < len(self.dims):
      raise ValueError(f'dims must be distinct, got {self.dims}.')
    for name, values, low, high in (
        ('levels', self.levels, 2, 4096),
        ('top_k', self.top_k, 1, math.inf),
        ('tuning_steps', (self.tuning_steps,), 0, math.inf),
        ('sample', (1 if self.sample is None else self.sample,), 1, math.inf),
        ('heldout', (self.heldout,), 1, math.inf),
        ('search_bits', (self.search_bits,), 0, math.inf),
        ('runs', (self.runs,), 1, math.inf),
        ('max_tokens', (self.max_tokens,), 1, math.inf),
    ):
      kinds = int | float if name == 'search_bits' else int
      inside = all(
          isinstance(value, kinds)
          and math.isfinite(value)
          and low <= value <= high
          for value in values
      )
      empty = not values and name != 'top_k'
      if empty or not inside or len(set(values)) < len(values):
        raise ValueError(
            f'{name} must be finite, distinct and lie in [{low}, {high}],'
            f' got {values}.'
        )
    for name, values in (
        ('alphas', self.alphas),
        ('delta', (self.delta,)),
    ):
      inside = all(
          isinstance(value, int | float) and 0 < value < 1 for value in values
      )
      if not values or not inside or len(set(values)) < len(values):
        raise ValueError(
            f'{name} must be distinct and lie in (0, 1), got {values}.'
        )
    if not 0 < self.tuning_rate < math.inf:
      raise ValueError(
          f'tuning_rate must be finite and > 0, got {self.tuning_rate}.'
      )

  @property
  def choice_bits(self) -> float:
    """Price of having chosen among `levels` and `dims`."""
    return math.log2(len(self.levels) * max(1, len(self.dims)))
