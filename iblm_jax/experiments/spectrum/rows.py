"""From measured arrays to rows and tables of results."""

from typing import Any

from iblm_jax.analysis import layer_spectra
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.experiments._harness import results

_NAMES = {
    layer_spectra.RAW: ('entropy', 'effective_rank'),
    layer_spectra.CENTERED: ('entropy_centered', 'effective_rank_centered'),
}


def make_rows(
    subject: subject_lib.Subject,
    found: layer_spectra.Arrays,
    sizes: tuple[int, ...],
    base: int,
) -> list[dict[str, Any]]:
  """One row per layer: method 'CHECKPOINT layer 00'.

  Returns:
    Rows with 'entropy/order_2' and 'entropy_centered/order_2' (and so for the
    other orders), 'entropy_normalized/order_2',
    'effective_rank', 'effective_rank_centered' and 'mean_share' of windows of
    `base` tokens; the same with '/patch_S' for every size S; and 'rms'.
  """
  rows = []
  for layer in range(subject.num_layers):
    row: dict[str, Any] = {
        'method': method(subject, layer),
        'seed': subject.seed,
        'checkpoint': subject.name,
        'layer': layer,
    }
    for size, end in [(base, ''), *((s, f'/patch_{s}') for s in sizes)]:
      entropy_CxA = found[f'entropy/patch_{size}'][layer]
      for center, (entropy, rank) in _NAMES.items():
        for index, alpha in enumerate(layer_spectra.ORDERS):
          name = f'{entropy}/order_{alpha:g}{end}'
          row[name] = float(entropy_CxA[center, index])
        rank_C = found[f'effective_rank/patch_{size}'][layer]
        row[rank + end] = float(rank_C[center])
      for name, key in (
          ('entropy_normalized/order_2', 'entropy_normalized'),
          ('mean_share', 'mean_share'),
      ):
        row[name + end] = float(found[f'{key}/patch_{size}'][layer])
    row['rms'] = float(found['rms'][layer])
    rows.append(row)
  return rows


def method(subject: subject_lib.Subject, layer: int) -> str:
  """The name of a layer's row."""
  return f'{subject.name} layer {layer:02d}'


def make_tables(
    subject: subject_lib.Subject, length: int, base: int
) -> dict[str, Any]:
  """Tables for a page: windows as in training, and whole rows."""
  labels = {
      method(subject, layer): f'{layer}'
      for layer in range(subject.num_layers)
  }

  def table(end):
    return results.table(
        list(labels),
        [
            [f'entropy/order_1{end}', 'S₁', 3],
            [f'entropy/order_2{end}', 'S₂', 3],
            [f'entropy/order_inf{end}', 'S_∞', 3],
            [f'entropy_centered/order_1{end}', 'S₁ centred', 3],
            [f'entropy_centered/order_2{end}', 'S₂ centred', 3],
            [f'entropy_centered/order_inf{end}', 'S_∞ centred', 3],
            [f'entropy_normalized/order_2{end}', 'S₂ of unit rows', 3],
            [f'effective_rank{end}', 'effective rank', 2],
            [f'mean_share{end}', 'mean share', 3],
        ],
        labels=labels,
    )

  return {
      f'windows_of_{base}': table(''),
      'whole_rows': table(f'/patch_{length}'),
  }
