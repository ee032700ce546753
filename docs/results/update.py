"""Fills in the numbers of the pages here from the results beside them.

python docs/results/update.py [--check]
"""

import pathlib

from absl import flags

from iblm_jax import cli, errors
from iblm_jax.experiments._harness import results
from iblm_jax.reports import tables

FLAGS = flags.FLAGS


def main() -> None:
  """Rewrites every page, or names those that disagree with their files."""
  folder = pathlib.Path(FLAGS.folder)
  texts = {}
  for page in sorted(folder.glob('*.md')):
    old = page.read_text(encoding='utf-8')
    with cli.refusing():
      try:
        new = tables.rewrite(old, lambda name: results.read(folder / name))
      except ValueError as error:
        raise ValueError(f'{page.name}: {error}') from error
    if new != old:
      texts[page] = new
  names = ', '.join(page.name for page in texts)
  if texts and FLAGS.check:
    raise errors.RunFailed(
        f'{names}: the numbers are not those of the results; run this without'
        ' --check.'
    )
  for page, text in texts.items():
    page.write_text(text, encoding='utf-8')
  cli.report(f'rewrote {names}' if texts else 'all pages agree')


def run() -> None:
  """Entry point."""
  flags.DEFINE_bool('check', False, 'Write nothing; exit 1 on a difference.')
  flags.DEFINE_string(
      'folder', str(pathlib.Path(__file__).parent), 'Of pages and results.'
  )
  cli.run(main)


if __name__ == '__main__':
  run()
