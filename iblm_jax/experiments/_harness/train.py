"""Trains the run whose config.json lies in a folder.

  python -m iblm_jax.experiments._harness.train --workdir=RUN

An experiment starts one of these for every run; started by hand, it goes on
with a run that was stopped, whatever config file the run came from.
"""

import os
import signal
import threading
import time

from absl import flags

from iblm_jax import cli

FLAGS = flags.FLAGS


def main() -> None:
  """Reads the config and trains to the end of the run."""
  if FLAGS.core is not None:
    # Before JAX counts the cores that it may use.
    os.sched_setaffinity(0, {FLAGS.core})
  if FLAGS.end_with_parent:
    threading.Thread(target=_end_with_parent, daemon=True).start()
  from iblm_jax.training import config, loop, restoring

  with cli.refusing():
    job = loop.prepare(config.read_run(FLAGS.workdir))
    begin = restoring.beginning(job.cfg, FLAGS.workdir, config.read_run)
  loop.train(job, FLAGS.workdir, report=cli.report, begin=begin)


def _end_with_parent() -> None:
  """A killed parent cannot stop its runs; started again, it would meet them."""
  parent = os.getppid()
  while os.getppid() == parent:
    time.sleep(1.0)
  os.kill(os.getpid(), signal.SIGTERM)


def run() -> None:
  """Entry point."""
  flags.DEFINE_string('workdir', None, 'Folder of the run.')
  flags.DEFINE_integer('core', None, 'The one CPU core to run on (Linux).')
  flags.DEFINE_bool(
      'end_with_parent', False, 'Save and stop when the parent process ends.'
  )
  flags.mark_flag_as_required('workdir')
  cli.run(main)


if __name__ == '__main__':
  run()
