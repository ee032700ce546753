"""The experiments that train, as a person starts them."""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import observations
import programs
import pytest
from etils import epath

from iblm_jax import cli, errors
from iblm_jax.experiments import cycle, multiplication, pretraining
from iblm_jax.experiments._harness import jobs, program, results, variants

ROOT = pathlib.Path(__file__).parents[2]


def check(workdir, methods, metrics, file='results.json', name=None):
  tree = results.read(workdir / file)
  assert {row['method'] for row in tree['rows']} == set(methods)
  for row in tree['rows']:
    for metric in metrics:
      assert isinstance(row[metric], float), (row['method'], metric)
  observations.check_results(name or tree['experiment'], tree)
  return tree


COMPRESSION = [
    f'{centre}/{order}'
    for centre in ('entropy', 'entropy_centered')
    for order in ('order_1', 'order_2', 'order_inf')
] + ['mean_share']


def start(module, workdir, *, smoke=True, **flags):
  """A program in this process, which compiles and imports less."""
  program.conduct(module.EXPERIMENT, str(workdir), smoke=smoke, **flags)


def test_multiplication_and_its_sweep(tmp_path, monkeypatch):
  programs.run('experiments.multiplication', f'--workdir={tmp_path}', '--smoke')
  tree = check(
      tmp_path,
      ['ce_tuned', 'gapt'],
      [
          *COMPRESSION,
          'stopped/in_distribution/cross_entropy',
          'out_of_distribution/cross_entropy',
          'in_distribution/exact_match',
      ],
  )
  assert tree['paired']['baseline'] == 'ce_tuned'
  assert (tmp_path / 'multiplication.png').stat().st_size > 10_000
  before = (tmp_path / 'tuning/decay_0.1_seed_100/metrics.jsonl').read_bytes()

  start(multiplication, tmp_path, seeds=1, sweep=True)
  check(tmp_path, ['ce:0', 'dual:1.1'], COMPRESSION, 'sweep.json', 'sweep')
  fresh = check(
      tmp_path, ['ce_tuned', 'best'], COMPRESSION, 'fresh.json', 'fresh'
  )
  # Neither what was tuned on nor what the methods were compared on.
  used = {*fresh['settings']['tuning']['seeds'], *range(5)}
  assert used.isdisjoint({row['seed'] for row in fresh['rows']})
  assert (tmp_path / 'pareto.png').exists()
  after = (tmp_path / 'tuning/decay_0.1_seed_100/metrics.jsonl').read_bytes()
  assert before == after, 'what is done is not trained again'

  # Without --smoke these are other runs: refused, and nothing is changed.
  with pytest.raises(cli.BadUsage, match='another config'):
    start(
        multiplication, tmp_path, seeds=1, sweep=False,
        smoke=False,
    )
  assert (tmp_path / 'results.json').exists()


def test_cycle(tmp_path, monkeypatch):
  start(cycle, tmp_path, seeds=1, text=None)
  tree = check(
      tmp_path,
      ['multiplication'],
      [
          *COMPRESSION, 'sign_changes', 'share_positive', 'p_permutation',
          'p_phase', 'agreement', 'reliability', 'layer_00/sign_changes',
          'norm_control/correlation',
      ],
  )
  for row in tree['rows']:
    assert 0 <= row['sign_changes'] <= 39
  assert (tmp_path / 'cycle_multiplication.png').exists()


def test_pretraining(tmp_path, monkeypatch):
  flags = dict(seeds=1, text=None, data=None, full=False)
  start(pretraining, tmp_path, **flags)
  tree = check(
      tmp_path, ['ce', 'mbe'], [*COMPRESSION, 'validation/cross_entropy']
  )
  assert tree['settings']['time_ratio'] > 0
  timing = json.loads((tmp_path / 'timing.json').read_text())
  spent = timing['median_seconds']
  ratio = spent['mbe'] / spent['ce']
  assert tree['settings']['time_ratio'] == timing['ratio'] == ratio
  # What a step with the entropy costs more is more steps of the baseline.
  steps = lambda ratio: pretraining.methods(100, ratio)['ce_equal_time']
  assert steps(1.25) == {'train.num_steps': 125}
  assert steps(0.9) == {'train.num_steps': 100}
  assert (tmp_path / 'curves.png').exists()


def test_pretraining_needs_a_text(tmp_path, monkeypatch):
  flags = dict(seeds=1, text=None, data=None, full=False)
  with pytest.raises(cli.BadUsage, match='one of --text and --data'):
    start(pretraining, tmp_path / 'never', smoke=False, **flags)
  assert not (tmp_path / 'never').exists()


def test_command_names_no_folder_of_the_machine(monkeypatch):
  argv = ['cycle.py', '--workdir=/here/runs', '--text=/there/a.txt,b/c.txt']
  monkeypatch.setattr(sys, 'argv', [*argv, '--seeds=3', '--smoke'])
  assert program.command('cycle') == (
      'python -m iblm_jax.experiments.cycle --workdir=DIR --text=a.txt,c.txt'
      ' --seeds=3 --smoke'
  )


def test_a_stopped_experiment_has_saved_its_runs(tmp_path):
  """SIGTERM goes to the program, which lets its run save."""
  base = variants.change(
      multiplication.BASE,
      {
          **multiplication.SMOKE,
          'train.num_steps': 600,
          'train.checkpoint_every': 0,
      },
  )
  todo = variants.make_runs(base, {'a': {}}, [0])
  folder = tmp_path / 'a_seed_0'
  log = folder / 'metrics.jsonl'

  def stop():
    while not (log.exists() and log.stat().st_size):
      time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=stop, daemon=True).start()
  with pytest.raises(errors.Preempted):
    jobs.train(
        todo, epath.Path(tmp_path), side_by_side=True, report=lambda line: None
    )
  assert not (folder / 'summary.json').exists()
  assert os.listdir(folder / 'checkpoints')
