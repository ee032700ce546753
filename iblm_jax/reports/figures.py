"""Figures of runs; needs matplotlib (extra `plot`)."""

import contextlib
import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from iblm_jax.reports import runs as runs_lib

_P = ParamSpec('_P')
_T = TypeVar('_T')

# Okabe and Ito's palette: told apart by colour-blind readers and in print.
COLOURS = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000',
    '#8C8C8C',
)
BAND = '#E69F00'
_STYLE = {
    'figure.dpi': 110,
    'font.size': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'axes.titlesize': 11,
    'axes.titlelocation': 'left',
    'legend.frameon': False,
}


def check_matplotlib() -> None:
  """Raises ValueError if matplotlib is not installed."""
  if importlib.util.find_spec('matplotlib') is None:
    raise ValueError(
        'figures need the package matplotlib: pip install "iblm-jax[plot]".'
    )


def styled(draw: Callable[_P, _T]) -> Callable[_P, _T]:
  """Makes a function that draws use the style above, and no display."""

  @functools.wraps(draw)
  def draw_styled(*args: _P.args, **kwargs: _P.kwargs) -> _T:
    with _matplotlib().rc_context(_STYLE):
      figure = draw(*args, **kwargs)
      if figure is not None:
        _show_as_written(figure)
      return figure

  return draw_styled


def _matplotlib() -> Any:
  """An extra, imported where it is used; files need no MPLBACKEND."""
  if 'matplotlib' in sys.modules:
    return sys.modules['matplotlib']
  backend = os.environ.pop('MPLBACKEND', None)
  import matplotlib

  if backend:  # that of a notebook may not be installed here
    os.environ['MPLBACKEND'] = backend
    with contextlib.suppress(ValueError):
      matplotlib.rcParams['backend'] = backend
  return matplotlib


def _show_as_written(figure: Any) -> None:
  """Keeps `$` in names of runs from being mathematics, as powers of ten are."""
  from matplotlib import axis, text

  powers = {
      label
      for scaled in figure.findobj(axis.Axis)
      if scaled.get_scale() != 'linear'
      for tick in scaled.findobj(axis.Tick)
      for label in tick.findobj(text.Text)
  }
  for written in set(figure.findobj(text.Text)) - powers:
    written.set_parse_math(False)


def subplots(
    rows: int, columns: int, figsize: tuple[float, float], **kwargs
) -> tuple[Any, Any]:
  """Makes a figure and an array of axes, without a display."""
  _matplotlib()
  from matplotlib import figure

  # Not pyplot: it would hold on to every figure and to a display.
  canvas = figure.Figure(figsize=figsize, layout='constrained')
  return canvas, canvas.subplots(rows, columns, squeeze=False, **kwargs)


@styled
def loss_figure(runs: Sequence[runs_lib.Run]) -> Any:
  """Draws the cross-entropy of runs in training and evaluation, and the phases.

  Returns:
    A matplotlib figure with the cross-entropy in training, below it a strip for
    each gated run that is filled where the run compressed, and then a panel for
    each evaluation set. A run has the same colour in all panels.
  """
  gated = [run for run in runs if run.compression()]
  sets = sorted({name for run in runs for name in run.eval_sets()})
  heights = [4.0] + [0.3] * len(gated) + [2.6] * len(sets)
  figure, axes = subplots(
      len(heights),
      1,
      figsize=(9, sum(heights) + 1.0),
      sharex=True,
      gridspec_kw={'height_ratios': heights},
  )
  axes = list(axes[:, 0])
  top, strips = axes[0], axes[1 : 1 + len(gated)]
  panels = axes[1 + len(gated) :]
  for run, colour in coloured(runs):
    top.plot(
        *run.series('train/cross_entropy'),
        color=colour,
        linewidth=1.2,
        label=f'{_shown(run.name)} ({run.method})',
    )
  top.set(ylabel='nats per token', title='Cross-entropy in training')
  top.legend(loc='upper right')
  for run, strip in zip(gated, strips, strict=True):
    _fill(strip, run, 0.85)
    strip.set(yticks=[], ylim=(0, 1))
    strip.grid(False)
    strip.spines['left'].set_visible(False)
    strip.set_ylabel(
        f'{run.name}\ncompresses', rotation=0, ha='right', va='center',
        fontsize=8,
    )
  for name, panel in zip(sets, panels, strict=True):
    for run, colour in coloured(runs):
      steps, values = run.series(f'eval/{name}/cross_entropy')
      panel.plot(steps, values, color=colour, marker='o', markersize=3)
    panel.set(
        ylabel='nats per token',
        title=f'Cross-entropy, {name.replace("_", " ")}',
    )
  axes[-1].set_xlabel('step')
  return figure


