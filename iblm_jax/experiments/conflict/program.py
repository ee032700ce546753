"""Do compressed representations keep two conflicting tasks apart?

  python -m iblm_jax.experiments.conflict --workdir=DIR [--model=transformer]

A network learns two tasks at once, then one of them alone, with and without
the entropy in its loss. Measured are what it forgets of the other task, and
how far apart the representations of both lie.
"""

import os

from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.experiments._harness import processes as side_by_side
from iblm_jax.experiments._harness import program, results, workdirs
from iblm_jax.experiments.conflict import figure as conflict_figure
from iblm_jax.experiments.conflict import rows as conflict_run
from iblm_jax.experiments.conflict import settings as conflict_settings
from iblm_jax.experiments.conflict import tables as conflict_tables

FLAGS = flags.FLAGS

_CLAIM = (
    'GAPT reduces the interference of conflicting tasks: separation +97 %'
    ' (arXiv 2505.08727).'
)


def main() -> None:
  """Checks the flags, does what is left, writes results and figure."""
  workdir = epath.Path(FLAGS.workdir)
  program.check_figures()
  with cli.refusing():
    settings = conflict_settings.make(
        FLAGS.model,
        protocol=FLAGS.protocol,
        seeds=FLAGS.seeds,
        smoke=FLAGS.smoke,
        sweep=FLAGS.sweep,
    )
    workdirs.check_settings(settings.to_json(), workdir)
  path = workdir / 'results.json'
  if path.exists() and (workdir / 'conflict.png').exists():
    return cli.report(f'finished: {path}')
  workdir.mkdir(parents=True, exist_ok=True)
  workdirs.write_json(workdir / 'settings.json', settings.to_json())
  rows, seconds = conflict_run.run_chunks(
      settings,
      workdir / 'parts',
      cli.report,
      processes=side_by_side.count(),
  )
  tree = results.write(
      path,
      experiment='conflict',
      claim=_CLAIM,
      command=program.command('conflict'),
      settings=settings.to_json(),
      rows=rows,
      baseline='base',
      tables=conflict_tables.make(settings),
      wall_seconds=seconds,
  )
  figure = conflict_figure.draw(tree)
  figure.savefig(os.fspath(workdir / 'conflict.png'))
  cli.report(f'done in {seconds:.0f} s: {path}')


def run() -> None:
  """Entry point."""
  flags.DEFINE_string('workdir', None, 'Folder of the experiment.')
  flags.DEFINE_string(
      'model', 'mlp', f'One of {", ".join(conflict_settings.MODELS)}.'
  )
  flags.DEFINE_string(
      'protocol', 'spec',
      "'spec', or 'public': as the paper's public code trains (mlp).",
  )
  flags.DEFINE_integer(
      'seeds', None, 'Number of seeds; by default 200 (mlp), 20 (transformer).'
  )
  flags.DEFINE_bool('smoke', False, 'A few updates on two seeds.')
  flags.DEFINE_bool('sweep', False, 'Weights and windows instead of methods.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()
