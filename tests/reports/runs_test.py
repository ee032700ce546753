"""Reports of runs of every family, also of one that nothing registers."""

import io
import json
import os
import subprocess
import sys

import pytest
from matplotlib.legend import Legend
from matplotlib.text import Text
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


@pytest.mark.parametrize('name', ['$x^$', 'a$_{', '_b', 'c\\'])
def test_names_of_runs_are_shown_as_they_are(tmp_path, name):
  write_run(tmp_path / name, tree_of('multiplication'))
  read = runs.read_runs([tmp_path / name])
  for draw in (
      figures.loss_figure, figures.entropy_figure, figures.profile_figure
  ):
    drawn = draw(read)
    drawn.savefig(io.BytesIO(), format='png')
    shown = [text.get_text() for text in drawn.findobj(Text)]
    assert any(name in text for text in shown)
  (legend,) = figures.loss_figure(read).findobj(Legend)
  assert [text.get_text().strip() for text in legend.get_texts()] == [
      f'{name} (gapt)'
  ]


def test_powers_of_ten_stay_powers():
  @figures.styled
  def draw():
    figure, axes = figures.subplots(1, 1, figsize=(3, 3))
    axes[0, 0].plot([1, 10], [1e-3, 1e3])
    axes[0, 0].set(yscale='log', title='$')
    return figure

  drawn = draw()
  drawn.savefig(io.BytesIO(), format='png')
  powers = drawn.axes[0].get_yticklabels()
  assert powers and all(label.get_parse_math() for label in powers)
  assert '$' in powers[0].get_text()


def test_a_backend_for_notebooks_is_not_asked_for():
  code = (
      'import io, os; from iblm_jax.reports import figures;'
      ' figures.subplots(1, 1, figsize=(2, 2))[0].savefig(io.BytesIO());'
      ' print(os.environ["MPLBACKEND"])'
  )
  done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=False,
      env=os.environ | {'MPLBACKEND': 'module://of_no_package.backend'},
  )
  assert done.stdout == 'module://of_no_package.backend\n', done.stderr


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
