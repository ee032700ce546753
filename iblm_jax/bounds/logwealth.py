"""Log-wealth Occam bounds: as tight as the losses are alike.

A gambler who bets a share t against a loss x in [0, 1] keeps 1 - t x of what a
fair bet would be worth 1 - t E[x]. The product over units of the ratio has mean
1, so it exceeds e^𝓛 with probability at most e^-𝓛 (Markov), and solved for E[x]
that is, for each t in a finite grid S,

  R <= a + (Δ/t) [1 - exp(mean_i ln(1 - t x_i) - 𝓛/m)],  x = (loss - a)/Δ.

Losses of small variance get about R̂ + sqrt(2 Var 𝓛/m) whatever Δ is; losses in
{0, 1} get the kl-inverse bound. The proof needs E[Π(1-t x_i)] <= Π(1-t E x_i):

* independent units: equality;
* units drawn without replacement: Maclaurin's inequality for the elementary
  symmetric means of the numbers 1 - t x;
* tokens of one stream, each with its own conditional mean: a martingale, and
  Jensen's inequality; R is then the mean of the conditional risks along the
  training stream and says nothing of fresh documents.

Related to coin-betting bounds (arXiv 2302.05829) and to the empirical Freedman
inequality (arXiv 2504.15208), which at s = t / (1 - t y) is never below it for
a constant centre y: ln z <= z - 1.
"""

import math
from collections.abc import Sequence

import numpy as np

from iblm_jax.bounds import _checks, betting, occam
from iblm_jax.bounds.bound import Bound, code_penalty, draw_penalty

# 57 values from 0.0009 to 0.9991; price ln 57 = 4.04 nats, under 1 % of any
# code of 600 bits, and at most 0.8 % of the excess lost between neighbours.
GRID_T = betting.logistic_grid(7, 0.25)
# 17 values from 0.018 to 0.982; price ln 17 = 2.83 nats. No code is paid for in
# the second draw, so a finer grid would cost more than it finds.
GRID_S = betting.logistic_grid(4, 0.5)


def occam_logwealth(
    losses: np.ndarray,
    lo: float,
    width: float,
    K_bits: float,
    m: int,
    delta: float,
    grid: Sequence[float] | None = None,
    *,
    n_alpha: int = 1,
    bounded_below: bool = True,
) -> Bound:
  """Computes the log-wealth bound from the losses of all m units.

  Args:
    losses: [m] losses, each in [lo, lo + width]; any real dtype. They are read
      in pieces, so float32 losses of 10^8 tokens need no copy.
    m: Number of units, the length of `losses`.
    grid: Values of t to try, distinct, in (0, 1), fixed before the data were
      seen; None for `GRID_T`. Costs ln(length) nats.
    bounded_below: False allows losses below `lo` too. The proof needs only that
      1 - t x > 0; `lo` and `width`, fixed before the data were seen, then say
      with lo + width how large a loss can be, and with width about how large
      differences are.
    lo, width, K_bits, delta, n_alpha: See the package.

  Returns:
    A `Bound` with terms `empirical` (the mean), `variance` (what the logarithm
    costs because losses differ) and `complexity`; `chosen['t']`.

  Example:
    >>> losses = [0.2] * 50 + [0.4] * 30 + [0.9] * 20
    >>> bound = occam_logwealth(
    ...     losses, 0.0, 1.0, 8, 100, 0.05, [0.1, 0.3, 0.5, 0.7, 0.9])
    >>> round(bound, 10), bound.chosen
    (0.5395568564, {'t': 0.7})
  """
  x = betting.check_losses(losses, lo, width, bounded_below)
  m = _checks.integer('m', m)
  if m != x.size:
    raise ValueError(
        f'm must be the number of losses, {x.size}, got {m}; for fewer losses'
        ' than units use occam_logwealth_subsample.'
    )
  grid_S = _checks.grid('grid', GRID_T if grid is None else grid)
  nats = code_penalty(K_bits, n_alpha, delta, grid_S.size)
  lowest = 0.0 if bounded_below else betting.LOWEST
  growth_S = betting.mean_log(x, lo, width, grid_S, lowest)
  penalty = math.fsum(nats.values()) / m
  curve = betting.solve(growth_S, grid_S, lo, width, penalty)
  best = int(np.argmin(curve.value))
  t = grid_S[best]
  free = float(betting.solve(growth_S[best], t, lo, width, 0.0).value)
  mean = float(np.mean(x, dtype=np.float64))
  terms = {
      'empirical': mean,
      'variance': free - mean,
      'complexity': curve.value[best] - free,
  }
  return Bound(curve.value[best], terms, nats, {'t': t})


