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

from iblm_jax import cli
from iblm_jax.experiments._harness import jobs, program
from iblm_jax.experiments.memory import methods as methods_lib
from iblm_jax.experiments.memory import rows as rows_lib
from iblm_jax.experiments.memory import tables
from iblm_jax.reports import experiment_figures

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


def run_experiment(options: Any) -> list[program.Results]:
  """Makes the runs that are left."""
  workdir, folder = options.workdir, options.workdir / 'runs'
  with cli.refusing():
    names = tuple(options.families or methods_lib.FAMILIES)
    if options.text is None:
      if options.families and 'bytes' in names:
        raise ValueError("text must be given for the family 'bytes', got None.")
      names = tuple(name for name in names if name != 'bytes')
    methods = methods_lib.methods(names, options.smoke)
    settings = {
        'families': names,
        'seeds': options.seeds,
        'smoke': options.smoke,
        'text': options.text and os.path.basename(options.text),
    }
    program.check_settings(settings, workdir)
    runs = rows_lib.plan(
        methods,
        methods_lib.seeds(options.seeds),
        folder,
        text=options.text,
        smoke=options.smoke,
    )
    rows_lib.check(runs, folder)
  program.keep_settings(settings, workdir)
  rows = jobs.make_rows(
      runs,
      rows_lib.make,
      folder,
      key=lambda run: (run.name, run.seed),
      say=rows_lib.say,
      noun='runs',
      report=cli.report,
      processes=jobs.count(alone=options.smoke),
      depth=lambda run: rows_lib.depth(run, methods),
  )
  tables.compare(rows)
  return [
      program.Results(rows, settings, tables.make_tables(rows), draw=draw)
  ]


def draw(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The figures that the methods of a tree of results.json allow, by name."""
  summary = tree['summary']

  def having(family: str, *metrics: str) -> list[str]:
    return [
        name
        for name in methods_lib.FAMILIES[family]
        if any(metric in summary.get(name, {}) for metric in metrics)
    ]

  figures = {}
  axes = ('probe/mbe', 'probe/recovered_bits')
  probed = {
      family: names
      for family in methods_lib.FAMILIES
      if (names := having(family, 'probe/recovered_bits'))
  }
  if probed:
    figures['information'] = experiment_figures.interval_figure(
        tree, ['probe/recovered_bits', 'probe/accuracy', 'probe/mbe'],
        sum(probed.values(), []), _LABELS,
    )
  points = {
      family: [
          {'knob': name} | {metric: summary[name][metric] for metric in axes}
          for name in names
      ]
      for family, names in probed.items()
      if family != 'bytes'
  }
  if points:
    figures['entropy'] = experiment_figures.pareto_figure(
        points, *axes, _LABELS, joined=False
    )
  copies = ['copy/accuracy', 'blank_copy/accuracy', 'causal/cross_entropy']
  for name, families in (
      ('objectives', ('memory', 'compressed')), ('curriculum', ('curriculum',))
  ):
    shown = [m for family in families for m in having(family, *copies[:2])]
    if shown:
      figures[name] = experiment_figures.interval_figure(
          tree, copies, shown, _LABELS
      )
  return figures


def _define_flags() -> None:
  flags.DEFINE_string('text', None, 'Real text, for the family bytes.')
  flags.DEFINE_list(
      'families', None,
      f'Some of {", ".join(methods_lib.FAMILIES)}; by default all.',
  )


EXPERIMENT = program.Experiment(
    'memory', _CLAIM, run_experiment, seeds=3, define_flags=_define_flags
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()
