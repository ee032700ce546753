"""results.json: computed from its rows, whole or not written."""

import copy
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.experiments._harness import results

ROWS = [
    {'method': 'ce', 'seed': 1, 'loss': 4.0, 'entropy': 2.0, 'set': 'a'},
    {'method': 'ce', 'seed': 0, 'loss': 2.0, 'entropy': 1.0, 'set': 'a'},
    {'method': 'gapt', 'seed': 0, 'loss': 1.0, 'phases': 3},
    {'method': 'gapt', 'seed': 1, 'loss': 2.0, 'phases': None},
    {'method': 'gapt', 'seed': 2, 'loss': math.nan, 'phases': 5},
]
TABLES = {
    'main': {
        'methods': ['ce', 'gapt'],
        'columns': [['loss', 'Loss', 3], ['entropy', 'Entropy', 2]],
        'paired': False,
    }
}
ARGUMENTS = dict(
    experiment='cycle',
    claim='There is a cycle.',
    command='python -m iblm_jax.experiments.cycle --workdir=DIR',
    settings={'rate': 0.123456789, 'layers': (1, 2)},
    rows=ROWS,
    baseline='ce',
    tables=TABLES,
    wall_seconds=12.3456789,
)
T1 = 12.7062  # Student's t, 95 %, 1 degree of freedom


def write(folder, **changes):
  return results.write(folder / 'results.json', **(ARGUMENTS | changes))


def test_the_file_holds_what_was_returned(tmp_path):
  tree = write(tmp_path)
  assert results.read(tmp_path / 'results.json') == tree
  text = (tmp_path / 'results.json').read_text()
  assert 'NaN' not in text and 'Infinity' not in text
  assert os.listdir(tmp_path) == ['results.json']


def test_summary_counts_the_rows_that_have_the_metric(tmp_path):
  summary = write(tmp_path)['summary']
  assert set(summary['ce']) == {'loss', 'entropy'}
  assert summary['ce']['loss']['mean'] == 3.0
  assert summary['ce']['loss']['n'] == 2
  # Standard error of (2, 4) is 1.
  assert summary['ce']['loss']['ci95'] == pytest.approx(
      [3 - T1, 3 + T1], rel=1e-5
  )
  assert summary['gapt']['loss']['n'] == 2
  assert summary['gapt']['phases']['mean'] == 4.0
  assert summary['gapt']['phases']['n'] == 2


def test_differences_are_of_common_seeds(tmp_path):
  paired = write(tmp_path)['paired']
  assert set(paired) == {'baseline', 'gapt'}
  assert paired['baseline'] == 'ce'
  assert set(paired['gapt']) == {'loss'}
  loss = paired['gapt']['loss']
  assert loss['mean'] == -1.5 and loss['n'] == 2
  assert loss['ci95'] == pytest.approx(
      [-1.5 - T1 / 2, -1.5 + T1 / 2], rel=1e-5
  )
  assert loss['relative']['mean'] == -50.0
  # The baseline's own interval, 3 +- 12.7, holds zero.
  assert loss['relative']['ci95'] == [None, None]


def test_one_seed_has_null_for_an_interval(tmp_path):
  tree = write(tmp_path, rows=[ROWS[0], ROWS[3]], tables={})
  assert tree['summary']['ce']['loss'] == {
      'mean': 4.0, 'ci95': [None, None], 'n': 1,
  }
  assert tree['paired']['gapt']['loss']['ci95'] == [None, None]


def test_numbers_are_rounded_and_settings_are_not(tmp_path):
  rows = [
      {'method': 'ce', 'seed': np.int64(s), 'x': jnp.float32(s + 1.23456789)}
      for s in range(3)
  ]
  tree = write(tmp_path, rows=rows, tables={})
  assert [row['x'] for row in tree['rows']] == [1.23457, 2.23457, 3.23457]
  assert tree['summary']['ce']['x']['mean'] == 2.23457
  assert tree['wall_seconds'] == 12.3457
  assert tree['settings'] == {'rate': 0.123456789, 'layers': [1, 2]}


def test_summary_can_be_found_again_from_the_file(tmp_path):
  rng = np.random.default_rng(0)
  rows = [
      {'method': m, 'seed': s, 'x': rng.normal(), 'y': rng.normal() * 1e-9}
      for m in ('ce', 'mbe') for s in range(5)
  ]
  write(tmp_path, rows=rows, tables={})
  tree = results.read(tmp_path / 'results.json')
  assert results.summarise(tree['rows']) == tree['summary']
  assert results.compare(tree['rows'], 'ce') == tree['paired']


def test_machine_says_what_ran_and_not_where(tmp_path):
  tree = write(tmp_path)
  machine = tree['machine']
  assert machine['cpus'] == os.cpu_count()
  assert machine['devices'].endswith(jax.devices()[0].device_kind)
  assert machine['versions']['jax'] == jax.__version__
  text = json.dumps(tree)
  assert os.uname().nodename not in text
  assert os.getcwd() not in text and str(tmp_path) not in text


def test_a_refused_write_leaves_the_old_file(tmp_path):
  tree = write(tmp_path)
  with pytest.raises(ValueError, match='no row is of'):
    write(tmp_path, rows=ROWS[2:], baseline=None)
  with pytest.raises(TypeError):
    write(tmp_path, settings={'object': object()})
  assert results.read(tmp_path / 'results.json') == tree


@pytest.mark.parametrize(
    'changes, match',
    [
        (dict(rows=[*ROWS, ROWS[0]]), "'ce' has two rows of seed 1"),
        (dict(rows=[{'seed': 1}]), 'needs a method'),
        (dict(rows=[{'method': 'ce', 'seed': 'x'}]), 'needs a method'),
        (dict(rows=[{'method': 'baseline', 'seed': 0}]), 'can be named'),
        (dict(baseline='cee'), r"baseline must be one of \['ce', 'gapt'\]"),
        (dict(tables={'t': {'methods': ['x'], 'columns': [], 'paired': False}}),
         r"table 't': no row is of \['x'\]"),
        (dict(tables={'t': {'methods': [], 'columns': [['los', 'L', 2]],
                            'paired': False}}),
         r"table 't': no row has \['los'\]"),
        (dict(tables={'t': {'methods': [], 'columns': ['loss'],
                            'paired': False}}),
         "table 't' needs methods, columns"),
        (dict(baseline=None,
              tables={'t': {'methods': [], 'columns': [], 'paired': True}}),
         "table 't' is paired, but there is no baseline"),
        (dict(tables={'t': {'methods': [], 'columns': [], 'paired': False,
                            'relative': True}}),
         "table 't' is relative, so it must be paired"),
    ],
)
def test_bad_results_are_refused(tmp_path, changes, match):
  with pytest.raises(ValueError, match=match):
    write(tmp_path, **changes)
  assert not os.listdir(tmp_path)


def test_reading_something_else_is_refused(tmp_path):
  path = tmp_path / 'results.json'
  tree = write(tmp_path)
  for name in tree:
    damaged = copy.deepcopy(tree)
    del damaged[name]
    path.write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match=f"no results: '{name}' is missing"):
      results.read(path)
  for text in ('{"experiment":', '[]', '3'):
    path.write_text(text)
    with pytest.raises(ValueError, match='results.json holds no results'):
      results.read(path)
  with pytest.raises(OSError):
    results.read(tmp_path / 'none.json')
