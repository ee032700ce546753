"""Trains the stages of a curriculum, one after the other.

  python -m iblm_jax.curriculum --config=configs/curriculum.py --workdir=DIR

Each stage is a run in DIR/STAGE, as `iblm_jax.main` makes it, which begins with
parameters of an earlier stage. Running the same command again continues where
it stopped. DIR/curriculum.json holds the summary of each stage.
"""

from absl import flags
from etils import epath

from iblm_jax import cli, config, config_flag
from iblm_jax.training import curriculum as curricula

FLAGS = flags.FLAGS


def main() -> None:
  """Checks every stage, then trains them."""
  if config_flag.answered():
    return
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
  """Defines the flags and starts the program."""
  config_flag.define(
      lambda tree: {f'config.{name}': config.RunConfig for name in tree.order}
  )
  cli.DEFINE_folder('workdir', 'Folder of all stages.')
  config_flag.require('config', 'workdir')
  cli.run(main)


if __name__ == '__main__':
  run()
