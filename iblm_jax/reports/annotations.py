"""Texts beside the points of a figure, placed so that they can be read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Where a text can stand beside its point, best first; how it is aligned there.
_BESIDE = (
    (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0),
    (1, 2), (-1, 2), (1, -2), (-1, -2), (2, 0), (-2, 0), (0, 2), (0, -2),
)
_ACROSS = {2: 'left', 1: 'left', 0: 'center', -1: 'right', -2: 'right'}
_UP = {2: 'bottom', 1: 'bottom', 0: 'center', -1: 'top', -2: 'top'}


def annotate(
    figure: Any,
    axis: Any,
    marks: Sequence[tuple[str, tuple[float, float], Any]],
) -> None:
  """Writes texts beside points, each at the position where it covers the least.

  Texts avoid each other, the legend and the border of the axis, and then the
  lines. The layout of the figure is fixed afterwards.

  Args:
    figure: A matplotlib figure.
    axis: An axis of the figure, with a legend, on which all else is drawn.
    marks: The text, the point (x, y) and the colour of every text.
  """
  figure.draw_without_rendering()  # lays everything out, so places are known
  figure.set_layout_engine('none')  # ... and stay: a text must not move them
  ink_Nx2, frame = _ink(axis), axis.get_window_extent()
  taken = [axis.get_legend().get_window_extent()]
  for text, place, colour in marks:
    options = []
    for across, up in _BESIDE:
      drawn = axis.annotate(
          text, place, xytext=(7 * across, 7 * up), color=colour, fontsize=8,
          textcoords='offset points', ha=_ACROSS[across], va=_UP[up],
      )
      box = drawn.get_window_extent()
      inside = frame.containsx(box.x0) and frame.containsx(box.x1)
      inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
      covered = np.all((ink_Nx2 > box.min) & (ink_Nx2 < box.max), axis=1).sum()
      worst = box.count_overlaps(taken) + (not inside)
      options.append((worst, covered, len(options), drawn, box))
      if not worst and not covered:
        break
    _, _, _, best, box = min(options, key=lambda option: option[:3])
    taken.append(box)
    for *_, drawn, _ in options:
      if drawn is not best:
        drawn.remove()


def _ink(axis) -> np.ndarray:
  """Points along all lines of an axis in pixels, [N, 2]."""
  paths = [
      line.get_xydata() for line in axis.lines if line.get_linestyle() != 'None'
  ]
  for collection in axis.collections:
    # Without an interval there is a segment without points.
    paths += [path for path in collection.get_segments() if len(path)]
  share_Kx1 = np.linspace(0, 1, 50)[:, None]
  points = [axis.transData.transform(path) for path in paths]
  return np.concatenate([
      start + share_Kx1 * (stop - start)
      for path in points
      for start, stop in zip(path[:-1], path[1:], strict=True)
  ] + points)
