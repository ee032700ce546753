"""The figure of the experiment on conflicting tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iblm_jax.experiments.conflict import settings
from iblm_jax.reports import figures, statistics

_PANELS = (
    ('forgetting', 'Forgetting', 'rise of the loss on the other group'),
    ('loss_trained', 'Loss on the trained group', 'loss'),
    ('separation', 'Separation ratio', 'distance over spread'),
)


@figures.styled
def draw(tree: Mapping[str, Any], methods: Sequence[str]) -> Any:
  """Means with intervals above, differences on the same seeds below."""
  height = 1.6 + 0.28 * len(methods)
  figure, axes = figures.subplots(2, 3, figsize=(12, 2 * height + 0.5))
  for column, (metric, title, label) in enumerate(_PANELS):
    top, bottom = axes[:, column]
    _means(top, tree, methods, metric)
    top.set(title=title, xlabel=label)
    _differences(bottom, tree, methods, metric)
    bottom.set(xlabel='difference to base, by seed')
    for axis in (top, bottom):
      axis.set_yticks(range(len(methods)), methods if column == 0 else [])
      axis.set_ylim(len(methods) - 0.5, -0.5)
  return figure


def _means(axis, tree, methods, metric) -> None:
  for y, method in enumerate(methods):
    entry = tree['summary'][method].get(metric)
    if entry is not None:
      _interval(axis, y, entry['mean'], entry['ci95'])
  before = tree['summary'][settings.PRETRAINED].get(metric)
  if before is not None:
    axis.axvline(before['mean'], color='0.5', linestyle='--', linewidth=1)
    axis.annotate(
        'before', (before['mean'], -0.45), fontsize=8, color='0.4',
        xytext=(3, -4), textcoords='offset points',
    )


def _differences(axis, tree, methods, metric) -> None:
  axis.axvline(0, color='0.5', linewidth=1)
  seen = []
  for y, method in enumerate(methods):
    if method == tree['paired']['baseline']:
      continue
    differences = np.asarray(statistics.paired(
        tree['rows'], metric, method, tree['paired']['baseline']
    ))
    jitter = np.linspace(-0.25, 0.25, len(differences))
    axis.plot(
        differences, y + jitter, linestyle='none', marker='.', markersize=2.5,
        color=figures.COLOURS[4], alpha=0.6,
    )
    entry = tree['paired'][method][metric]
    _interval(axis, y, entry['mean'], entry['ci95'])
    seen.append(differences)
  if seen:
    low, high = np.percentile(np.concatenate(seen), [1, 99])
    margin = 0.1 * max(high - low, 1e-6)
    axis.set_xlim(min(low, 0) - margin, max(high, 0) + margin)


def _interval(axis, y, mean, ci95) -> None:
  error = None
  if None not in ci95:
    error = [[mean - ci95[0]], [ci95[1] - mean]]
  axis.errorbar(
      mean, y, xerr=error, marker='o', markersize=4, capsize=3,
      color=figures.COLOURS[0],
  )
