"""Occam bounds with Hoeffding's inequality, and the budget that they leave.

Every model that a code of K bits describes gets prior mass 2^-K. By Kraft's
inequality the masses sum to at most 1, so with probability 1-δ the bound holds
for all models at once: the one it is applied to may depend on the data in any
way. What may not depend on the data is the code itself (architecture, seeds,
formats, grids).

Sources: arXiv 2312.17173, sections 3 and 4. Arguments that the bounds share are
explained in the documentation of the package.
"""

import math

from iblm_jax.bounds import _checks, smoothing
from iblm_jax.bounds.bound import Bound, code_penalty, draw_penalty


def occam_hoeffding(
    risk: float,
    K_bits: float,
    m: int,
    delta_width: float,
    delta: float,
    *,
    n_alpha: int = 1,
) -> Bound:
  """Bounds the risk of a coded model (Hoeffding, Occam).

  R <= R̂ + Δ sqrt((K ln 2 + ln(n_alpha/δ)) / (2m)) for all models at once.

  Args:
    risk: Mean loss over all m units (R̂).
    K_bits, m, delta_width, delta, n_alpha: See the package. The number of runs
      needs no price here: their codes differ.

  Returns:
    A `Bound` with terms `empirical` and `complexity`.

  Example:
    >>> round(occam_hoeffding(0.4, 1000, 100_000, 1.0, 0.05), 10)
    0.458997581
  """
  risk = _checks.number('risk', risk)
  m = _checks.integer('m', m)
  width = _checks.positive('delta_width', delta_width)
  nats = code_penalty(K_bits, n_alpha, delta)
  terms = {'empirical': risk, 'complexity': width * _deviation(nats, m)}
  return Bound.of_terms(terms, nats)


def occam_subsample_ref(
    risk: float,
    K_bits: float,
    m: int,
    n: int,
    delta_width: float,
    delta: float,
) -> Bound:
  """Computes the subsampled bound as the paper's public code does.

  It is valid for one loss and one run that were fixed beforehand, and is there
  for comparison. Of δ, the share n/(n+m) pays for the code and the rest for the
  draw. For arguments and result see `occam_subsample`.

  Example:
    >>> round(occam_subsample_ref(0.4, 1000, 100_000, 1000, 1.0, 0.05), 10)
    0.4979593191
  """
  delta = _checks.probability('delta', delta)
  m, n = _checks.integer('m', m), _checks.integer('n', n)
  share = n / (n + m)
  return occam_subsample(
      risk, K_bits, m, n, delta_width, share * delta, (1 - share) * delta, 1
  )


def occam_subsample(
    risk: float,
    K_bits: float,
    m: int,
    n: int,
    delta_width: float,
    delta1: float,
    delta2: float,
    n_alpha: int,
    n_runs: int = 1,
) -> Bound:
  """Computes the subsampled bound, with every union paid for.

  R <= R̂_n + Δ sqrt((K ln 2 + ln(n_alpha/δ1)) / (2m))
           + Δ sqrt(ln(n_alpha n_runs/δ2) / (2n)).

  Args:
    risk: Mean loss over n units drawn uniformly out of the m, with or without
      replacement, after the model was fixed (R̂_n).
    n: Number of units drawn.
    K_bits, m, delta_width, delta1, delta2, n_alpha, n_runs: See the package.

  Returns:
    A `Bound` with terms `empirical`, `complexity` and `resampling`.

  Example:
    >>> bound = occam_subsample(
    ...     2.0, 2029, 1_000_000, 20_000, 9.005625, 0.025, 0.025, 8)
    >>> round(bound, 6)
    2.347445
  """
  risk = _checks.number('risk', risk)
  m, n = _checks.integer('m', m), _checks.integer('n', n)
  width = _checks.positive('delta_width', delta_width)
  delta1, delta2 = check_split(delta1, delta2)
  code = code_penalty(K_bits, n_alpha, delta1)
  draw = draw_penalty(n_alpha, n_runs, delta2)
  terms = {
      'empirical': risk,
      'complexity': width * _deviation(code, m),
      'resampling': width * _deviation(draw, n),
  }
  return Bound.of_terms(terms, {**code, **draw})


def max_code_bits(
    V: int,
    alpha: float,
    risk: float,
    m: int,
    n: int,
    delta1: float,
    delta2: float,
    *,
    n_alpha: int = len(smoothing.ALPHAS),
    n_runs: int = 1,
) -> float:
  """Computes how long a code may be before `occam_subsample` says nothing.

  Args:
    V: Size of the vocabulary, at least 2; guessing costs log2 V bits a token.
    alpha: Weight of the uniform distribution in the predictions, in (0, 1).
    risk: Mean loss over the subsample that a model is hoped to have, in bits.
    m, n, delta1, delta2, n_alpha, n_runs: As for `occam_subsample`; the default
      grid of alphas has eight.

  Returns:
    Bits, header and search included: the bound is below log2 V if and only if
    K is below this. 0 where no code is short enough.

  Example:
    >>> round(max_code_bits(27, 0.05, 2.5, 100_000, 20_000, 0.025, 0.025), 2)
    16387.63
  """
  width = smoothing.smooth_range(alpha, V).delta
  free = occam_subsample(
      risk, 0, m, n, width, delta1, delta2, n_alpha, n_runs
  )
  gap = math.log2(V) - free.terms['empirical'] - free.terms['resampling']
  if gap <= 0:
    return 0.0
  others = free.nats['losses'] + free.nats['confidence']
  nats = 2 * int(m) * (gap / width) ** 2 - others
  return max(nats / math.log(2), 0.0)


def check_split(delta1: float, delta2: float) -> tuple[float, float]:
  """Both parts of δ as floats, if they and their sum are in (0, 1)."""
  delta1 = _checks.probability('delta1', delta1)
  delta2 = _checks.probability('delta2', delta2)
  _checks.probability('delta1 + delta2', delta1 + delta2)
  return delta1, delta2


def _deviation(nats, count):
  return math.sqrt(math.fsum(nats.values()) / (2 * count))
