"""Runs of two processes with two devices each, as on two hosts.

Each process is `python -m iblm_jax.main`; they talk over the loopback network.
"""

import json
import re
import shutil
import signal
import socket
import time

import numpy as np
import programs
import pytest
from run_folders import assert_same_run, rows

from iblm_jax.training import checkpoints

STEPS = 36
ARGS = [
    '--config=multiplication:smoke',
    '--config.model.width=16',
    '--config.data.batch_size=8',
    '--config.data.multiplication.eval_rows=16',
    f'--config.train.num_steps={STEPS}',
    '--config.train.log_every=1',
    '--config.train.eval_every=18',
    '--config.train.checkpoint_every=12',
    # No step improves by half, so the phases alternate.
    '--config.gate.patience_main=3',
    '--config.gate.patience_aux=2',
    '--config.gate.rtol_main=0.5',
    '--config.gate.ema=0.0',
    '--config.mesh.fsdp=2',
]


def start(workdir, *args, processes=2, devices=2, folder=programs.ROOT):
  """Starts the processes of a run."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  started = []
  for index in range(processes):
    join = [
        f'--coordinator_address=127.0.0.1:{port}',
        f'--num_processes={processes}',
        f'--process_id={index}',
    ]
    started.append(
        programs.start(
            'main', *ARGS, *args, f'--workdir={workdir}',
            *(join if processes > 1 else []), devices=devices, folder=folder,
        )
    )
  return started


def finish(processes, status=0):
  """Waits for all; returns what they printed."""
  for process in processes:
    process.wait()
  told = '\n'.join(map(str, processes))
  for process in processes:
    assert process.poll() == status, told
    assert 'Traceback' not in process.stderr, told
  return [process.stdout + process.stderr for process in processes]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of two processes, uninterrupted."""
  workdir = tmp_path_factory.mktemp('two') / 'whole'
  outputs = finish(start(workdir))
  assert 'process 0 of 2' in outputs[0]
  assert 'step' not in outputs[1], 'one process speaks for all'
  return workdir


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
  """A run of two processes, both killed after a checkpoint."""
  workdir = tmp_path_factory.mktemp('two') / 'killed'
  processes = start(workdir)
  manifest = workdir / 'checkpoints/12/manifest.json'
  processes[0].wait_until(manifest.exists)
  for process in processes:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert not (workdir / 'summary.json').exists(), 'killed too late'
  return workdir


def close(a, b):
  assert [row['step'] for row in a] == [row['step'] for row in b]
  for one, other in zip(a, b, strict=True):
    assert one.keys() == other.keys()
    for name, value in one.items():
      if name.startswith('gapt/'):
        assert value == other[name], (one['step'], name)
      else:
        np.testing.assert_allclose(value, other[name], rtol=2e-4, atol=2e-6)
      if name == 'train/cross_entropy':
        np.testing.assert_allclose(value, other[name], rtol=1e-5)


def test_two_processes_train_as_one(whole, tmp_path):
  """Two with two devices each against one with four."""
  finish(start(tmp_path / 'one', processes=1, devices=4))
  ours, single = rows(whole), rows(tmp_path / 'one')
  phases = {row['gapt/phase'] for row in ours if 'gapt/phase' in row}
  assert phases == {1, 2}
  close(ours, single)
  summary = json.loads((whole / 'summary.json').read_text())
  assert (summary['processes'], summary['devices']) == (2, '4 x cpu')


def test_killed_and_resumed_equals_uninterrupted(whole, killed, tmp_path):
  workdir = tmp_path / 'resumed'
  shutil.copytree(killed, workdir)
  outputs = finish(start(workdir))
  assert 'resumed from the checkpoint of step' in outputs[0]
  assert_same_run(workdir, whole, STEPS)


def test_resumes_on_another_number_of_processes(whole, killed, tmp_path):
  workdir = tmp_path / 'resumed'
  shutil.copytree(killed, workdir)
  outputs = finish(start(workdir, processes=1, devices=4))
  assert 'resumed from the checkpoint of step' in outputs[0]
  close(rows(workdir), rows(whole))


def test_a_batch_that_does_not_split_is_refused(killed, tmp_path):
  workdir = tmp_path / 'resumed'
  shutil.copytree(killed, workdir)
  before = sorted(workdir.rglob('*'))
  (output,) = finish(
      start(workdir, processes=1, devices=6), status=2
  )
  assert 'multiple of the 6 pieces' in output
  assert sorted(workdir.rglob('*')) == before


def test_a_stop_of_one_stops_all_at_the_same_step(tmp_path):
  """SIGTERM to one process: both save the same step, say so and end."""
  workdir = tmp_path / 'stopped'
  processes = start(workdir)
  log = workdir / 'metrics.jsonl'
  processes[0].wait_until(lambda: log.exists() and len(rows(workdir)) >= 5)
  processes[1].send_signal(signal.SIGTERM)
  outputs = finish(processes, status=143)
  steps = [re.search(r'stop: saved at step (\d+)', out)[1] for out in outputs]
  assert steps[0] == steps[1]
  saved = checkpoints.intact_steps(workdir / 'checkpoints')
  assert saved[-1] == int(steps[0]) < STEPS


_FAILS = '''
import os, signal
import jax
from iblm_jax.data import pipeline
from iblm_jax.training.scale import distributed

distributed._SILENCE_SECONDS = 10
read = pipeline._Batches.__getitem__

def fail(self, index):
  if index == 3 and jax.process_index() == {who}:
    {how}
  return read(self, index)

pipeline._Batches.__getitem__ = fail
'''


@pytest.mark.parametrize(
    'who, how, status',
    [
        (0, 'os.kill(os.getpid(), signal.SIGKILL)', -9),
        (1, "raise OSError('the disk of this host is gone')", 1),
    ],
)
def test_when_one_fails_the_other_ends_with_one_line(
    tmp_path, who, how, status
):
  """One that is killed says nothing; JAX would print stacks, or wait."""
  (tmp_path / 'fails.py').write_text(_FAILS.format(who=who, how=how))
  processes = start(tmp_path / 'run', '--plugin=fails', folder=tmp_path)
  assert processes[who].wait() == status
  assert processes[1 - who].wait(timeout=60) not in (0, None)
  other = processes[1 - who]
  # Who has the last word of a process that was aborted may be a moment late.
  for _ in range(100):
    if other.stderr:
      break
    time.sleep(0.05)
  (line,) = other.stderr.splitlines()
  assert 'another process of this run has ended' in line, str(other)
  if status == 1:
    assert processes[who].stderr.endswith('the disk of this host is gone\n')
