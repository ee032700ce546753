"""Imports point down, nothing needs an experiment, and files stay small."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / 'iblm_jax'
# From the ground up; a package imports from floors below its own, and itself.
FLOORS = (
    {
        'errors', 'fields', 'tagged', 'files', 'foreign', 'typing',
        'config_files', '_lazy', '_moved',
    },
    {'information', 'optim', 'data'},
    {'models', 'sublora'},
    {'objectives', 'bounds'},
    {'training'},
    {'analysis', 'probing'},
    {'reports', 'certification'},
    {'cli', 'config', 'field_listing'},
    {'config_flag'},
    {'experiments'},
)
# Every other module of the top is a program.
PROGRAMS = len(FLOORS) - 2
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(PACKAGE.rglob('*.py'))


def module_of(path):
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return parts[:-1] if parts[-1] == '__init__' else parts


def imported(path):
  """Modules of the package that a file imports, anywhere in it."""
  tree = ast.parse(path.read_text(encoding='utf-8'))
  modules = {module_of(other) for other in FILES}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name.split('.') for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: a relative import'
      names = [[*node.module.split('.'), alias.name] for alias in node.names]
    else:
      continue
    for first, *parts in names:
      if first == 'iblm_jax':
        # The last part may be a name in a module.
        parts = tuple(parts)
        yield parts if parts in modules else parts[:-1]


IMPORTS = {
    (module_of(path), target) for path in FILES for target in imported(path)
}
# Packages that programs are; the package itself imports what it offers lazily.
EDGES = {
    (source, target) for source, target in IMPORTS if source and target
}


def test_the_files_are_seen():
  assert len(FILES) > 150
  assert (('training', 'loop'), ('training', 'checkpoints')) in IMPORTS
  assert (('main',), ('cli',)) in IMPORTS


def test_nothing_outside_imports_an_experiment():
  assert not sorted(
      (source, target)
      for source, target in IMPORTS
      if target[:1] == ('experiments',) and source[:1] != ('experiments',)
  )


def test_imports_point_down():
  up = []
  for source, target in sorted(EDGES):
    here, there = source[0], target[0]
    if here == there:
      continue
    is_program = here not in LEVEL or (
        source[-1] in ('program', 'prepare', '__main__')
    )
    level = PROGRAMS + 1 if is_program else LEVEL[here]
    if LEVEL.get(there, PROGRAMS + 1) >= level:
      up.append('.'.join(source) + ' imports ' + '.'.join(target))
  assert not up, '\n'.join(up)


def test_packages_do_not_go_round():
  """No package needs itself by way of others."""
  needs = {}
  for source, target in EDGES:
    if source[0] != target[0]:
      needs.setdefault(source[0], set()).add(target[0])
  for start in needs:
    reached, todo = set(), {start}
    while todo:
      todo = set().union(*(needs.get(name, ()) for name in todo)) - reached
      reached |= todo
    assert start not in reached, start


@pytest.mark.parametrize(
    'folder', ['data.text', 'models.nn', 'experiments._harness']
)
def test_folders_below(folder):
  """What a folder at the bottom of its package needs does not need it."""
  low = tuple(folder.split('.'))
  inside = lambda module: module[: len(low)] == low
  needs = {}
  for source, target in EDGES:
    needs.setdefault(source, set()).add(target)
  reached = set()
  todo = {
      target
      for source, target in EDGES
      if inside(source) and not inside(target) and target[0] == low[0]
  }
  while todo:
    reached |= todo
    todo = set().union(*(needs.get(module, ()) for module in todo)) - reached
  assert not sorted('.'.join(module) for module in reached if inside(module))


def test_files_are_short():
  assert not {
      str(path.relative_to(PACKAGE)): lines
      for path in FILES
      if (lines := len(path.read_text(encoding='utf-8').splitlines())) > 400
  }
