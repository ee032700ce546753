"""Runs an experiment by name: iblm-experiment NAME --workdir=DIR [...].

The same as `python -m iblm_jax.experiments.NAME --workdir=DIR [...]`. Without a
name it lists them.
"""

import ast
import difflib
import importlib
import pathlib
import sys

from iblm_jax import cli


def summaries() -> dict[str, str]:
  """Returns the first line of every experiment's docstring, by name.

  >>> summaries()['multiplication']
  'Does compression help arithmetic beyond the training range?'
  """
  found = {}
  folder = pathlib.Path(__file__).parent / 'experiments'
  for path in sorted(folder.iterdir()):
    program = path / 'program.py' if path.is_dir() else path
    if path.name[0] != '_' and program.is_file():
      # Read, not imported, so that the list comes at once.
      text = ast.get_docstring(ast.parse(program.read_text())) or ''
      found[path.stem] = text.partition('\n')[0]
  return found


def run() -> None:
  """Starts the experiment that the first argument names."""
  known = summaries()
  name = sys.argv[1] if len(sys.argv) > 1 else ''
  if name[:1] == '-' and name not in ('--help', '-h', '--list'):
    cli.refuse(f'the name of an experiment goes first, got {name!r}.')
  if not name or name[0] == '-':
    width = max(map(len, known))
    for name, text in known.items():
      cli.report(f'{name:{width}}  {text}')
    return
  if name not in known:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    cli.refuse(
        f'no experiment is called {name!r}; there are'
        f' {", ".join(near or known)}.'
    )
  module = importlib.import_module(f'iblm_jax.experiments.{name}')
  sys.argv = [f'{sys.argv[0]} {name}', *sys.argv[2:]]
  module.run()


if __name__ == '__main__':
  run()
