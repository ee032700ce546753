"""The experiments that train, as a person starts them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from iblm_jax.experiments import results

ROOT = pathlib.Path(__file__).parents[2]


def command(name, *args):
  return [sys.executable, '-m', f'iblm_jax.experiments.{name}', *map(str, args)]


def run(name, *args, status=0):
  done = subprocess.run(
      command(name, *args), cwd=ROOT, capture_output=True, text=True,
      check=False,
  )
  assert done.returncode == status, done.stdout + done.stderr
  return done


def check(workdir, methods, metrics, file='results.json'):
  tree = results.read(workdir / file)
  assert {row['method'] for row in tree['rows']} == set(methods)
  for row in tree['rows']:
    for metric in metrics:
      assert isinstance(row[metric], float), (row['method'], metric)
  return tree


COMPRESSION = [
    f'{centre}/{order}'
    for centre in ('entropy', 'entropy_centered')
    for order in ('order_1', 'order_2', 'order_inf')
] + ['mean_share']


def test_multiplication_and_its_sweep(tmp_path):
  args = (f'--workdir={tmp_path}', '--smoke')
  run('multiplication', *args)
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

  run('multiplication', *args, '--sweep')
  check(tmp_path, ['ce:0', 'dual:1.1'], COMPRESSION, 'sweep.json')
  check(tmp_path, ['ce_tuned', 'best'], COMPRESSION, 'fresh.json')
  assert (tmp_path / 'pareto.png').exists()
  after = (tmp_path / 'tuning/decay_0.1_seed_100/metrics.jsonl').read_bytes()
  assert before == after, 'what is done is not trained again'

  # Without --smoke these are other runs: refused, and nothing is changed.
  refused = run('multiplication', f'--workdir={tmp_path}', status=2)
  assert 'another config' in refused.stderr
  assert (tmp_path / 'results.json').exists()


def test_cycle(tmp_path):
  run('cycle', f'--workdir={tmp_path}', '--smoke')
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


def test_pretraining(tmp_path):
  run('pretraining', f'--workdir={tmp_path}', '--smoke')
  tree = check(
      tmp_path, ['ce', 'mbe'], [*COMPRESSION, 'validation/cross_entropy']
  )
  assert tree['settings']['time_ratio'] > 0
  assert (tmp_path / 'curves.png').exists()
  refused = run('pretraining', '--workdir=never', status=2)
  assert 'one of --text and --data' in refused.stderr
  assert not (ROOT / 'never').exists()


def test_a_stopped_experiment_goes_on(tmp_path):
  """SIGTERM to the parent; its runs save, and the same command ends them."""
  code = (
      'import sys\n'
      'from etils import epath\n'
      'from iblm_jax import cli\n'
      'from iblm_jax.experiments import multiplication, runs, variants\n'
      'def main():\n'
      '  base = variants.change(multiplication.BASE, {**multiplication.SMOKE,\n'
      "      'train.num_steps': 600, 'train.checkpoint_every': 0})\n"
      "  todo = variants.make_runs(base, {'a': {}, 'b': {}}, [0])\n"
      f"  runs.train(todo, epath.Path({str(tmp_path)!r}), side_by_side=True)\n"
      'cli.run(main)\n'
  )
  process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT)
  logs = [tmp_path / f'{name}_seed_0' / 'metrics.jsonl' for name in 'ab']
  deadline = time.monotonic() + 300
  while not all(log.exists() and log.stat().st_size for log in logs):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  assert process.wait() == 143
  stopped = [log.parent for log in logs]
  assert not any((run / 'summary.json').exists() for run in stopped)
  assert all(os.listdir(run / 'checkpoints') for run in stopped)
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
  for folder in stopped:
    summary = json.loads((folder / 'summary.json').read_text())
    assert summary['steps'] == 600 and summary['resumed_from'] > 0
