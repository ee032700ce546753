"""Bounds on the mean over a finite list of which a random part was seen.

The bounds for independent units hold for units drawn without replacement too,
but they waste the better part: of the mean over all N units the share m/N is
known exactly, and each draw tells about those that are left. Let μ_i be the
mean of what is left before draw i, a function of the mean R over all units and
of the draws before. A gambler who bets the share t_i against it holds

  W(R) = Π_i (1 - t_i x_i) / (1 - t_i μ_i),  μ_i = (N R - Σ_{j<i} x_j)/(N-i+1),

which is a martingale with mean 1 at the true R, whatever t_i the past decides
(arXiv 2006.04347, section 3). It increases in R, so by Markov's inequality all
R with W(R) >= e^𝓛 are ruled out. Shares grow as units run out,

  t_i = κ / (κ + (N-i+1)/N),

which for losses of small variance gives R̂ + sqrt(2 (1 - m/N) Var 𝓛/m): the
finite-population factor and the variance at once.

A penalty of any size leaves the arithmetic bound: units that were not seen lose
at most the largest possible loss. Where most of a list was seen, that alone
says much; see `counting_bound` and `unseen_risk`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from iblm_jax.bounds import _checks, betting
from iblm_jax.bounds.bound import Bound, code_penalty

# 33 first shares from 0.0003 to 0.9997; price ln 33 = 3.50 nats. A coarser grid
# than that of logwealth: each value costs a pass over all losses, and missing
# the best share by a factor of 1.28 costs 3 % of the excess.
GRID_FINITE = betting.logistic_grid(8, 0.5)
_MAX_NEWTON = 100


def occam_logwealth_finite(
    losses: np.ndarray,
    lo: float,
    width: float,
    K_bits: float,
    population: int,
    delta: float,
    grid: Sequence[float] | None = None,
    *,
    n_alpha: int = 1,
    bounded_below: bool = True,
) -> Bound:
  """Computes the log-wealth bound on the mean over a finite population.

  Args:
    losses: [m] losses of the units that were drawn, in the order in which they
      were drawn (or any other that does not depend on what they are), each in
      [lo, lo + width].
    population: Number of units in all (N), at least m.
    grid: Values of the share t_1 of the first bet, distinct, in (0, 1), fixed
      before the data were seen; None for `GRID_FINITE`. Costs ln(length) nats.
    bounded_below: As for `occam_logwealth`.
    lo, width, K_bits, delta, n_alpha: See the package.

  Returns:
    A `Bound` on the mean over all N units, drawn ones included, with terms
    `empirical` (the mean over the m), `variance` (what the logarithm costs
    because losses differ; may be below 0 by chance of the order) and
    `complexity`; `chosen['t']`. Never above `counting_bound`.

  Example:
    >>> losses = [0.2] * 50 + [0.4] * 30 + [0.9] * 20
    >>> drawn = np.random.default_rng(0).permutation(losses)
    >>> bound = occam_logwealth_finite(drawn, 0.0, 1.0, 8, 110, 0.05)
    >>> print(f'{bound:.4f}, counting {counting_bound(0.4, 100, 110, 1.0):.4f}')
    0.4460, counting 0.4545
  """
  x = betting.check_losses(losses, lo, width, bounded_below)
  size = _checks.integer('population', population, x.size)
  grid_S = _checks.grid('grid', GRID_FINITE if grid is None else grid)
  nats = code_penalty(K_bits, n_alpha, delta, grid_S.size)
  lowest = 0.0 if bounded_below else betting.LOWEST
  scaled = ((x.astype(np.float64) - lo) / width).clip(lowest, 1)
  draws = _Draws(scaled, np.cumsum(scaled) - scaled, size)
  penalty = math.fsum(nats.values())
  most = counting_bound(float(scaled.mean()), x.size, size, 1.0)
  best, chosen = most, float(grid_S[0])
  for t in grid_S:
    value = _solve(draws, t, penalty, best)
    if value < best:
      best, chosen = value, float(t)
  mean = float(scaled.mean())
  free = min(best, _solve(draws, chosen, 0.0, best))
  terms = {
      'empirical': lo + width * mean,
      'variance': width * (free - mean),
      'complexity': width * (best - free),
  }
  return Bound.of_terms(terms, nats, {'t': chosen})


def occam_serfling(
    risk: float,
    K_bits: float,
    m: int,
    population: int,
    delta_width: float,
    delta: float,
    *,
    n_alpha: int = 1,
) -> Bound:
  """Computes Serfling's bound on the mean over a finite population.

  R <= R̂ + Δ sqrt((1 - (m-1)/N) (K ln 2 + ln(n_alpha/δ)) / (2m)), which is
  Hoeffding's bound with the factor that Serfling (1974, Annals of Statistics
  2(1), corollary 1.1) found for draws without replacement.

  Args:
    risk: Mean loss over the m units that were drawn (R̂).
    population: Number of units in all (N), at least m.
    K_bits, m, delta_width, delta, n_alpha: See the package.

  Returns:
    A `Bound` on the mean over all N units, with terms `empirical` and
    `complexity`.

  Example:
    >>> round(occam_serfling(0.4, 1000, 100_000, 110_000, 1.0, 0.05), 6)
    0.417789
  """
  risk, m = _checks.number('risk', risk), _checks.integer('m', m)
  size = _checks.integer('population', population, m)
  width = _checks.positive('delta_width', delta_width)
  nats = code_penalty(K_bits, n_alpha, delta)
  share = 1 - (m - 1) / size
  deviation = math.sqrt(share * math.fsum(nats.values()) / (2 * m))
  terms = {'empirical': risk, 'complexity': width * deviation}
  return Bound.of_terms(terms, nats)


def counting_bound(
    risk: float, m: int, population: int, largest: float
) -> float:
  """Bounds the mean over a finite population without a code, by counting.

  R <= (m/N) R̂ + (1 - m/N) largest, which no draw can make fail: the m units
  that were seen have the mean R̂, and all others lose at most `largest`.

  Args:
    risk: Mean loss over the m units that were drawn (R̂).
    population: Number of units in all (N), at least m.
    largest: Largest possible loss of a unit.

  Example:
    >>> counting_bound(2.0, 75, 100, 8.0)
    3.5
  """
  m = _checks.integer('m', m)
  size = _checks.integer('population', population, m)
  return (
      m * _checks.number('risk', risk)
      + (size - m) * _checks.number('largest', largest)
  ) / size


def unseen_risk(bound: float, risk: float, m: int, population: int) -> float:
  """Turns a bound on the mean over all units into one over those not drawn.

  It is (N R - m R̂) / (N - m), and holds whenever the bound on the mean over all
  units does, at no further price.

  Args:
    bound: A bound on the mean over all N units.
    risk: Mean loss over the m units that were drawn (R̂).
    population: Number of units in all (N), more than m.

  Example:
    >>> unseen_risk(3.5, 2.0, 75, 100)
    8.0
  """
  m = _checks.integer('m', m)
  size = _checks.integer('population', population, m + 1)
  total = size * _checks.number('bound', bound)
  return (total - m * _checks.number('risk', risk)) / (size - m)


class _Draws(NamedTuple):
  """Losses in [0, 1] in the order of drawing, and the sums before each."""

  x: np.ndarray
  before: np.ndarray
  size: int


def _shares(t: float, m: int, size: int) -> np.ndarray:
  """t_i of the bets, of which the first is t: float64 [m]."""
  odds = t / (1 - t)
  left = (size - np.arange(m)) / size
  return odds / (odds + left)


def log_wealth(draws: _Draws, t: float, mean: float) -> tuple[float, float]:
  """Computes ln W at a mean over the population, and its derivative."""
  m = draws.x.size
  t_m = _shares(t, m, draws.size)
  left_m = draws.size - np.arange(m)
  keeps_m = 1 - t_m * (draws.size * mean - draws.before) / left_m
  value = np.log1p(-t_m * draws.x).sum() - np.log(keeps_m).sum()
  slope = (t_m * draws.size / (left_m * keeps_m)).sum()
  return float(value), float(slope)


def _solve(draws: _Draws, t: float, penalty: float, start: float) -> float:
  """The mean at which ln W is `penalty`; `start` if that is higher.

  ln W is convex and increases, so Newton's steps come down from above and each
  of them is a bound.
  """
  mean = start
  for _ in range(_MAX_NEWTON):
    value, slope = log_wealth(draws, t, mean)
    step = (value - penalty) / slope
    if step <= 1e-14:
      break
    mean -= step
  return mean
