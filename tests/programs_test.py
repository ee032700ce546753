"""The programs as a person starts them, in processes of their own."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from iblm_jax import config
from iblm_jax.training import checkpoints, metrics
from iblm_jax.training import mesh as mesh_lib
from iblm_jax.training import program as program_lib

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = [
    '--config=configs/multiplication.py:smoke',
    '--config.model.width=16',
    '--config.data.batch_size=8',
    '--config.data.multiplication.eval_rows=16',
    '--config.train.num_steps=48',
    '--config.train.log_every=3',
    '--config.train.eval_every=16',
    '--config.train.checkpoint_every=8',
]


def program(name, *args):
  return [sys.executable, '-m', f'iblm_jax.{name}', *map(str, args)]


def run(name, *args, status=0):
  done = subprocess.run(
      program(name, *args), cwd=ROOT, capture_output=True, text=True,
      check=False,
  )
  assert done.returncode == status, done.stdout + done.stderr
  return done


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A short run, uninterrupted."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  run('main', *SMOKE, f'--workdir={workdir}')
  return workdir


def rows(workdir):
  """Metrics without those that depend on the clock."""
  return [
      {k: v for k, v in row.items() if not k.startswith('perf/')}
      for row in metrics.read_metrics(workdir / 'metrics.jsonl')
  ]


def final_params(workdir):
  cfg = config.read_run(workdir)
  mesh = mesh_lib.make_mesh(cfg.mesh, jax.devices())
  with checkpoints.Checkpoints(
      workdir / 'checkpoints', read_only=True
  ) as store:
    step, state, data = store.restore(program_lib.abstract_state(cfg, mesh))
  assert (step, data) == (48, {'next_index': 48})
  return state


def assert_same_run(a, b):
  assert rows(a) == rows(b)
  left, right = (
      jax.tree_util.tree_leaves_with_path(final_params(x)) for x in (a, b)
  )
  for (path, x), (other, y) in zip(left, right, strict=True):
    assert path == other
    np.testing.assert_array_equal(x, y, err_msg=str(path))


def start_and_stop(workdir, number, after_step, *args):
  """Starts a run and sends it a signal once it has reported a step."""
  seen = []
  with subprocess.Popen(
      program('main', *SMOKE, *args, f'--workdir={workdir}'), cwd=ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  ) as process:
    for line in process.stdout:
      seen.append(line)
      if line.startswith('step') and int(line.split()[1].split('/')[0]) >= (
          after_step
      ):
        if number == signal.SIGKILL:
          time.sleep(random.random() * 0.03)
        os.kill(process.pid, number)
        break
    seen += process.stdout.readlines()
  return process.returncode, ''.join(seen)


def test_what_a_run_leaves(finished):
  summary = json.loads((finished / 'summary.json').read_text())
  assert summary['steps'] == 48 and summary['method'] == 'gapt'
  assert set(summary['eval']) == {'in_distribution', 'out_of_distribution'}
  assert 0 <= summary['phases']['share_compression'] <= 1
  assert json.loads((finished / 'config.json').read_text())['model']
  last = rows(finished)[-1]
  for name in ('cross_entropy', 'mbe', 'accuracy', 'mbe/layer_00'):
    key = f'eval/in_distribution/{name}'
    assert last[key] == summary['eval']['in_distribution'][name]
  train = [row for row in rows(finished) if 'train/loss' in row]
  assert [row['step'] for row in train] == [1, *range(3, 49, 3)]
  assert {
      'train/loss', 'train/cross_entropy', 'train/mbe', 'train/mbe/layer_00',
      'gapt/phase', 'optim/learning_rate', 'optim/grad_norm',
  } <= train[0].keys()


@pytest.mark.parametrize('after_step', [1, 20])
def test_killed_and_resumed_is_bit_for_bit_the_same(
    finished, tmp_path, after_step
):
  workdir = tmp_path / 'killed'
  status, _ = start_and_stop(workdir, signal.SIGKILL, after_step)
  assert status == -signal.SIGKILL
  assert not (workdir / 'summary.json').exists()
  done = run('main', *SMOKE, f'--workdir={workdir}')
  if after_step > 16:  # by then the checkpoint of step 8 is on disk
    assert 'resumed from the checkpoint' in done.stdout
  assert_same_run(finished, workdir)


def test_asked_to_stop_saves_first(finished, tmp_path):
  workdir = tmp_path / 'stopped'
  # No regular checkpoint before the end: what is there was saved on request.
  rarely = '--config.train.checkpoint_every=0'
  status, output = start_and_stop(workdir, signal.SIGTERM, 3, rarely)
  assert status == 143, output
  step = int(output.split('asked to stop: saved at step ')[1].split()[0])
  assert checkpoints.intact_steps(workdir / 'checkpoints') == [step]
  done = run('main', *SMOKE, rarely, f'--workdir={workdir}')
  assert f'resumed from the checkpoint of step {step}' in done.stdout
  assert_same_run(finished, workdir)


def test_finished_run_is_left_alone(finished):
  before = {p: p.read_bytes() for p in finished.rglob('*') if p.is_file()}
  done = run('main', *SMOKE, f'--workdir={finished}')
  assert 'finished at step 48' in done.stdout
  assert {
      p: p.read_bytes() for p in finished.rglob('*') if p.is_file()
  } == before


def test_another_config_is_refused(finished):
  before = {p: p.read_bytes() for p in finished.rglob('*') if p.is_file()}
  done = run(
      'main', *SMOKE, '--config.objective.weight=0.7',
      f'--workdir={finished}', status=2,
  )
  assert 'config.objective.weight is 0.1 there and 0.7 here' in done.stderr
  assert {
      p: p.read_bytes() for p in finished.rglob('*') if p.is_file()
  } == before


@pytest.mark.parametrize(
    'args, message',
    [
        (['--config=configs/multiplication.py:none'], 'variant must be one of'),
        (['--config=configs/missing.py'], 'missing.py'),
        ([*SMOKE, '--config.gate.patience_main=0'], 'patience_main'),
        ([*SMOKE, '--config.gate.patiense=3'], 'patiense'),
        ([*SMOKE, '--config.model.entropy.alpha=-1'], 'alpha'),
        ([*SMOKE, '--config.model.entropy.patch_size=64'],
         "patch_size must be at most the length of a row, 16 in 'train'"),
        ([*SMOKE, '--config.model.vocab_size=9'],
         'vocab_size must be at least that of the data, 15, got 9'),
        ([*SMOKE, '--no_such_flag'], 'no_such_flag'),
        (['--config=configs/text.py:smoke'], 'paths'),
        (['--config=configs/text.py:smoke', '--config.data.text.paths=no.txt'],
         'no.txt'),
        (['--config=configs/gpt2.py:small_ce'],
         'fineweb10B/fineweb_train_*.bin'),
        ([*SMOKE, '--topology=v5e:4x4'], 'topology is for compile_only'),
        ([*SMOKE, '--compile_only', '--topology=v9:4x4'],
         "or v5p-256, got 'v9:4x4'"),
        ([*SMOKE, '--num_processes=2'], 'go together'),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(tmp_path, args, message):
  workdir = tmp_path / 'never'
  done = run('main', *args, f'--workdir={workdir}', status=2)
  lines = done.stderr.strip().splitlines()
  assert message in lines[-1] and 'Traceback' not in done.stderr
  assert not workdir.exists()


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
  done = run(
      'main', *SMOKE, '--config.optimizer.schedule.peak=1e30',
      '--config.optimizer.clip_norm=1e30', f'--workdir={tmp_path}', status=1,
  )
  assert 'training stopped' in done.stderr
  assert 'Last checkpoint' in done.stderr and 'Traceback' not in done.stderr


def test_report(finished, tmp_path):
  out = tmp_path / 'report'
  run('report', finished, finished, f'--out={out}')
  for name in ('loss', 'entropy', 'profile'):
    assert (out / f'{name}.png').read_bytes().startswith(b'\x89PNG')
  page = (out / 'report.html').read_text()
  assert page.count('data:image/png;base64,') == 3
  assert 'http' not in page
  header, *lines = (out / 'table.csv').read_text().splitlines()
  assert header.startswith('run,method,seed,weight') and len(lines) == 2


def test_compile_only_says_what_the_step_needs(tmp_path):
  """Without data: the files of this config are not here."""
  done = run(
      'main', '--config=configs/fineweb.py:smoke', '--compile_only',
      f'--workdir={tmp_path}',
  )
  assert [path.name for path in tmp_path.iterdir()] == ['compile.json']
  report = json.loads((tmp_path / 'compile.json').read_text())
  assert f'{report["parameters"]:,} parameters' in done.stdout
  assert report['tokens_per_step'] == 4 * 128
  assert 'memory of a device' in done.stdout


def test_report_refuses(tmp_path):
  done = run('report', tmp_path, f'--out={tmp_path}/r', status=2)
  assert 'holds no run' in done.stderr
  assert not (tmp_path / 'r').exists()
  done = run('report', f'--out={tmp_path}/r', status=2)
  assert 'RUN [RUN ...]' in done.stderr


def test_generate(finished):
  args = [f'--workdir={finished}', '--prompt=12x34=', '--max_tokens=8']
  greedy = run('generate', *args).stdout
  assert greedy.startswith('12x34=')
  sampled = run('generate', *args, '--temperature=2', '--top_k=5').stdout
  assert sampled.startswith('12x34=')
  done = run('generate', *args, '--top_k=99', status=2)
  assert 'top_k must lie in [1, 15], got 99' in done.stderr


def test_generate_refuses(finished, tmp_path):
  done = run('generate', f'--workdir={tmp_path}', '--prompt=1', status=2)
  assert 'holds no run' in done.stderr
  done = run('generate', f'--workdir={finished}', '--prompt=abc', status=2)
  assert 'Traceback' not in done.stderr
