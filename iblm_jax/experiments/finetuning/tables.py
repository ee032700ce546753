"""Tables, figures and the verdict of the experiment on fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

from iblm_jax.experiments._harness import results
from iblm_jax.experiments.finetuning import rows as rows_lib
from iblm_jax.experiments.finetuning import texts as texts_lib
from iblm_jax.reports import experiment_figures

BASELINE = 'ce'
_LABELS = {
    'heldout/change': 'held-out pages, change of bits per byte',
    'others/change': 'other texts, change of bits per byte',
    'entropy/order_2': 'S_2, nats',
    'entropy_normalized/order_2': 'S_2 of unit rows, nats',
}
_ENTROPY = [
    ['entropy/order_1', 'S_1', 3],
    ['entropy/order_2', 'S_2', 3],
    ['entropy_centered/order_2', 'centred S_2', 3],
    ['entropy_normalized/order_2', 'unit rows S_2', 3],
    ['mean_share', 'mean share', 3],
    ['longest_row', 'longest token', 3],
    ['rms', 'rms', 2],
]
_PHASES = [
    ['phases/share_compression', 'share of steps', 2],
    ['phases/num_switches', 'switches', 1],
    ['phases/mean_memorisation_length', 'memorise, steps', 1],
    ['phases/mean_compression_length', 'compress, steps', 1],
]


def make(methods: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
  """Which methods and metrics the page shows."""
  everywhere = [rows_lib.BEFORE, *methods]
  shown = lambda metric: [
      [f'{name}/{metric}', _title(name), 4] for name in names
  ]
  changes = [*shown('change'), ['others/change', 'mean of others', 4]]
  tables = {
      'outcome': results.table(everywhere, shown('bits_per_byte')),
      'change': results.table(methods, changes),
      'paired': results.table(
          [name for name in methods if name != BASELINE], changes, paired=True
      ),
      'entropy': results.table(everywhere, _ENTROPY),
      'by_text': results.table(everywhere, shown('entropy/order_2')),
  }
  gated = [name for name in methods if name.startswith('gapt')]
  if gated:
    tables['phases'] = results.table(gated, _PHASES)
  return tables


def verdict(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str]
) -> str:
  """Says whether compressing protects against forgetting, by the intervals."""
  rows = results.rounded(rows)
  own = results.summarise(rows)[BASELINE]['others/change']
  forgets = _sign(
      own, 'forgets', 'gets better at', 'by its interval neither forgets nor'
      ' improves'
  )
  words = ('worse', 'better', 'neither better nor worse by its interval')
  found, protects = [], False
  paired = results.compare(rows, BASELINE)
  for method in methods:
    if method == BASELINE:
      continue
    kept, learned = (
        _sign(paired[method][f'{name}/change'], *words)
        + f' ({_interval(paired[method][f"{name}/change"])})'
        for name in ('others', texts_lib.HELDOUT)
    )
    protects |= kept.startswith('better')
    found.append(f'`{method}` keeps them {kept} and learns the pages {learned}')
  return (
      f'Compressing is {"seen" if protects else "not seen"} to protect.'
      f' Cross-entropy alone {forgets} the other texts ({_interval(own)} bits'
      f' a byte, their mean). Against it, {"; ".join(found)}.'
  )


def draw(
    tree: Mapping[str, Any], methods: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
  """Figures by name: changes of each text, and entropies by layer."""
  labels = _LABELS | {
      f'{name}/change': f'{_title(name)}, change of bits per byte'
      for name in names
      if name != texts_lib.HELDOUT
  }
  found = {
      'finetuning': experiment_figures.interval_figure(
          tree, [f'{name}/change' for name in names], methods, labels
      )
  }
  for metric, name in (
      ('entropy/order_2', 'entropy'),
      ('entropy_normalized/order_2', 'entropy_normalized'),
  ):
    found[f'finetuning_{name}'] = experiment_figures.layers_figure(
        tree, metric, [rows_lib.BEFORE, *methods], labels
    )
  return found


def _title(name: str) -> str:
  return 'held-out pages' if name == texts_lib.HELDOUT else name


def _sign(entry, above: str, below: str, neither: str) -> str:
  low, high = entry['ci95']
  if low is not None and low > 0:
    return above
  return below if high is not None and high < 0 else neither


def _interval(entry) -> str:
  low, high = entry['ci95']
  if low is None:
    return f'{entry["mean"]:+.4f}'
  return f'{entry["mean"]:+.4f} [{low:+.4f}, {high:+.4f}]'
