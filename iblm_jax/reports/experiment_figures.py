"""Figures of experiments over seeds; needs matplotlib (extra `plot`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iblm_jax.reports import annotations, figures, statistics

_MARKERS = 'osD^vPX*'
_NO_LABELS: Mapping[str, str] = {}


@figures.styled
def interval_figure(
    results: Mapping[str, Any],
    metrics: Sequence[str],
    methods: Sequence[str],
    labels: Mapping[str, str] = _NO_LABELS,
) -> Any:
  """Draws mean, 95 % interval and single seeds, with a panel for each metric.

  Args:
    results: The content of results.json.
    metrics: At least one metric; up to three panels are side by side.
    labels: Names of metrics and methods in the figure. Without one, a metric or
      a method has its own name.

  Returns:
    A matplotlib figure.
  """
  columns = 2 if len(metrics) == 4 else min(len(metrics), 3)
  rows = math.ceil(len(metrics) / columns)
  figure, axes = figures.subplots(
      rows,
      columns,
      figsize=(1.6 + 3.1 * columns, rows * (1.0 + 0.42 * len(methods))),
      sharey=True,
  )
  for axis in axes.flat[len(metrics) :]:
    axis.set_visible(False)
  for metric, axis in zip(metrics, axes.flat, strict=False):
    for place, (method, colour) in enumerate(figures.coloured(methods)):
      seeds = _finite(
          row.get(metric) for row in results['rows'] if row['method'] == method
      )
      # Beside the interval, not under it, so that both can be read.
      axis.plot(
          seeds, np.full(len(seeds), place + 0.22), 'o', color=colour,
          alpha=0.35, markersize=4, markeredgewidth=0,
      )
      entry = results['summary'].get(method, {}).get(metric)
      if entry:
        mean, error = _mean_error(entry)
        axis.errorbar(
            mean, place, xerr=error, fmt='o', color=colour, capsize=3,
            markersize=6,
        )
    axis.set_title(labels.get(metric, metric))
    axis.grid(False, axis='y')
    axis.locator_params(axis='x', nbins=5)
    axis.set_yticks(
        range(len(methods)), [labels.get(method, method) for method in methods]
    )
    axis.set_ylim(len(methods) - 0.4, -0.6)
  return figure


@figures.styled
def pareto_figure(
    points: Mapping[str, Sequence[Mapping[str, Any]]],
    x: str,
    y: str,
    labels: Mapping[str, str] = _NO_LABELS,
    joined: bool = True,
) -> Any:
  """Draws two metrics of families of methods that have a parameter.

  Args:
    points: The points of each family along its parameter, each with 'knob' (the
      value of the parameter, or None) and both metrics, which are numbers or
      entries of a summary ('mean', 'ci95').

  Returns:
    A matplotlib figure with a colour for each family and the parameter beside
    each point. The horizontal axis is logarithmic if the metric spans a factor
    of 30.
  """
  figure, axes = figures.subplots(1, 1, figsize=(7.5, 5.2))
  axis = axes[0, 0]
  marks, across = [], []
  for index, (family, colour) in enumerate(figures.coloured(list(points))):
    xs, x_errors = _errors(point[x] for point in points[family])
    ys, y_errors = _errors(point[y] for point in points[family])
    axis.errorbar(
        xs, ys, xerr=x_errors, yerr=y_errors, color=colour, capsize=2,
        marker=_MARKERS[index % len(_MARKERS)], markersize=6,
        linewidth=1.2 if joined else 0.0,
        elinewidth=0.8, label=labels.get(family, family),
    )
    across += list(xs)
    for point, place in zip(points[family], zip(xs, ys, strict=True),
                            strict=True):
      knob = point.get('knob')
      if knob is not None:
        text = knob if isinstance(knob, str) else f'{knob:g}'
        marks.append((text, place, colour))
  axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y))
  if 0 < 30 * min(across, default=0) <= max(across, default=0):
    axis.set_xscale('log')
  axis.legend()
  annotations.annotate(figure, axis, marks)
  return figure


@figures.styled
def layers_figure(
    results: Mapping[str, Any],
    prefix: str,
    methods: Sequence[str],
    labels: Mapping[str, str] = _NO_LABELS,
) -> Any:
  """Draws mean and 95 % interval of a metric by layer, with a line per method.

  Returns:
    A matplotlib figure.

  Raises:
    ValueError: No method has such metrics.
  """
  figure, axes = figures.subplots(1, 1, figsize=(7.5, 4.0))
  axis, start, drawn = axes[0, 0], f'{prefix}/layer_', False
  for index, (method, colour) in enumerate(figures.coloured(methods)):
    summary = results['summary'].get(method, {})
    names = sorted(name for name in summary if name.startswith(start))
    if not names:
      continue
    drawn = True
    means, errors = _errors(summary[name] for name in names)
    # Side by side, so that intervals of one layer do not cover each other.
    step = min(0.08, 0.5 / len(methods))
    shift = step * (index - (len(methods) - 1) / 2)
    axis.errorbar(
        [int(name.removeprefix(start)) + shift for name in names], means,
        yerr=errors, color=colour, marker=_MARKERS[index % len(_MARKERS)],
        markersize=5, linewidth=1.2, capsize=2,
        label=labels.get(method, method),
    )
  if not drawn:
    raise ValueError(f'no method has metrics {start}00..., got {prefix=}.')
  axis.set(xlabel='layer', ylabel=labels.get(prefix, prefix))
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.legend(loc='center left', bbox_to_anchor=(1.0, 0.5))
  return figure


@figures.styled
def curves_figure(
    curves: Mapping[str, tuple[Sequence[float], Any]],
    ylabel: str = 'cross-entropy, nats per token',
    labels: Mapping[str, str] = _NO_LABELS,
) -> Any:
  """Draws a metric over training, the mean over seeds with its 95 % interval.

  Args:
    curves: By method, the steps [T] and the values [seeds, T]. A seed without a
      value at a step has NaN there and does not count.

  Returns:
    A matplotlib figure.
  """
  figure, axes = figures.subplots(1, 1, figsize=(8.0, 4.4))
  axis = axes[0, 0]
  for method, colour in figures.coloured(list(curves)):
    steps, values = curves[method]
    values_SxT = np.atleast_2d(figures.floats(values))
    ends = []
    for column_S in values_SxT.T:
      column_S = column_S[np.isfinite(column_S)]
      if column_S.size:
        mean, interval = statistics.mean_ci(column_S)
        ends.append((mean, *interval))
      else:
        ends.append((math.nan,) * 3)
    mean_T, low_T, high_T = np.asarray(ends).T
    axis.plot(
        steps, mean_T, color=colour, linewidth=1.4,
        label=labels.get(method, method),
    )
    axis.fill_between(
        steps, low_T, high_T, color=colour, alpha=0.2, linewidth=0
    )
  axis.set(xlabel='step', ylabel=ylabel)
  axis.legend()
  return figure


def _finite(values) -> list[float]:
  return [v for v in values if v is not None and math.isfinite(v)]


def _mean_error(entry: Any) -> tuple[float, np.ndarray | None]:
  """The mean and the lengths of its interval, [2, 1], or None without one."""
  if not isinstance(entry, Mapping):
    return float(entry), None
  mean, (low, high) = entry['mean'], entry['ci95']
  if low is None or high is None:
    return mean, None
  return mean, np.asarray([[mean - low], [high - mean]])


def _errors(entries) -> tuple[list[float], np.ndarray]:
  """Means and the lengths of their intervals, [2, N], NaN for none."""
  pairs = [_mean_error(entry) for entry in entries]
  missing = np.full((2, 1), np.nan)
  errors = [missing if error is None else error for _, error in pairs]
  return [mean for mean, _ in pairs], np.concatenate(errors, axis=1)
