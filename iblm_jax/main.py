"""Trains a language model: python -m iblm_jax.main --config=... --workdir=...

Every field of the config is a flag: --config.objective.weight=0.3. Running the
same command again resumes the run that the workdir holds.
"""

import json

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from iblm_jax import cli
from iblm_jax import config as config_lib
from iblm_jax.training import distributed, loop

FLAGS = flags.FLAGS


def main() -> None:
  """Checks the config against data, devices and workdir, then trains."""
  workdir = epath.Path(FLAGS.workdir)
  distributed.initialize(cli.report)
  with cli.refusing():
    cfg = config_lib.from_dict(FLAGS.config)
    check_workdir(cfg, workdir)
    job = loop.prepare(cfg)
  claim_workdir(cfg, workdir)
  summary = loop.train(job, workdir, report=cli.report)
  cli.report(f'done in {summary["wall_seconds"]:.0f} s: {workdir}/summary.json')


def check_workdir(cfg: config_lib.RunConfig, workdir: epath.Path) -> None:
  """Makes sure that a workdir holds this run or none.

  Args:
    cfg: the run.
    workdir: may be missing.

  Raises:
    ValueError: if it holds a run with another config, naming what differs.
  """
  if not (workdir / 'config.json').exists():
    if (workdir / 'checkpoints').exists():
      raise ValueError(
          f'{workdir} holds checkpoints without a config.json, so they may be'
          ' of another run. Use another workdir.'
      )
    return
  held = config_lib.to_dict(cli.read_run(workdir))
  changed = config_lib.differences(held, config_lib.to_dict(cfg))
  if changed:
    listing = '; '.join(
        f'{name} is {old!r} there and {new!r} here'
        for name, old, new in changed
    )
    raise ValueError(
        f'{workdir} holds a run with another config: {listing}. Use another'
        ' workdir, or the config of that run to resume it.'
    )


def claim_workdir(cfg: config_lib.RunConfig, workdir: epath.Path) -> None:
  """Writes config.json, unless it is there."""
  path = workdir / 'config.json'
  if jax.process_index() == 0 and not path.exists():
    workdir.mkdir(parents=True, exist_ok=True)
    draft = workdir / 'config.json.tmp'
    draft.write_text(json.dumps(config_lib.to_dict(cfg), indent=2) + '\n')
    draft.replace(path)


def run() -> None:
  """Entry point."""
  config_flags.DEFINE_config_file(
      'config', None, 'Config file, with a variant: configs/x.py:variant.'
  )
  flags.DEFINE_string('workdir', None, 'Folder of the run.')
  flags.mark_flags_as_required(['config', 'workdir'])
  cli.run(main)


if __name__ == '__main__':
  run()
