"""The pages of results say what their files say, and the files their rows."""

import os
import pathlib
import re
import subprocess
import sys

import observations
import pytest

from iblm_jax.experiments._harness import results
from iblm_jax.reports import tables

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / 'docs/results'


def update(folder, *flags):
  return subprocess.run(
      [sys.executable, FOLDER / 'update.py', f'--folder={folder}', *flags],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
      check=False,
  )


def test_pages_agree_with_their_files():
  for page in FOLDER.glob('*.md'):
    text = page.read_text(encoding='utf-8')
    new = tables.rewrite(text, lambda name: results.read(FOLDER / name))
    assert text == new, f'{page.name}: run docs/results/update.py'


def test_summaries_are_those_of_the_rows():
  for path in FOLDER.glob('*.json'):
    tree = results.read(path)
    summary = results.summarise(tree['rows'])
    paired = results.compare(tree['rows'], tree['paired']['baseline'])
    for kept, found in ((tree['summary'], summary), (tree['paired'], paired)):
      assert flat(kept) == pytest.approx(flat(found), rel=1e-4), path.name


def test_columns_show_the_metric_that_they_are_called_after():
  """Those of the published tables are those that the programs make.

  What the programs make is held to what version 0.1 made by their own tests.
  """
  folder, seen = observations.made() / 'results', 0
  for path in sorted(FOLDER.glob('*.json')):
    name = path.stem.removeprefix('multiplication_')
    made = folder / f'{name.removesuffix("_transformer")}.json'
    if not made.exists():
      continue
    small = results.read(made)['tables']
    for table_name, table in results.read(path)['tables'].items():
      columns = small.get(table_name, {'columns': []})['columns']
      metrics = {label: _any_row(metric) for metric, label, _ in columns}
      for metric, label, _ in table['columns']:
        where = f'{path.name}, {table_name}, {label}'
        assert metrics.get(label, _any_row(metric)) == _any_row(metric), where
        seen += label in metrics
  assert seen > 100


def _any_row(metric):
  """Rows of text are longer than those of a small model."""
  return re.sub(r'/patch_\d+$', '/patch', metric)


def test_figures_of_the_pages_are_there():
  for page in FOLDER.glob('*.md'):
    text = page.read_text(encoding='utf-8')
    for part in text.split('](')[1:]:
      target = part.split(')')[0].split('#')[0]
      if target and '://' not in target:
        assert (FOLDER / target).exists(), f'{page.name}: no {target}'


def test_a_page_is_filled_in_and_checked(tmp_path):
  results.write(
      tmp_path / 'toy.json',
      experiment='toy',
      claim='b is below a.',
      command='none',
      settings={},
      rows=[
          {'method': method, 'seed': seed, 'loss': loss + seed}
          for method, loss in (('a', 2.0), ('b', 1.0))
          for seed in range(3)
      ],
      baseline='a',
      tables={
          'main': {
              'methods': ['a', 'b'],
              'columns': [['loss', 'Loss', 1]],
              'paired': False,
          }
      },
      wall_seconds=1.0,
  )
  page = tmp_path / 'toy.md'
  before = (
      '# Toy\n<!-- table: toy.json main -->\n<!-- end -->\n'
      'Lower by <!-- value: toy.json paired.b.loss 2 --><!-- end -->.\n'
  )
  page.write_text(before)

  checked = update(tmp_path, '--check')
  assert checked.returncode == 1
  assert 'toy.md' in checked.stderr
  assert page.read_text() == before

  assert update(tmp_path).returncode == 0
  after = page.read_text()
  # The interval of (2, 3, 4): 4.303 / sqrt(3) = 2.484 to each side.
  assert '| a | 3.0 [0.5, 5.5] | 3 |\n| b | 2.0 [-0.5, 4.5] | 3 |' in after
  assert '-->-1.00 [-1.00, -1.00]<!-- end -->' in after


def flat(tree, path=()):
  """Numbers by path; None becomes 0 beside a mark that it was None."""
  if isinstance(tree, dict):
    items = tree.items()
  elif isinstance(tree, list):
    items = enumerate(tree)
  elif isinstance(tree, str) or tree is None:
    return {(*path, tree): 0}
  else:
    return {path: tree}
  leaves = {}
  for key, node in items:
    leaves |= flat(node, (*path, key))
  return leaves
