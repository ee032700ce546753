"""Reports of runs of every family, also of one that nothing registers."""

import json

import pytest
from programs import run

from iblm_jax import config, config_files
from iblm_jax.reports import figures, page, runs


def write_run(folder, tree):
  """A run of two lines, one of each kind."""
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(tree))
  lines = [
      {'step': 1, 'train/cross_entropy': 2.0, 'train/mbe/layer_00': 1.5},
      {'step': 2, 'eval/heldout/cross_entropy': 1.75,
       'eval/heldout/mbe/layer_00': 1.25},
  ]
  (folder / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines)
  )
  return folder


def tree_of(name, **sizes):
  """The config of a run whose parts measure windows of these sizes."""
  tree = config.to_dict(config.from_dict(config_files.load(name, 'smoke')))
  for part, size in sizes.items():
    stack = tree['model'] if part == 'model' else tree['model'][part]
    stack['entropy'] |= {'alpha': 1.5, 'patch_size': size}
  return tree


# The encoder comes first where there is one.
CASES = {
    'multiplication': {'model': 4},
    'autoencoder': {'encoder': 4, 'decoder': 8},
    'memory': {'encoder': 4, 'decoder': 8},
}


@pytest.mark.parametrize('name', CASES)
def test_the_entropy_is_that_of_the_layers_that_are_measured(tmp_path, name):
  write_run(tmp_path / name, tree_of(name, **CASES[name]))
  read = runs.read_runs([tmp_path / name])
  (row,) = runs.table(read)
  assert (row['alpha'], row['patch_size']) == (1.5, 4)
  assert row['eval/heldout/cross_entropy'] == 1.75
  (axis,) = figures.entropy_figure(read).axes
  title = axis.get_title(loc='left')
  assert title.endswith('entropy of order 1.5 in windows of 4 tokens')


def test_a_family_that_nothing_registers(tmp_path):
  tree = tree_of('multiplication')
  tree['model'] = {'family': 'somebodys', 'vocab_size': 15}
  write_run(tmp_path / 'a', tree)
  read = runs.read_runs([tmp_path / 'a'])
  (row,) = runs.table(read)
  assert (row['alpha'], row['patch_size']) == ('', '')
  (axis,) = figures.entropy_figure(read).axes
  assert axis.get_title(loc='left') == 'a (gapt): entropy'
  assert '<td>somebodys' not in page.make_page('a', runs.table(read), [])


def test_families_are_compared(tmp_path):
  folders = [
      write_run(tmp_path / name, tree_of(name, **options))
      for name, options in CASES.items()
  ]
  run('report', *folders, f'--out={tmp_path}/report')
  header, *rows = (tmp_path / 'report/table.csv').read_text().splitlines()
  assert header.startswith('run,method,seed,weight,alpha,patch_size')
  assert [row.split(',')[0] for row in rows] == list(CASES)
  assert (tmp_path / 'report/entropy.png').exists()
