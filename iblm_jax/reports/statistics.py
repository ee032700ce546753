"""Means over seeds, their intervals, and comparisons on the same seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

# 95 %: this much of Student's distribution lies below the upper end.
_UPPER = 0.975


def mean_ci(values: Iterable[float]) -> tuple[float, tuple[float, float]]:
  """Computes a mean and its 95 % confidence interval (Student's t).

  The interval is exact for independent normal values. For a few seeds of other
  values it is close, as long as they are not badly skewed.

  Args:
    values: n finite numbers, n >= 1.

  Returns:
    (mean, (low, high)). The interval is (nan, nan) for n = 1, which says
    nothing about the spread.

  Raises:
    ValueError: There is no value, or one is not finite.

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
  """Collects the values of two methods on the seeds that both have.

  Args:
    rows: Rows with 'method', 'seed' and metrics, in any order. A row counts if
      its metric is neither missing nor None nor NaN.

  Returns:
    Two float64 arrays of shape [n], n >= 1, in the order of the seeds.

  Raises:
    ValueError: No seed has both methods, or a method has two rows of a seed.
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
  """Computes the differences method - baseline on the same seeds, see `pairs`.

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
  """Computes the change of a mean in percent, with its 95 % interval.

  It is 100 (mean(method) - mean(baseline)) / abs(mean(baseline)) on the same
  seeds, see `pairs`. The interval is Student's for the linearised ratio (delta
  method), which holds while the mean of the baseline is far from zero compared
  with its spread.

  Returns:
    (percent, (low, high)). The interval is (nan, nan) for one seed, or if the
    interval of the baseline contains zero. All is nan if its mean is zero.
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
  """The 95 % interval around a centre, from the standard error of x's mean."""
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
