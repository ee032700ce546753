"""A row of results, from a folder whose numbers were written by hand."""

import json
import shutil

import observations
import pytest
from etils import epath

from iblm_jax.experiments._harness import rows

SETS = ('in_distribution', 'out_of_distribution')
METRICS = ('cross_entropy', 'accuracy', 'exact_match')


def number(step, which, metric):
  """Differs for every evaluation; the first set is best at step 200."""
  best = {0: 4.0, 100: 3.0, 200: 1.0, 300: 2.0}[step]
  return 100.0 * SETS.index(which) + 10.0 * METRICS.index(metric) + best


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of 300 updates; the parameters are those of a shorter one."""
  folder = tmp_path_factory.mktemp('rows') / 'run'
  shutil.copytree(observations.made() / 'runs/decoder', folder)
  tree = json.loads((folder / 'config.json').read_text())
  tree['train']['num_steps'] = 300
  tree['objective'] |= {'skip_first': 0, 'skip_last': 1}
  if 'total_steps' in tree['optimizer']['schedule']:
    tree['optimizer']['schedule']['total_steps'] = 300
  (folder / 'config.json').write_text(json.dumps(tree))
  lines = [
      {'step': step, 'train/cross_entropy': 1000.0 if step <= 200 else step}
      for step in range(10, 301, 10)
  ]
  lines += [
      {'step': step}
      | {
          f'eval/{which}/{metric}': number(step, which, metric)
          for which in SETS
          for metric in METRICS
      }
      for step in (0, 100, 200, 300)
  ]
  lines.sort(key=lambda line: line['step'])
  (folder / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines)
  )
  summary = {
      'eval': {
          which: {metric: number(300, which, metric) for metric in METRICS}
          for which in SETS
      },
      'phases': {'num_switches': 7},
      'wall_seconds': 12.5,
  }
  (folder / 'summary.json').write_text(json.dumps(summary))
  return epath.Path(folder)


@pytest.fixture(scope='module')
def row(run):
  return rows.make_row('a', 4, run, select='in_distribution', max_batches=1)


def test_every_number_is_of_its_set_and_step(row):
  assert (row['method'], row['seed']) == ('a', 4)
  for which in SETS:
    for metric in METRICS:
      name = f'{which}/{metric}'
      assert row[name] == number(300, which, metric), name
      assert row[f'stopped/{name}'] == number(200, which, metric), name
  assert row['stopped/step'] == 200
  assert row['phases/num_switches'] == 7 and row['wall_seconds'] == 12.5


def test_the_training_loss_is_that_of_the_last_hundred_updates(row):
  assert row['train/cross_entropy'] == sum(range(210, 301, 10)) / 10


def test_layers_that_carry_the_loss_are_averaged(row):
  """Of three, the first is not skipped and the last is."""
  for name in ('entropy/order_2', 'entropy_centered/order_2', 'mean_share'):
    layers = [row[f'{name}/layer_{layer:02d}'] for layer in range(3)]
    assert row[name] == pytest.approx((layers[0] + layers[1]) / 2)
    assert row[name] != pytest.approx(sum(layers) / 3)


def test_a_row_is_made_once(run, row):
  again = rows.make_row('b', 5, run, select='out_of_distribution')
  assert again == row | {'method': 'b', 'seed': 5}
