"""Means over seeds, their intervals, and comparisons on the same seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

# 95 %: this much of Student's distribution lies below the upper end.
_UPPER = 0.975


def mean_ci(values: Iterable[float]) -> tuple[float, tuple[float, float]]:
  """Mean and 95 % confidence interval of the mean (Student's t).

  Exact for independent normal values; a few seeds of anything else are close
  to it as long as they are not badly skewed.

  Args:
    values: n finite numbers, n >= 1.

  Returns:
    (mean, (low, high)); the interval is (nan, nan) for n = 1, which says
    nothing about the spread.

  Raises:
    ValueError: If there is no value, or one is not finite.

  >>> mean, (low, high) = mean_ci([1.0, 2.0, 3.0])
  >>> f'{mean:.1f} [{low:.3f}, {high:.3f}]'
  '2.0 [-0.484, 4.484]'
  """
  x_N = np.asarray(list(values), np.float64)
  if x_N.ndim != 1 or not x_N.size:
    raise ValueError(f'values must be at least one number, got {x_N.shape=}.')
  if not np.isfinite(x_N).all():
    raise ValueError(f'values must be finite, got {x_N.tolist()}.')
  mean = float(x_N.mean())
  return mean, _interval(mean, x_N)


def pairs(
    rows: Sequence[Mapping[str, Any]], metric: str, method: str, baseline: str
) -> tuple[np.ndarray, np.ndarray]:
  """Values of two methods on the seeds that both have.

  Args:
    rows: Each with 'method', 'seed' and metrics, in any order.
    metric: To compare; rows where it is missing, None or NaN do not count.

  Returns:
    Two float64 arrays of shape [n], n >= 1, in the order of the seeds.

  Raises:
    ValueError: If no seed has both, or a method has two rows of a seed.
  """
  method_values = _by_seed(rows, metric, method)
  baseline_values = _by_seed(rows, metric, baseline)
  seeds = sorted(method_values.keys() & baseline_values.keys())
  if not seeds:
    raise ValueError(
        f'no seed has {metric!r} of both {method!r} (seeds'
        f' {sorted(method_values)}) and {baseline!r} (seeds'
        f' {sorted(baseline_values)}).'
    )
  return (
      np.asarray([method_values[seed] for seed in seeds], np.float64),
      np.asarray([baseline_values[seed] for seed in seeds], np.float64),
  )


def paired(
    rows: Sequence[Mapping[str, Any]], metric: str, method: str, baseline: str
) -> list[float]:
  """Differences method - baseline on the same seeds, see `pairs`.

  Returns:
    One difference per seed that both have, in the order of the seeds.

  >>> rows = [
  ...     {'method': 'ce', 'seed': 0, 'loss': 2.0},
  ...     {'method': 'ce', 'seed': 1, 'loss': 5.0},
  ...     {'method': 'gapt', 'seed': 1, 'loss': 4.5},
  ...     {'method': 'gapt', 'seed': 0, 'loss': 1.75},
  ... ]
  >>> paired(rows, 'loss', 'gapt', 'ce')
  [-0.25, -0.5]
  """
  values_N, baseline_N = pairs(rows, metric, method, baseline)
  return (values_N - baseline_N).tolist()


def relative_ci(
    rows: Sequence[Mapping[str, Any]], metric: str, method: str, baseline: str
) -> tuple[float, tuple[float, float]]:
  """Change of the mean in percent of the baseline's, with its 95 % interval.

  100 (mean(method) - mean(baseline)) / |mean(baseline)| on the same seeds, see
  `pairs`. The interval is Student's for the linearised ratio (delta method),
  which holds while the baseline's mean is far from zero against its own spread.

  Returns:
    (percent, (low, high)). The interval is (nan, nan) for one seed and where
    the baseline's own interval holds zero; all is nan where its mean is zero.
  """
  values_N, baseline_N = pairs(rows, metric, method, baseline)
  mean, (low, high) = mean_ci(baseline_N)
  if mean == 0:
    return math.nan, (math.nan, math.nan)
  ratio = float(values_N.mean()) / mean
  percent = 100 * math.copysign(1, mean) * (ratio - 1)
  if not (low > 0 or high < 0):
    return percent, (math.nan, math.nan)
  residual_N = 100 * (values_N - ratio * baseline_N) / mean
  return percent, _interval(percent, residual_N)


def _interval(centre: float, x_N: np.ndarray) -> tuple[float, float]:
  """95 % around a centre whose standard error is that of the mean of x."""
  if x_N.size == 1:
    return math.nan, math.nan
  error = x_N.std(ddof=1) / math.sqrt(x_N.size)
  half = float(special.stdtrit(x_N.size - 1, _UPPER) * error)
  return centre - half, centre + half


def _by_seed(rows, metric: str, method: str) -> dict[int, float]:
  values, seeds = {}, set()
  for row in rows:
    if row['method'] != method:
      continue
    if row['seed'] in seeds:
      raise ValueError(f'{method!r} has two rows of seed {row["seed"]}.')
    seeds.add(row['seed'])
    value = row.get(metric)
    if value is not None and not math.isnan(value):
      values[row['seed']] = float(value)
  return values