def occam_logwealth_subsample(
    losses: np.ndarray,
    lo: float,
    width: float,
    K_bits: float,
    m: int,
    delta1: float,
    delta2: float,
    grid_t: Sequence[float] | None = None,
    grid_s: Sequence[float] | None = None,
    n_alpha: int = 1,
    n_runs: int = 1,
) -> Bound:
  """Computes the log-wealth bound from the losses of n of the m units.

  For each t, the mean over all m units of y = -ln(1 - t x) is bounded from the
  n draws by the same inequality with a second grid, and put into the first.

  Args:
    losses: [n] losses of units drawn uniformly out of the m, with or without
      replacement, after the model was fixed; each in [lo, lo + width].
    m: Number of independent units, whatever n is.
    grid_t: Values of t to try; None for `GRID_T`. Costs ln(length) nats twice.
    grid_s: Values of the second parameter; None for `GRID_S`. Costs ln(length)
      nats in the second draw.
    lo, width, K_bits, delta1, delta2, n_alpha, n_runs: See the package.

  Returns:
    A `Bound` with terms `empirical` (the mean of the draws), `variance`,
    `resampling` and `complexity`; `chosen['t']` and `chosen['s']`.

  Example:
    >>> losses = [0.2] * 50 + [0.4] * 30 + [0.9] * 20
    >>> bound = occam_logwealth_subsample(
    ...     losses, 0.0, 1.0, 8, 10_000, 0.025, 0.025,
    ...     [0.1, 0.3, 0.5, 0.7, 0.9], [0.5, 0.8, 0.95])
    >>> round(bound, 10), bound.chosen['t']
    (0.5230995357, 0.1)
  """
  x = betting.check_losses(losses, lo, width)
  m = _checks.integer('m', m)
  delta1, delta2 = occam.check_split(delta1, delta2)
  grid_T = _checks.grid('grid_t', GRID_T if grid_t is None else grid_t)
  grid_S = _checks.grid('grid_s', GRID_S if grid_s is None else grid_s)
  code = code_penalty(K_bits, n_alpha, delta1, grid_T.size)
  draw = draw_penalty(n_alpha, n_runs, delta2, grid_T.size * grid_S.size)
  growth_T, s_T = _growth_of_all(
      x, lo, width, grid_T, grid_S, math.fsum(draw.values()) / x.size
  )
  penalty = math.fsum(code.values()) / m
  curve = betting.solve(growth_T, grid_T, lo, width, penalty)
  best = int(np.argmin(curve.value))
  t = grid_T[best]
  drawn = float(betting.mean_log(x, lo, width, grid_T[best:best + 1])[0])
  seen = float(betting.solve(drawn, t, lo, width, 0.0).value)
  whole = float(betting.solve(growth_T[best], t, lo, width, 0.0).value)
  mean = float(np.mean(x, dtype=np.float64))
  terms = {
      'empirical': mean,
      'variance': seen - mean,
      'resampling': whole - seen,
      'complexity': curve.value[best] - whole,
  }
  chosen = {'t': t, 's': s_T[best]}
  return Bound(curve.value[best], terms, {**code, **draw}, chosen)


def _growth_of_all(x, lo, width, grid_T, grid_S, penalty):
  """Lower bounds on the mean over all units of ln(1 - t x), and the best s."""
  growth_T, s_T = np.empty(grid_T.size), np.empty(grid_T.size)
  scaled = np.clip((x.astype(np.float64) - lo) / width, 0, 1)
  for i, t in enumerate(grid_T):
    y = -np.log1p(-t * scaled)
    largest = -math.log1p(-t)
    inner = betting.mean_log(y, 0.0, largest, grid_S)
    curve = betting.solve(inner, grid_S, 0.0, largest, penalty)
    best = int(np.argmin(curve.value))
    growth_T[i], s_T[i] = -curve.value[best], grid_S[best]
  return growth_T, s_T
