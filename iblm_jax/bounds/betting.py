"""Capital of a gambler who bets against losses: the sums behind log-wealth."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from iblm_jax.bounds import _checks

# Numbers (losses times grid) that are multiplied at a time.
_CHUNK = 1 << 17
# Of scaled losses without a smallest one. Larger ones in their place only make
# a bound larger, and products stay in the range of float64.
LOWEST = -1e4


class Curve(NamedTuple):
  """The bound at every t of the grid, before the minimum is taken."""

  t: np.ndarray  # [S] float64
  value: np.ndarray  # [S] float64, unit of the loss


def logistic_grid(reach: float, step: float) -> tuple[float, ...]:
  """Makes the grid 1/(1+e^-u) for u = -reach, -reach+step, ..., reach.

  It is geometric towards 0, where the best t is sqrt(2𝓛/(m Var x)), and
  towards 1.
  Between neighbours the best t is missed by a factor of at most e^(step/2),
  which costs a factor of cosh(step/2) in the excess.

  Both arguments are above 0.

  Example:
    >>> [round(t, 3) for t in logistic_grid(2, 1)]
    [0.119, 0.269, 0.5, 0.731, 0.881]
  """
  reach = _checks.positive('reach', reach)
  step = _checks.positive('step', step)
  count = math.floor(reach / step + 1e-9)
  return tuple(1 / (1 + math.exp(-k * step)) for k in range(-count, count + 1))


def mean_log(
    losses: np.ndarray,
    lo: float,
    width: float,
    grid_S: np.ndarray,
    smallest: float = 0.0,
) -> np.ndarray:
  """mean_i ln(1 - t x_i) for each t, x = (loss - lo)/width in [smallest, 1].

  Factors are multiplied before the logarithm is taken, which saves most of
  its cost; no product leaves the range of float64. `smallest` is at least
  `LOWEST`; what lies outside is clipped.

  Returns:
    [S] float64.
  """
  fold = int(min(64, max(1, 600 / -math.log1p(-grid_S.max()))))
  piece = max(_CHUNK // grid_S.size // fold, 1) * fold
  total_S = np.zeros(grid_S.size)
  for start in range(0, losses.size, piece):
    part = losses[start:start + piece]
    # Zeros at the end add factors of 1.
    x = np.zeros(-(-part.size // fold) * fold)
    x[:part.size] = part
    x[:part.size] = ((x[:part.size] - lo) / width).clip(smallest, 1)
    factors = 1 - grid_S[:, None, None] * x.reshape(fold, -1)
    total_S += np.log(factors.prod(axis=1)).sum(axis=1)
  return total_S / losses.size


def solve(
    growth: ArrayLike, t: ArrayLike, lo: float, width: float, penalty: float
) -> Curve:
  """The bound a + (Δ/t)[1 - exp(growth - penalty)] at each t.

  Args:
    growth: [S] or scalar, mean of ln(1 - t x).
    t: [S] or scalar, in (0, 1).
    lo, width: See the package.
    penalty: 𝓛/m, in nats a unit.
  """
  t = np.asarray(t, np.float64)
  return Curve(t, lo - width / t * np.expm1(np.asarray(growth) - penalty))


def check_losses(
    losses: np.ndarray, lo: float, width: float, bounded_below: bool = True
) -> np.ndarray:
  """`losses` as a vector, if each lies in [lo, lo + width] up to rounding."""
  x = _checks.vector('losses', losses)
  lo = _checks.number('lo', lo)
  width = _checks.positive('width', width)
  # Losses are often computed in float32.
  slack = 1e-5 * max(width, abs(lo))
  low, high = float(x.min()), float(x.max())
  if (bounded_below and low < lo - slack) or high > lo + width + slack:
    raise ValueError(
        f'losses must lie in [lo, lo + width] = [{lo:g}, {lo + width:g}], got'
        f' values from {low:g} to {high:g}.'
        if bounded_below
        else f'losses must be at most lo + width = {lo + width:g}, got'
        f' {high:g}.'
    )
  return x
