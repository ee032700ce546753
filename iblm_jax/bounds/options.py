"""What a certificate claims and what its code may look like, declared first.

Everything here is fixed before the data is seen, or is paid for in bits.
"""

import dataclasses
import math
from typing import Any

from iblm_jax import fields
from iblm_jax.bounds import code_length, smoothing

# Of bounds, see `claims`: all, those of few units, those of finite lists.
_TOKENS = (
    'hoeffding', 'freedman', 'log_wealth', 'serfling', 'log_wealth_finite',
)
_SAMPLED = ('hoeffding', 'log_wealth')
_FINITE = ('serfling', 'log_wealth_finite')
# Before the kind of a bound, where whole documents were smoothed.
DOCUMENT = 'document_'
KINDS, SAMPLED_KINDS, FINITE_KINDS = (
    (*kinds, *(f'{DOCUMENT}{kind}' for kind in kinds))
    for kinds in (_TOKENS, _SAMPLED, _FINITE)
)
_CODEBOOKS = ('kmeans', 'uniform', 'step')


@dataclasses.dataclass(frozen=True)
class CertificateConfig:
  """Options of quantisation, code and claims.

  Attributes:
    levels: Numbers of quantiser levels to choose from, each in 2..4096; which
      one was taken is paid for.
    dims: Dims of the parameterisation to choose from, each of which is trained;
      which one was taken is paid for. () takes those of the run.
    codebook: 'kmeans' or 'uniform' (a value for each level), or 'step'
      (multiples of one number).
    scheme: Of the code, one of `code_length.SCHEMES`.
    tuning_steps: Updates of quantisation-aware training after the run; 0 for
      none.
    tuning_rate: Its learning rate, relative to the spread of the values.
    headline: The kind of bound that is meant, one of `KINDS`: the smallest of
      several kinds would hold with less than 1 - delta. The others stand beside
      it for comparison.
    delta: Probability that a claim fails, in (0, 1). Each holds with 1 - delta
      on its own, the top-k errors of one kind all at once; the smallest of
      several kinds of bound costs their sum.
    alphas: Weights of the uniform distribution to choose from, in (0, 1).
    betas: Weights of the uniform distribution over whole documents to choose
      from, in (0, 1); the kinds called after documents are about these losses.
      Where the run added to a published model, they also are weights of that
      model in a claim about the excess over it. () claims neither.
    shortest: Tokens of the shortest document that there can be, fixed before
      the data are seen; a shorter one counts as the largest loss.
    top_k: Sizes of the sets of most likely tokens; () claims no errors.
    sample: Units of the training set that are scored, drawn with replacement;
      None scores all of them, which needs no second bound.
    heldout: Most held-out units that are scored.
    search_bits: log2 of the number of configurations that were tried, this one
      included; rounded up by whoever declares it.
    runs: Codes that were scored on samples of their own and whose best is
      reported; those of other runs and of other options count.
    max_tokens: Most tokens of an evaluation batch; larger ones are slower on a
      CPU.

  Raises:
    ValueError: A value is outside its range; the message names the field.

  Example:
    >>> CertificateConfig(levels=(9, 15, 31)).choice_bits
    1.584962500721156
  """

  levels: tuple[int, ...] = fields.field(
      (15,), low=2, high=4096, distinct=True, least=1,
      allowed='finite, distinct and between 2 and 4096',
  )
  dims: tuple[Any, ...] = fields.field((), distinct=True)
  codebook: str = fields.field('kmeans', choices=_CODEBOOKS)
  scheme: str = fields.field('kt', choices=code_length.SCHEMES)
  tuning_steps: int = fields.field(0, low=0)
  tuning_rate: float = fields.field(0.01, above=0)
  headline: str = fields.field('log_wealth', choices=KINDS)
  delta: float = fields.field(0.05, above=0, below=1)
  alphas: tuple[float, ...] = fields.field(
      smoothing.ALPHAS, above=0, below=1, distinct=True, least=1
  )
  betas: tuple[float, ...] = fields.field((), above=0, below=1, distinct=True)
  shortest: int = fields.field(1, low=1)
  top_k: tuple[int, ...] = fields.field((1, 10), low=1, distinct=True)
  sample: int | None = fields.field(20_000, low=1)
  heldout: int = fields.field(10_000, low=1)
  search_bits: float = fields.field(0.0, low=0)
  runs: int = fields.field(1, low=1)
  max_tokens: int = fields.field(8192, low=1)

  def __post_init__(self):
    fields.check(self)
    if self.sample is not None and self.headline not in SAMPLED_KINDS:
      raise ValueError(
          f'headline={self.headline!r} needs sample=None, all units scored; a'
          f' sample allows {SAMPLED_KINDS}, got sample={self.sample}.'
      )
    if self.headline.startswith(DOCUMENT) and not self.betas:
      raise ValueError(
          f'headline={self.headline!r} needs betas, weights of the uniform'
          ' distribution over whole documents, got ().'
      )

  def num_losses(self, has_base: bool) -> int:
    """Rows of losses: of alphas, of betas, and of betas over a base."""
    # Differences of a sample have no bound here.
    over_base = has_base and self.sample is None
    return len(self.alphas) + len(self.betas) * (2 if over_base else 1)

  @property
  def choice_bits(self) -> float:
    """Price in bits of having chosen among `levels` and `dims`."""
    return math.log2(len(self.levels) * max(1, len(self.dims)))
