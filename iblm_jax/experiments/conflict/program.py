"""Do compressed representations keep two conflicting tasks apart?

  python -m iblm_jax.experiments.conflict --workdir=DIR [--model=transformer]

A network learns two tasks at once, then one of them alone, with and without
the entropy in its loss. Measured are what it forgets of the other task, and
how far apart the representations of both lie.
"""

from typing import Any

from absl import flags

from iblm_jax import cli
from iblm_jax.experiments._harness import jobs, program
from iblm_jax.experiments.conflict import figure, tables
from iblm_jax.experiments.conflict import rows as rows_lib
from iblm_jax.experiments.conflict import settings as settings_lib

_CLAIM = (
    'GAPT reduces the interference of conflicting tasks: separation +97 %'
    ' (arXiv 2505.08727).'
)


def run_experiment(options: Any) -> list[program.Results]:
  """Does what is left of the chunks of seeds."""
  workdir = options.workdir
  with cli.refusing():
    settings = settings_lib.make(
        options.model,
        protocol=options.protocol,
        seeds=options.seeds,
        smoke=options.smoke,
        sweep=options.sweep,
    )
    program.check_settings(settings.to_json(), workdir)
  path = workdir / 'results.json'
  if path.exists() and (workdir / 'conflict.png').exists():
    cli.report(f'finished: {path}')
    return []
  program.keep_settings(settings.to_json(), workdir)
  rows, seconds = rows_lib.run_chunks(
      settings, workdir / 'parts', cli.report, processes=jobs.count()
  )
  return [
      program.Results(
          rows,
          settings.to_json(),
          tables.make(settings),
          baseline=settings_lib.BASELINE,
          draw=lambda tree: {
              'conflict': figure.draw(tree, list(settings.methods))
          },
          seconds=seconds,
      )
  ]


def _define_flags() -> None:
  flags.DEFINE_string(
      'model', 'mlp', f'One of {", ".join(settings_lib.MODELS)}.'
  )
  flags.DEFINE_string(
      'protocol', 'spec',
      "'spec', or 'public': as the paper's public code trains (mlp).",
  )
  flags.DEFINE_integer(
      'seeds', None, 'Number of seeds; by default 200 (mlp), 20 (transformer).'
  )
  flags.DEFINE_bool('sweep', False, 'Weights and windows instead of methods.')


EXPERIMENT = program.Experiment(
    'conflict',
    _CLAIM,
    run_experiment,
    smoke='A few updates on two seeds.',
    define_flags=_define_flags,
)


def run() -> None:
  """Entry point."""
  program.start(EXPERIMENT)


if __name__ == '__main__':
  run()
