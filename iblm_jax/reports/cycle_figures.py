"""Figures of the cosine of two gradients over training; extra `plot`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iblm_jax.reports import figures


@figures.styled
def cycle_figure(
    series: Mapping[str, Any], flips: Sequence[int] = ()
) -> Any:
  """Draws the cosine of two gradients over training, by layer, and their norms.

  Args:
    series: 'step', T numbers, and series of T values: 'cosine' is of the whole
      gradients, 'control' of the gradients of one loss on two halves of a
      batch; 'layers' and 'norms' map labels to series. Only 'step' and 'cosine'
      are required.
    flips: Steps at which the cosine changes its sign, drawn as short marks.

  Returns:
    A matplotlib figure with the cosine, shaded where it is positive, the cosine
    of every layer as a colour, and both norms on a logarithmic axis.
  """
  layers, norms = series.get('layers') or {}, series.get('norms') or {}
  heights = [2.6]
  if layers:
    heights.append(0.9 + 0.2 * len(layers))
  if norms:
    heights.append(2.0)
  figure, axes = figures.subplots(
      len(heights),
      1,
      figsize=(9, sum(heights) + 1.0),
      sharex=True,
      gridspec_kw={'height_ratios': heights},
  )
  steps = np.asarray(series['step'], np.float64)
  panels = list(axes[:, 0])
  _draw_cosine(panels[0], steps, series, flips)
  if layers:
    _draw_layers(figure, panels[1], steps, layers)
  for (label, values), colour in zip(
      norms.items(), figures.COLOURS, strict=False
  ):
    panels[-1].plot(
        steps, figures.floats(values), color=colour, linewidth=1.2, label=label
    )
  if norms:
    panels[-1].set(yscale='log', ylabel='norm', title='Norms of the gradients')
    _legend_above(panels[-1])
  panels[-1].set_xlabel('step')
  return figure


@figures.styled
def surrogate_figure(
    observed: float,
    nulls: Mapping[str, Sequence[float]],
    label: str = 'sign changes',
) -> Any:
  """Draws a count beside those of null models, with a panel for each model.

  Args:
    observed: The count in the observed series.
    nulls: The counts in the draws of each null model.

  Returns:
    A matplotlib figure. The title of a panel says which share of the draws, the
    observed series included, is at most and at least the observed count.
  """
  figure, axes = figures.subplots(
      1, len(nulls), figsize=(1.0 + 4.2 * len(nulls), 3.4), sharex=True
  )
  for (name, counts), axis in zip(nulls.items(), axes[0], strict=True):
    counts = figures.floats(counts)
    low, high = min(counts.min(), observed), max(counts.max(), observed)
    # Counts: bins as wide as a whole number, with counts in their middle.
    width = max(1, math.ceil((high - low) / 40))
    axis.hist(
        counts, bins=np.arange(low - 0.5, high + 0.5 + width, width),
        color=figures.COLOURS[4], label='draws of the null model',
    )
    axis.axvline(
        observed, color=figures.COLOURS[1], linewidth=2,
        label=f'observed: {observed:g}',
    )
    below = (1 + np.sum(counts <= observed)) / (1 + counts.size)
    above = (1 + np.sum(counts >= observed)) / (1 + counts.size)
    axis.set(
        title=f'{name}\nshare ≤ {below:.2g}, share ≥ {above:.2g}',
        xlabel=label, ylabel='draws',
    )
  figure.legend(
      *axes[0, 0].get_legend_handles_labels(), loc='outside lower center',
      ncols=2,
  )
  return figure


def _draw_cosine(axis, steps, series, flips) -> None:
  cosine = figures.floats(series['cosine'])
  axis.axhline(0, color='black', linewidth=0.8)
  axis.fill_between(
      steps, 0, cosine, where=cosine > 0, interpolate=True, linewidth=0,
      color=figures.BAND, alpha=0.35, label='positive',
  )
  if series.get('control') is not None:
    axis.plot(
        steps, figures.floats(series['control']), color='#888888',
        linewidth=0.9, label='split halves',
    )
  axis.plot(
      steps, cosine, color=figures.COLOURS[0], linewidth=1.2, label='cosine'
  )
  if len(flips):
    axis.plot(
        flips, np.full(len(flips), 0.04), '|', color=figures.COLOURS[1],
        markersize=8, markeredgewidth=0.9, label='sign changes',
        transform=axis.get_xaxis_transform(),
    )
  axis.set(ylabel='cosine', title='Cosine of the two gradients')
  _legend_above(axis)


def _draw_layers(figure, axis, steps, layers) -> None:
  cosine_LxT = np.stack([figures.floats(values) for values in layers.values()])
  limit = float(
      np.max(np.abs(cosine_LxT), where=np.isfinite(cosine_LxT), initial=0.0)
  )
  limit = limit or 1.0
  mesh = axis.pcolormesh(
      _edges(steps), np.arange(len(layers) + 1) - 0.5, cosine_LxT,
      cmap='RdBu_r', vmin=-limit, vmax=limit,
  )
  axis.grid(False)
  every = math.ceil(len(layers) / 16)
  axis.set_yticks(range(0, len(layers), every), list(layers)[::every])
  axis.set(title='Cosine by layer')
  figure.colorbar(mesh, ax=axis, label='cosine', pad=0.01)


def _legend_above(axis) -> None:
  """Draws a legend beside the title, where it covers no data."""
  axis.legend(
      loc='lower right', bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=8,
      borderpad=0,
  )


def _edges(steps: np.ndarray) -> np.ndarray:
  """Borders of the cells around T points, [T + 1]."""
  if steps.size == 1:
    return np.asarray([steps[0] - 0.5, steps[0] + 0.5])
  middle = (steps[1:] + steps[:-1]) / 2
  first, last = 2 * steps[0] - middle[0], 2 * steps[-1] - middle[-1]
  return np.concatenate([[first], middle, [last]])
