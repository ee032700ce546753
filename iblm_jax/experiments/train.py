"""Trains the run whose config.json lies in a folder.

  python -m iblm_jax.experiments.train --workdir=RUN

It goes on with a run that was stopped, whatever config file the run came from.
"""

import os

from absl import flags

from iblm_jax import cli

FLAGS = flags.FLAGS


def main() -> None:
  """Reads the config and trains to the end of the run."""
  if FLAGS.core is not None:
    # Before JAX counts the cores that it may use.
    os.sched_setaffinity(0, {FLAGS.core})
  from iblm_jax.experiments._harness import jobs
  from iblm_jax.training import config
  from iblm_jax.training import run as run_lib

  if FLAGS.end_with_parent:
    jobs.end_with_parent(os.getppid())
  with cli.refusing():
    prepared = run_lib.prepare(config.read_run(FLAGS.workdir), FLAGS.workdir)
  run_lib.complete(prepared, report=cli.report)


def run() -> None:
  """Entry point."""
  cli.DEFINE_folder('workdir', 'Folder of the run.')
  flags.DEFINE_integer('core', None, 'The one CPU core to run on (Linux).')
  flags.DEFINE_bool(
      'end_with_parent', False, 'Save and stop when the parent process ends.'
  )
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()
