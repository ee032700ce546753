"""Figures of surveys, checkpoints side by side, and the page that holds them.

They need matplotlib (extra `plot`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iblm_jax.reports import figures, page

# Part of a survey, name, and what the panel is called.
PROMPTS = (
    ('entropy/order_1', 'Entropy S₁, as they are, nats'),
    ('entropy_centered/order_1', 'Entropy S₁, mean subtracted, nats'),
    ('entropy_normalized/order_1', 'Entropy S₁, unit rows, nats'),
    ('entropy/order_2/log_n', 'S₂ / log N, as they are'),
    ('effective_rank_centered', 'Effective rank, mean subtracted'),
    ('participation_ratio_centered', 'Participation ratio, mean subtracted'),
    ('mean_cosine', 'Mean cosine of two tokens'),
    ('first_direction', 'Share of the first direction'),
    ('curvature', 'Curvature, radians'),
    ('intrinsic_dimension', 'Intrinsic dimension (TwoNN)'),
    ('next_token/entropy', 'Entropy of next tokens by the head, nats'),
    ('next_token/cross_entropy', 'Cross-entropy by the head, nats'),
)
DATA = (
    ('entropy/order_1', 'Entropy S₁, as they are, nats'),
    ('entropy_centered/order_1', 'Entropy S₁, mean subtracted, nats'),
    ('entropy_normalized/order_1', 'Entropy S₁, unit rows, nats'),
    ('entropy_centered/order_2/log_d', 'S₂ / log D, mean subtracted'),
    ('effective_rank_centered', 'Effective rank, mean subtracted'),
    (
        'effective_rank_of_prompts_centered',
        'Effective rank of prompts, mean subtracted',
    ),
    ('mean_cosine', 'Mean cosine of two tokens'),
    ('first_direction', 'Share of the first direction'),
    ('intrinsic_dimension', 'Intrinsic dimension (TwoNN)'),
    ('infonce', 'InfoNCE of altered texts, nats'),
    ('lidar', 'LiDAR of altered texts, directions'),
    ('dime', 'DiME of altered texts, nats'),
    ('diff_erank', 'Diff-eRank: untrained less trained'),
)
_COLUMNS = 3


def draw(surveys: Mapping[str, Any]) -> dict[str, Any]:
  """Draws the layers of all checkpoints: by prompt, and over the data set."""
  return {
      'layers_prompts': _figure(
          surveys, 'prompts', PROMPTS,
          'By prompt (shaded: 95 % interval of the mean)',
      ),
      'layers_data': _figure(
          surveys, 'data', DATA, 'Over the data set'
      ),
  }


def make_page(
    surveys: Mapping[str, Any],
    lines: Sequence[str],
    drawn: Mapping[str, bytes],
) -> str:
  """Makes the page of all figures, and a table of what they show."""
  texts = {
      'layers_prompts': ' '.join(f'{line}.' for line in lines),
      'layers_data': (
          'Spectra of all tokens as one set, and of the mean states of'
          ' prompts. Altered texts: some of their tokens are replaced by others'
          ' of the batch.'
      ),
  }
  first = [name for name in texts if name in drawn]
  order = [*first, *(name for name in drawn if name not in first)]
  title = lambda name: name.replace('_', ' ').capitalize()
  return page.make_page(
      'Layers of ' + ' against '.join(surveys),
      _table(surveys),
      [(title(name), texts.get(name, ''), drawn[name]) for name in order],
  )


def _values(tree: Any, part: str, name: str) -> list[float | None] | None:
  found = tree[part].get(name)
  return found['mean'] if isinstance(found, dict) else found


def _table(surveys) -> list[dict[str, Any]]:
  rows = []
  for part, names in (('prompts', PROMPTS), ('data', DATA)):
    for name, title in names:
      row: dict[str, Any] = {'layer': f'{title} ({part})'}
      for checkpoint, tree in surveys.items():
        values = _values(tree, part, name)
        for layer in range(_count(tree)):
          value = None if values is None else values[layer]
          row[f'{checkpoint} {layer:02d}'] = '–' if value is None else value
      if any(value != '–' for value in list(row.values())[1:]):
        rows.append(row)
  return rows


def _count(tree) -> int:
  return len(tree['data']['effective_rank'])


@figures.styled
def _figure(surveys, part: str, names, title: str) -> Any:
  there = [
      (name, words) for name, words in names
      if any(_values(tree, part, name) for tree in surveys.values())
  ]
  rows = -(-len(there) // _COLUMNS)
  figure, axes = figures.subplots(
      rows, _COLUMNS, figsize=(12, 0.8 + 2.7 * rows)
  )
  panels = axes.reshape(-1)
  for axis, (name, words) in zip(panels, there, strict=False):
    for (checkpoint, tree), colour in figures.coloured(list(surveys.items())):
      values = _values(tree, part, name)
      if values is None:
        continue
      layer_N = np.arange(len(values))
      axis.plot(
          layer_N, figures.floats(values), color=colour, marker='o',
          markersize=3, linewidth=1.3, label=checkpoint,
          linestyle='--' if checkpoint.endswith(' untrained') else '-',
      )
      if part == 'prompts':
        low_N, high_N = figures.floats(tree[part][name]['ci95']).T
        axis.fill_between(
            layer_N, low_N, high_N, color=colour, alpha=0.18, linewidth=0
        )
    axis.set(title=words, xlabel='layer')
    axis.xaxis.get_major_locator().set_params(integer=True)
  for axis in panels[len(there):]:
    axis.set_visible(False)
  panels[0].legend(fontsize=8)
  figure.suptitle(title)
  return figure
