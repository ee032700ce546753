"""Bounds for losses in [0, 1] through the relative entropy of two coins.

They are Chernoff's inequality for one model and one side, then the union over
codes, so no term for the number of units is inside the logarithm. Sources:
Langford and Caruana, (Not) bounding the true error; Catoni, arXiv 0712.0248.
"""

import math

from iblm_jax.bounds import _checks
from iblm_jax.bounds.bound import Bound, code_penalty


def kl_inverse(q: float, c: float) -> float:
  """Finds the largest p with kl(q, p) = q ln(q/p) + (1-q) ln((1-q)/(1-p)) <= c.

  Args:
    q: Observed mean, in [0, 1].
    c: Allowed divergence in nats, at least 0.

  Returns:
    p in [q, 1], rounded up within a few units of the last place.

  Example:
    >>> round(kl_inverse(0.1, 0.05), 10)
    0.2200786011
  """
  q = _checks.number('q', q, 0.0, 1.0)
  c = _checks.number('c', c, 0.0)
  if c == 0:
    return q
  # In terms of the gap, so that small divergences do not cancel away.
  low, high = 0.0, 1.0 - q
  while True:
    middle = (low + high) / 2
    if not low < middle < high:
      return min(q + high, 1.0)
    if _kl_of_gap(q, middle) <= c:
      low = middle
    else:
      high = middle


def occam_kl(
    risk01: float, K_bits: float, m: int, delta: float, *, n_alpha: int = 1
) -> Bound:
  """Bounds a risk in [0, 1] by the inverse of the binary kl divergence.

  R <= kl_inverse(R̂, (K ln 2 + ln(n_alpha/δ)) / m) for all models at once.
  It is never above `occam_hoeffding`, and far below where the risk is near 0
  or 1.

  Args:
    risk01: Mean over all m units of a loss in [0, 1]. For a loss in [a, a+Δ]
      give (loss - a) / Δ.
    K_bits, m, delta, n_alpha: See the package.

  Returns:
    A `Bound` in [risk01, 1] with terms `empirical` and `complexity`.

  Example:
    >>> round(occam_kl(0.4, 1000, 100_000, 0.05), 10)
    0.458532983
  """
  risk, m, nats = _penalty(risk01, K_bits, m, delta, n_alpha)
  value = kl_inverse(risk, math.fsum(nats.values()) / m)
  return Bound(value, {'empirical': risk, 'complexity': value - risk}, nats)


def catoni(
    risk01: float,
    K_bits: float,
    m: int,
    delta: float,
    gamma: float | None = None,
    *,
    n_alpha: int = 1,
) -> Bound:
  """Computes Catoni's bound (1 - exp(-(γ/m) R̂ - 𝓛/m)) / (1 - exp(-γ/m)).

  𝓛 = K ln 2 + ln(n_alpha/δ). Its minimum over γ is the kl-inverse bound, which
  holds by itself, so for a single model (as opposed to a posterior) the best γ
  may be picked after seeing the data without paying for it.

  Args:
    risk01: Mean over all m units of a loss in [0, 1].
    gamma: Inverse temperature, > 0; None for the best.
    K_bits, m, delta, n_alpha: See the package.

  Returns:
    A `Bound` with terms `empirical` and `complexity`, and `chosen['gamma']`,
    which is inf where the best value is the limit 1.

  Example:
    >>> round(catoni(0.4, 1000, 100_000, 0.05, gamma=1e4), 10)
    0.4820781527
  """
  risk, m, nats = _penalty(risk01, K_bits, m, delta, n_alpha)
  penalty = math.fsum(nats.values()) / m
  if gamma is None:
    # The derivative vanishes where exp(γ/m) is the odds ratio of p and q, at
    # p the kl-inverse itself; the value there is p.
    p = kl_inverse(risk, penalty)
    odds = p * (1 - risk)
    others = risk * (1 - p)
    slope = math.log(odds / others) if others > 0 else math.inf
    value = p
  else:
    slope = _checks.positive('gamma', gamma) / m
    value = math.expm1(-slope * risk - penalty) / math.expm1(-slope)
  terms = {'empirical': risk, 'complexity': value - risk}
  return Bound(value, terms, nats, {'gamma': slope * m})


def _penalty(risk01, K_bits, m, delta, n_alpha):
  risk = _checks.number('risk01', risk01, 0.0, 1.0)
  return risk, _checks.integer('m', m), code_penalty(K_bits, n_alpha, delta)


def _kl_of_gap(q, gap):
  """kl(q, q + gap) for 0 < gap < 1 - q."""
  below = -q * math.log1p(gap / q) if q > 0 else 0.0
  # 1 - q - gap can round to 0 just under the upper end.
  rest = gap / (1 - q)
  return below - (1 - q) * math.log1p(-rest) if rest < 1 else math.inf
