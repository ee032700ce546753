"""The programs as a person starts them, in processes of their own."""

import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from programs import ROOT, run, start
from run_folders import assert_same_run, rows

import iblm_jax
from iblm_jax.training import checkpoints

STEPS = 48
SMOKE = [
    '--config=configs/multiplication.py:smoke',
    '--config.model.width=16',
    '--config.data.batch_size=8',
    '--config.data.multiplication.eval_rows=16',
    f'--config.train.num_steps={STEPS}',
    '--config.train.log_every=3',
    '--config.train.eval_every=16',
    '--config.train.checkpoint_every=8',
]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A short run, uninterrupted."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  run('main', *SMOKE, f'--workdir={workdir}')
  return workdir


def start_and_stop(workdir, number, after_step, *args):
  """Starts a run and sends it a signal once it has reported a step."""
  started = start('main', *SMOKE, *args, f'--workdir={workdir}')
  reported = re.compile(r'^step (\d+)/', re.MULTILINE)
  started.wait_until(
      lambda: any(
          int(step) >= after_step for step in reported.findall(started.stdout)
      )
  )
  if number == signal.SIGKILL:
    time.sleep(random.random() * 0.03)
  started.send_signal(number)
  started.wait()
  return started


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
  killed = start_and_stop(workdir, signal.SIGKILL, after_step)
  assert killed.poll() == -signal.SIGKILL
  assert not (workdir / 'summary.json').exists()
  done = run('main', *SMOKE, f'--workdir={workdir}')
  if after_step > 16:  # by then the checkpoint of step 8 is on disk
    assert 'resumed from the checkpoint' in done.stdout
  assert_same_run(finished, workdir, STEPS)


def test_asked_to_stop_saves_first(finished, tmp_path):
  workdir = tmp_path / 'stopped'
  # No regular checkpoint before the end: what is there was saved on request.
  rarely = '--config.train.checkpoint_every=0'
  stopped = start_and_stop(workdir, signal.SIGTERM, 3, rarely)
  assert stopped.poll() == 143, str(stopped)
  said = re.search(r'asked to stop: saved at step (\d+)', stopped.stderr)
  step = int(said[1])
  assert checkpoints.intact_steps(workdir / 'checkpoints') == [step]
  done = run('main', *SMOKE, rarely, f'--workdir={workdir}')
  assert f'resumed from the checkpoint of step {step}' in done.stdout
  assert_same_run(finished, workdir, STEPS)


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


def test_every_program_starts_as_a_module():
  """The others here start by the function that this line calls."""
  starting = []
  for path in sorted(pathlib.Path(iblm_jax.__file__).parent.rglob('*.py')):
    text = path.read_text()
    if '\ndef run() -> None:' in text:
      starting.append(path.stem)
      assert text.endswith("\n\nif __name__ == '__main__':\n  run()\n"), path
  assert {'main', 'report', 'generate', 'prepare', 'cycle'} <= set(starting)
  done = subprocess.run(
      [sys.executable, '-m', 'iblm_jax.main', '--no_such_flag'],
      cwd=ROOT, capture_output=True, text=True, check=False,
  )
  assert done.returncode == 2 and 'no_such_flag' in done.stderr


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
