"""Trains the stages of a curriculum, one after the other.

  python -m iblm_jax.curriculum --config=configs/curriculum.py --workdir=DIR

Each stage is a run of its own in DIR/STAGE, as of iblm_jax.main, that begins
with parameters of an earlier one. Running the same command again goes on where
it stopped. DIR/curriculum.json has the summary of each stage.
"""

from absl import flags
from etils import epath
from ml_collections import config_flags

from iblm_jax import cli
from iblm_jax.training import curriculum as curricula

FLAGS = flags.FLAGS


def main() -> None:
  """Checks every stage, then trains them."""
  workdir = epath.Path(FLAGS.workdir)
  with cli.refusing():
    stages = curricula.make(FLAGS.config.to_dict(), workdir)
    curricula.check(stages, workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  summaries = curricula.train(stages, workdir, cli.report)
  for line in curricula.final(summaries):
    cli.report(line)
  cli.report(f'wrote {workdir}/curriculum.json')


def run() -> None:
  """Entry point."""
  config_flags.DEFINE_config_file(
      'config', None, 'Config file, with a variant: configs/x.py:variant.'
  )
  flags.DEFINE_string('workdir', None, 'Folder of all stages.')
  flags.mark_flags_as_required(['config', 'workdir'])
  cli.run(main)


if __name__ == '__main__':
  run()