@styled
def entropy_figure(runs: Sequence[runs_lib.Run]) -> Any | None:
  """Draws the entropy of every layer over training, with a panel for each run.

  Returns:
    A matplotlib figure in which compression phases are shaded, or None if no
    run has measured the entropy.
  """
  measured = [run for run in runs if run.names('train/mbe/layer_')]
  if not measured:
    return None
  figure, axes = subplots(
      len(measured),
      1,
      figsize=(9, 3.0 * len(measured) + 0.6),
      sharex=True,
      sharey=True,
  )
  for run, axis in zip(measured, axes[:, 0], strict=True):
    _fill(axis, run, 0.22)
    names = run.names('train/mbe/layer_')
    for index, name in enumerate(names):
      colour = layer_colour(index, len(names))
      label = f'layer {int(name.rsplit("_", 1)[1])}'
      axis.plot(*run.series(name), color=colour, linewidth=1.2, label=label)
    entropy, described = run.entropy, 'entropy'
    if entropy is not None:
      described = (
          f'entropy of order {entropy.alpha:g} in windows of'
          f' {entropy.patch_size} tokens'
      )
    shading = '; shaded: compression phases' if run.compression() else ''
    axis.set(
        ylabel='entropy, nats',
        title=f'{run.name} ({run.method}): {described}{shading}',
    )
    axis.set_ylim(bottom=0)
    axis.legend(
        loc='center left', bbox_to_anchor=(1.0, 0.5), fontsize=8,
        ncols=1 + len(names) // 16,
    )
  axes[-1, 0].set_xlabel('step')
  return figure


@styled
def profile_figure(runs: Sequence[runs_lib.Run]) -> Any | None:
  """Draws the last entropy of every layer, and the accuracy over training.

  Returns:
    A matplotlib figure with a row for each evaluation set, or None if there is
    none.
  """
  sets = sorted({name for run in runs for name in run.eval_sets()})
  if not sets:
    return None
  figure, axes = subplots(len(sets), 2, figsize=(9, 2.9 * len(sets) + 0.4))
  for name, (left, right) in zip(sets, axes, strict=True):
    for run, colour in coloured(runs):
      layers = run.names(f'eval/{name}/mbe/layer_')
      left.plot(
          range(len(layers)),
          [run.series(layer)[1][-1] for layer in layers],
          color=colour,
          marker='o',
          markersize=4,
          label=_shown(run.name),
      )
      right.plot(
          *run.series(f'eval/{name}/accuracy'), color=colour, linestyle='--'
      )
      right.plot(*run.series(f'eval/{name}/exact_match'), color=colour)
    title = name.replace('_', ' ')
    left.set(
        title=f'Final entropy by layer, {title}', xlabel='layer',
        ylabel='nats',
    )
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_ylim(bottom=0)
    right.set(
        title=f'Accuracy, {title}', xlabel='step', ylim=(-0.02, 1.02),
        ylabel='whole row (dashed: tokens)',
    )
  axes[0, 0].legend()
  return figure


def coloured(things: Sequence[_T]) -> list[tuple[_T, str]]:
  """Pairs things with colours."""
  return list(zip(things, itertools.cycle(COLOURS), strict=False))


def _shown(name: str) -> str:
  """A name for a legend, which leaves out those that begin with a _."""
  return f' {name}' if name.startswith('_') else name


def floats(values: Any) -> np.ndarray:
  """Makes an array of float64 with NaN in place of None."""
  return np.asarray(values, np.float64)


def layer_colour(index: int, count: int) -> Any:
  """Returns a layer's colour, dark at the input and light at the output."""
  from matplotlib import colormaps

  return colormaps['viridis'](0.92 * index / max(count - 1, 1))


def _fill(axis, run: runs_lib.Run, strength: float) -> None:
  """Shades every interval by the share of its steps in compression."""
  for start, stop, share in run.compression():
    if share > 0:
      axis.axvspan(
          start, stop, color=BAND, alpha=strength * share, linewidth=0
      )
