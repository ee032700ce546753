"""Trains a language model.

  python -m iblm_jax.main --config=multiplication:gapt --workdir=DIR

The config is one of those that `--list` shows, or the path of a file. Every
field of the config is a flag, such as --config.objective.weight=0.3, and
`--help_config` lists them. Running the same command again resumes the run that
the workdir holds.
"""

import os

import jax
from absl import flags
from etils import epath

from iblm_jax import cli, config_files, config_flag, files
from iblm_jax import config as config_lib
from iblm_jax.data import sources
from iblm_jax.training import program as program_lib
from iblm_jax.training import run as run_lib
from iblm_jax.training.scale import (
  compile_report,
  distributed,
  hardware,
  topology,
)

FLAGS = flags.FLAGS


def main() -> None:
  """Checks the config against data, devices and workdir, then trains."""
  if config_flag.answered():
    return
  workdir = epath.Path(FLAGS.workdir)
  if FLAGS.topology:
    jax.config.update('jax_platforms', 'cpu')
  with cli.refusing():
    if FLAGS.topology and not FLAGS.compile_only:
      raise ValueError('topology is for compile_only: the slice is not here.')
    program = config_files.program_of(FLAGS.config)
    if program != 'iblm-train':
      raise ValueError(f'--config: this config is for {program}.')
    distributed.initialize(
        FLAGS.coordinator_address,
        FLAGS.num_processes,
        FLAGS.process_id,
        cli.report,
    )
    if not FLAGS.topology:
      hardware.check_platform(os.environ.get('IBLM_PLATFORM'))
    cfg = config_lib.from_dict(FLAGS.config)
    if FLAGS.compile_only:
      return compile_only(cfg, FLAGS.topology, workdir)
    run_ = run_lib.prepare(cfg, workdir)
  # One process speaks for all.
  report = cli.report if jax.process_index() == 0 else lambda line: None
  summary = run_lib.complete(run_, report=report)
  report(f'done in {summary["wall_seconds"]:.0f} s: {workdir}/summary.json')


def compile_only(
    cfg: config_lib.RunConfig, slice_name: str | None, workdir: epath.Path
) -> None:
  """Compiles the step, prints what it needs and writes compile.json."""
  devices = topology.devices(slice_name) if slice_name else None
  report = compile_report.make_report(
      cfg, program_lib.Program(cfg, devices), sources.row_length(cfg.data)
  )
  for line in compile_report.lines(report):
    cli.report(line)
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_json(workdir / 'compile.json', report)


def run() -> None:
  """Defines the flags and starts the program."""
  config_flag.define(lambda tree: {'config': config_lib.RunConfig})
  cli.DEFINE_folder('workdir', 'Folder of the run.')
  flags.DEFINE_bool(
      'compile_only',
      False,
      'Compile the step and say what it needs, without data or training.',
  )
  flags.DEFINE_string(
      'topology',
      None,
      'With --compile_only: a TPU slice to compile for, such as v5e:8x8.',
  )
  flags.DEFINE_string(
      'coordinator_address',
      None,
      'host:port of process 0, where JAX does not know the cluster by itself.',
  )
  flags.DEFINE_integer('num_processes', None, 'Processes of the run.')
  flags.DEFINE_integer('process_id', None, 'Number of this process.')
  config_flag.require('config', 'workdir')
  cli.run(main)


if __name__ == '__main__':
  run()
