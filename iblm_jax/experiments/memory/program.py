"""What do embeddings and memories hold, and what makes them hold more?

  python -m iblm_jax.experiments.memory --workdir=DIR [--text=FILE]

Runs and probes of the claims of arXiv 2602.13466, on documents of an artificial
language whose best loss is known (a new one for each seed) and, with --text, on
bytes of real text. The first seed is 1: settings were chosen on seed 0.
Families of methods, in the order of their runs:

  causal       language models by length of training, size and kind of mixing:
               what their embeddings hold
  autoencoder  by length, bottleneck and kind of mixing; on uniform tokens too
  memory       memory models by objective, without memories, recurrent, and a
               decoder of the whole row
  curriculum   a frozen encoder: copying at once, in two stages of the same,
               from blanks, from blanks first; the frozen encoder of a causal
               model; no memories
  compressed   memory models with the entropy of the encoder in the loss
  needle       the value after a key in a chunk of the past, from memories and
               with the whole row in sight
  bytes        autoencoder, causal, memory and combined on real text
"""

import os
from collections.abc import Mapping
from typing import Any

from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.experiments._harness import processes as side_by_side
from iblm_jax.experiments._harness import program, results, workdirs
from iblm_jax.experiments.memory import methods as memory_methods
from iblm_jax.experiments.memory import rows as memory_run
from iblm_jax.experiments.memory import tables as memory_tables
from iblm_jax.reports import experiment_figures

FLAGS = flags.FLAGS

_CLAIM = (
    'Embeddings of causal language models hold little of their input,'
    ' regardless of data and compute scale, and those of autoencoders nearly'
    ' all of it; memories become useful when a retention objective joins the'
    ' causal one (arXiv 2602.13466).'
)
_LABELS = {
    'probe/recovered_bits': 'bits recovered, position by position',
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
        methods,
        memory_methods.seeds(FLAGS.seeds),
        folder,
        text=FLAGS.text,
        smoke=FLAGS.smoke,
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
    memory_tables.compare(rows)
    tree = results.write(
        workdir / 'results.json',
        experiment='memory',
        claim=_CLAIM,
        command=program.command('memory'),
        settings=settings,
        rows=rows,
        baseline=None,
        tables=memory_tables.make_tables(rows),
        wall_seconds=seconds(),
    )
    for name, figure in draw(tree).items():
      program.save_figure(figure, workdir / f'{name}.png')
    program.done(workdir, seconds())


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
          points, *axes, _LABELS, joined=False
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
