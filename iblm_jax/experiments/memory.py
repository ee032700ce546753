"""What do embeddings and memories hold, and what makes them hold more?

  python -m iblm_jax.experiments.memory --workdir=DIR [--text=FILE]

Runs and probes of the claims of arXiv 2602.13466, on documents of an artificial
language whose best loss is known (a new one for each seed) and, with --text, on
bytes of real text. Families of methods, in the order of their runs:

  causal       language models by length of training and size: what their
               embeddings hold
  autoencoder  by length, bottleneck and kind of mixing; on uniform tokens too
  memory       memory models by objective, without memories, recurrent, and a
               decoder of the whole row
  curriculum   a frozen encoder: copying at once, from blanks, in stages; the
               frozen encoder of a causal model; no memories
  compressed   memory models with the entropy of the encoder in the loss
  needle       the value after a key in a chunk of the past
  bytes        autoencoder, causal, memory and combined on real text
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.experiments import (
  memory_methods,
  memory_run,
  program,
  results,
  side_by_side,
  workdirs,
)
from iblm_jax.reports import experiment_figures

FLAGS = flags.FLAGS

_CLAIM = (
    'Embeddings of causal language models hold little of their input,'
    ' regardless of data and compute scale, and those of autoencoders nearly'
    ' all of it; memories become useful when a retention objective joins the'
    ' causal one (arXiv 2602.13466).'
)
_BASELINE = 'memory:causal'
# Whose bits are compared with whose.
_BESIDE = {
    'ae': 'causal:4x', 'ae:attention': 'causal:4x', 'bytes:ae': 'bytes:causal'
}
_PROBED = [
    ['probe/recovered_bits', 'bits in an embedding', 1],
    ['probe/accuracy', 'tokens recovered', 3],
    ['probe/constant/accuracy', 'without the embedding', 3],
    ['probe/information_fraction', '1 - CE / ln V', 3],
    ['probe/mbe', 'entropy of embeddings', 2],
    ['cross_entropy', 'own loss', 3],
]
_COPIED = [
    ['cross_entropy', 'own loss', 3],
    ['causal/cross_entropy', 'causal loss', 3],
    ['excess', 'above the best possible', 3],
    ['copy/accuracy', 'copy accuracy', 3],
    ['blank_copy/accuracy', 'blank copy accuracy', 3],
    ['probe/recovered_bits', 'bits in a memory', 1],
    ['probe/mbe', 'entropy of memories', 2],
    ['steps', 'updates', 0],
]
_COLUMNS = {
    'causal': _PROBED,
    'autoencoder': [
        ['accuracy', 'tokens recovered', 3],
        ['cross_entropy', 'own loss', 3],
        ['probe/recovered_bits', 'bits by the common probe', 1],
        ['times_causal', 'times those of causal:4x', 1],
        ['probe/accuracy', 'tokens by the common probe', 3],
        ['probe/mbe', 'entropy of embeddings', 2],
    ],
    'memory': _COPIED,
    'curriculum': [_COPIED[3], _COPIED[4], _COPIED[1], _COPIED[0]],
    'compressed': _COPIED,
    'needle': [
        ['chunk_0/accuracy', 'values of chunk 0', 3],
        ['chunk_1/accuracy', 'of chunk 1', 3],
        ['chunk_2/accuracy', 'of chunk 2', 3],
        ['blank_copy/accuracy', 'blank copy accuracy', 3],
    ],
    'bytes': [
        ['cross_entropy', 'own loss', 3],
        ['accuracy', 'own accuracy', 3],
        ['blank_copy/accuracy', 'blank copy accuracy', 3],
        *_PROBED[:2],
        ['times_causal', 'times those of bytes:causal', 1],
        _PROBED[4],
    ],
}
_LABELS = {
    'probe/recovered_bits': 'bits recovered from an embedding',
    'probe/accuracy': 'tokens recovered',
    'probe/mbe': 'entropy of embeddings [nats]',
    'blank_copy/accuracy': 'blank copy accuracy',
    'copy/accuracy': 'copy accuracy',
    'cross_entropy': 'own loss [nats]',
    'causal/cross_entropy': 'causal loss [nats]',
}


def main() -> None:
  """Makes the runs that are left, writes results and figures."""
  program.check_figures()
  workdir = epath.Path(FLAGS.workdir)
  with cli.refusing():
    names = tuple(FLAGS.families or memory_methods.FAMILIES)
    if FLAGS.text is None:
      if FLAGS.families and 'bytes' in names:
        raise ValueError("text must be given for the family 'bytes', got None.")
      names = tuple(name for name in names if name != 'bytes')
    methods = memory_methods.methods(names, FLAGS.smoke)
    settings = {
        'families': names,
        'seeds': FLAGS.seeds,
        'smoke': FLAGS.smoke,
        'text': FLAGS.text and os.path.basename(FLAGS.text),
    }
    workdirs.check_settings(settings, workdir)
    folder = workdir / 'runs'
    runs = memory_run.plan(
        methods, range(FLAGS.seeds), folder, text=FLAGS.text, smoke=FLAGS.smoke
    )
    memory_run.check(runs, folder)
  workdir.mkdir(parents=True, exist_ok=True)
  workdirs.write_json(workdir / 'settings.json', settings)
  with program.stopwatch(workdir) as seconds:
    rows = memory_run.make_rows(
        runs,
        methods,
        folder,
        cli.report,
        processes=side_by_side.count(alone=FLAGS.smoke),
    )
    compare(rows)
    tree = results.write(
        workdir / 'results.json',
        experiment='memory',
        claim=_CLAIM,
        command=program.command('memory'),
        settings=settings,
        rows=rows,
        baseline=_BASELINE if _BASELINE in methods else None,
        tables=make_tables(rows),
        wall_seconds=seconds(),
    )
    for name, figure in draw(tree).items():
      program.save_figure(figure, workdir / f'{name}.png')
    program.done(workdir, seconds())


def compare(rows: list[dict[str, Any]]) -> None:
  """Adds to rows what they say beside others of their seed.

  'excess', of the causal loss over that of the best prediction there is, and
  'times_causal', bits in an autoencoder's embedding over those in a causal
  model's.
  """
  best = functools.cache(memory_methods.best_loss)
  bits = {
      (row['method'], row['seed']): row['probe/recovered_bits']
      for row in rows
      if 'probe/recovered_bits' in row
  }
  for row in rows:
    method, seed = row['method'], row['seed']
    if 'causal/cross_entropy' in row and not method.startswith(
        ('bytes:', 'needle:')
    ):
      row['excess'] = row['causal/cross_entropy'] - best(seed)
    beside = bits.get((_BESIDE.get(method), seed))
    if beside is not None:
      row['times_causal'] = bits[method, seed] / beside


def make_tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """A table for each family, of the columns that some of its rows have.

  Another one has the change of the causal loss against memory models that were
  trained on it alone, in percent.
  """
  tables = {}
  for family, members in memory_methods.FAMILIES.items():
    shown = [row for row in rows if row['method'] in members]
    columns = [
        column
        for column in _COLUMNS[family]
        if any(column[0] in row for row in shown)
    ]
    if shown and columns:
      tables[family] = {
          'methods': list(dict.fromkeys(row['method'] for row in shown)),
          'columns': columns,
          'paired': False,
      }
  against = [
      name
      for name in memory_methods.FAMILIES['memory']
      if name != _BASELINE and any(row['method'] == name for row in rows)
  ]
  if against and any(row['method'] == _BASELINE for row in rows):
    tables['causal_loss'] = {
        'methods': against,
        'columns': [['causal/cross_entropy', 'causal loss', 1]],
        'paired': True,
        'relative': True,
    }
  return tables


def draw(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The figures that the methods of a tree of results.json allow, by name."""
  summary = tree['summary']
  there = lambda family: [
      name for name in memory_methods.FAMILIES[family] if name in summary
  ]
  figures = {}
  probed = [
      name
      for family in memory_methods.FAMILIES
      for name in there(family)
      if 'probe/recovered_bits' in summary[name]
  ]
  if probed:
    figures['information'] = experiment_figures.interval_figure(
        tree, ['probe/recovered_bits', 'probe/accuracy', 'probe/mbe'], probed,
        _LABELS,
    )
    axes = ('probe/mbe', 'probe/recovered_bits')
    points = {
        family: [
            {'knob': name} | {metric: summary[name][metric] for metric in axes}
            for name in there(family)
            if name in probed
        ]
        for family in memory_methods.FAMILIES
        if family != 'bytes' and set(there(family)) & set(probed)
    }
    if points:
      figures['entropy'] = experiment_figures.pareto_figure(
          points, *axes, _LABELS
      )
  copies = ['copy/accuracy', 'blank_copy/accuracy', 'causal/cross_entropy']
  for name, families in (
      ('objectives', ('memory', 'compressed')), ('curriculum', ('curriculum',))
  ):
    shown = [
        method
        for family in families
        for method in there(family)
        if 'blank_copy/accuracy' in summary[method]
        or 'copy/accuracy' in summary[method]
    ]
    if shown:
      figures[name] = experiment_figures.interval_figure(
          tree, copies, shown, _LABELS
      )
  return figures


def run() -> None:
  """Entry point."""
  program.define_flags(seeds=3)
  flags.DEFINE_string('text', None, 'Real text, for the family bytes.')
  flags.DEFINE_list(
      'families', None,
      f'Some of {", ".join(memory_methods.FAMILIES)}; by default all.',
  )
  cli.run(main)


if __name__ == '__main__':
  run()
