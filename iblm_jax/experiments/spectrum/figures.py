"""Figures of the spectrum program; need matplotlib (extra `plot`).

"As they are" means uncentred: what is trained on by default.
"""

from typing import Any

import numpy as np

from iblm_jax.analysis import layer_spectra
from iblm_jax.reports import figures

_CENTERING = (
    (layer_spectra.RAW, 'as they are'),
    (layer_spectra.CENTERED, 'mean subtracted'),
)
# Below this share of the largest, an eigenvalue is rounding.
_FLOOR = 1e-7


@figures.styled
def entropy_figure(
    found: layer_spectra.Arrays, name: str, width: int, sizes: tuple[int, ...]
) -> Any:
  """Entropy of every order by layer; a row of panels per window size."""
  figure, axes = figures.subplots(
      len(sizes), 2, figsize=(10, 0.8 + 2.9 * len(sizes)), sharex=True,
      sharey='row',
  )
  for size, pair in zip(sizes, axes, strict=True):
    entropy_NxCxA = found[f'entropy/patch_{size}']
    for (center, words), axis in zip(_CENTERING, pair, strict=True):
      for index, alpha in enumerate(layer_spectra.ORDERS):
        axis.plot(
            entropy_NxCxA[:, center, index], color=figures.COLOURS[index],
            marker='o', markersize=4, linewidth=1.2,
            label='∞' if np.isinf(alpha) else f'{alpha:g}',
        )
      axis.axhline(
          _most(size, width, center), color='grey', linestyle=':',
          linewidth=1.0,
      )
      axis.set_title(f'{_window(size, sizes)}, {words}')
      _layers(axis, len(entropy_NxCxA))
    pair[0].set(ylabel='entropy, nats')
    pair[0].set_ylim(bottom=0)
  axes[0, 1].legend(
      title='order', loc='center left', bbox_to_anchor=(1.0, 0.5)
  )
  figure.suptitle(f'{name}: entropy by layer (dotted: the most there can be)')
  return figure


@figures.styled
def rank_figure(
    found: layer_spectra.Arrays, name: str, sizes: tuple[int, ...]
) -> Any:
  """Effective rank and the mean direction's share of the trace, by layer."""
  figure, axes = figures.subplots(1, 3, figsize=(12, 3.6))
  for (center, words), axis in zip(_CENTERING, axes[0, :2], strict=True):
    for index, size in enumerate(sizes):
      axis.plot(
          found[f'effective_rank/patch_{size}'][:, center],
          color=figures.COLOURS[index], marker='o', markersize=4,
          label=_window(size, sizes),
      )
    axis.set(title=f'Effective rank, {words}', ylabel='directions')
  for index, size in enumerate(sizes):
    axes[0, 2].plot(
        found[f'mean_share/patch_{size}'], color=figures.COLOURS[index],
        marker='o', markersize=4,
    )
  axes[0, 2].set(
      title='Held by the mean direction', ylabel='share of the trace',
      ylim=(-0.02, 1.02),
  )
  for axis in axes[0]:
    _layers(axis, len(found['rms']))
  for axis in axes[0, :2]:
    axis.set_ylim(bottom=0)
  axes[0, 0].legend()
  figure.suptitle(f'{name}: directions that the rows fill')
  return figure


@figures.styled
def patch_figure(
    found: layer_spectra.Arrays, name: str, width: int, sizes: tuple[int, ...]
) -> Any:
  """Entropy of order 2 against the size of the windows, a line a layer."""
  order = layer_spectra.ORDERS.index(2.0)
  stack = lambda of_size: np.stack([of_size(size) for size in sizes])
  panels = [
      (words, center, stack(
          lambda size, center=center: (
              found[f'entropy/patch_{size}'][:, center, order]
          )
      ))
      for center, words in _CENTERING
  ]
  unit_SxN = stack(lambda size: found[f'entropy_normalized/patch_{size}'])
  panels.append(('scaled to unit norm', layer_spectra.RAW, unit_SxN))
  figure, axes = figures.subplots(1, 3, figsize=(13, 4.0), sharey=True)
  layers = 0
  for (words, center, entropy_SxN), axis in zip(panels, axes[0], strict=True):
    layers = entropy_SxN.shape[1]
    for layer in range(layers):
      axis.plot(
          sizes, entropy_SxN[:, layer], marker='o', markersize=3.5,
          color=figures.layer_colour(layer, layers), label=f'layer {layer}',
      )
    axis.plot(
        sizes, [_most(size, width, center) for size in sizes], color='grey',
        linestyle=':', label='most there can be',
    )
    axis.set_xscale('log', base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set(xlabel='tokens in a window', title=f'Rows {words}')
  axes[0, 0].set(ylabel='entropy of order 2, nats')
  axes[0, 0].set_ylim(bottom=0)
  _legend(axes[0, 2], layers)
  figure.suptitle(f'{name}: entropy by size of the windows')
  return figure


@figures.styled
def spectra_figure(
    found: layer_spectra.Arrays, name: str, sizes: tuple[int, ...]
) -> Any:
  """Mean eigenvalues, from the largest; a line a layer."""
  figure, axes = figures.subplots(
      len(sizes), 2, figsize=(10, 0.8 + 3.2 * len(sizes)), sharex='row',
      sharey='row',
  )
  layers = 0
  for size, pair in zip(sizes, axes, strict=True):
    p_NxCxK = found[f'spectrum/patch_{size}']
    layers, _, count = p_NxCxK.shape
    index_K = np.arange(1, count + 1)
    for (center, words), axis in zip(_CENTERING, pair, strict=True):
      for layer, p_K in enumerate(p_NxCxK[:, center]):
        seen = p_K > _FLOOR * p_K[0]
        axis.plot(
            index_K[seen], p_K[seen], linewidth=1.3,
            marker='o' if count <= 16 else None, markersize=3.5,
            color=figures.layer_colour(layer, layers), label=f'layer {layer}',
        )
      axis.set_yscale('log')
      if count > 16:
        axis.set_xscale('log')
      axis.set(
          title=f'{_window(size, sizes)}, {words}', xlabel='eigenvalue number'
      )
    pair[0].set(ylabel='share of the trace')
  _legend(axes[0, 1], layers)
  figure.suptitle(f'{name}: eigenvalues of the Gram matrix')
  return figure


def _most(size: int, width: int, center: int) -> float:
  """Largest entropy of a window; centred rows lose a direction."""
  return float(np.log(min(size - (center == layer_spectra.CENTERED), width)))


def _window(size: int, sizes: tuple[int, ...]) -> str:
  whole = size == sizes[-1] and len(sizes) > 1
  return f'whole rows ({size} tokens)' if whole else f'{size} tokens'


def _layers(axis, count: int) -> None:
  axis.set_xlabel('layer')
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.set_xlim(-0.3, count - 0.7)


def _legend(axis, layers: int) -> None:
  axis.legend(
      loc='center left', bbox_to_anchor=(1.0, 0.5), fontsize=8,
      ncols=1 + layers // 16,
  )
