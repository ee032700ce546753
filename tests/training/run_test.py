"""A run claims, locks and completes its own folder."""

import json
import os
import platform
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax import errors, training
from iblm_jax.training import lock, loop


class Squares:
  """Rows that any batch number gives; token t follows token t - 1 by rule."""

  batch_size, length, vocab_size = 4, 8, 11

  def __init__(self, num_eval_batches=None):
    self.num_eval_batches = num_eval_batches

  def batch(self, k, rows=None):
    rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
    first_B = (7 * k + rows) % self.vocab_size
    all_BxL1 = (first_B[:, None] + np.arange(self.length + 1)) % self.vocab_size
    ones = np.ones([rows.size, self.length])
    return {
        'tokens': all_BxL1[:, :-1].astype(np.int32),
        'targets': all_BxL1[:, 1:].astype(np.int32),
        'loss_mask': ones.astype(bool),
        'mask': ones.astype(bool),
        'segment_ids': ones.astype(np.int32),
        'positions': np.broadcast_to(
            np.arange(self.length, dtype=np.int32), ones.shape
        ),
    }


def small(tiny, steps=6):
  tiny['model']['vocab_size'] = 11
  tiny['model']['entropy'] = dict(patch_size=4)
  tiny['data'] = dict(batch_size=4)
  tiny['train'] = dict(
      num_steps=steps, log_every=1, eval_every=3, checkpoint_every=3
  )
  tiny['optimizer']['schedule']['warmup_steps'] = 1
  return tiny


class Recorder:
  """A writer of one's own."""

  def __init__(self):
    self.lines = []

  def write(self, step, values):
    self.lines.append((step, sorted(values)))

  def flush(self):
    pass

  def close(self):
    pass


def train(cfg, folder, **more):
  return training.train(
      cfg,
      folder,
      source=Squares(),
      eval_sources={'mine': Squares(2)},
      report=lambda line: None,
      **more,
  )


def leaves(cfg, folder):
  restored = training.restore_params(cfg, folder)
  return restored.step, jax.tree.leaves(restored.params)


def test_a_source_of_ones_own_trains_and_resumes_bit_for_bit(tiny, tmp_path):
  cfg = config_lib.from_dict(small(tiny))
  recorder = Recorder()
  summary = train(cfg, tmp_path / 'whole', writers=[recorder])
  assert summary['steps'] == 6 and 'cross_entropy' in summary['eval']['mine']
  found = {p.name for p in (tmp_path / 'whole').iterdir()}
  assert found == {
      'config.json', 'metrics.jsonl', 'checkpoints', 'summary.json'
  }
  logged = training.read_metrics(tmp_path / 'whole' / 'metrics.jsonl')
  assert [line['step'] for line in logged] == [s for s, _ in recorder.lines]
  assert config_lib.read_run(tmp_path / 'whole') == cfg

  class Stops(Squares):

    def batch(self, k, rows=None):
      if k == 5:
        raise OSError('the disk is gone')
      return super().batch(k, rows)

  with pytest.raises(OSError, match='the disk is gone'):
    training.train(
        cfg, tmp_path / 'cut', source=Stops(), report=lambda line: None
    )
  train(cfg, tmp_path / 'cut')
  (step, whole), (step_, cut) = (
      leaves(cfg, tmp_path / name) for name in ('whole', 'cut')
  )
  assert step == step_ == 6
  for a, b in zip(whole, cut, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(batch_size=8), "data.batch_size must be .* 'train', 4, got 8"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(tiny, tmp_path, change, message):
  tree = small(tiny)
  tree['data'].update(change)
  with pytest.raises(ValueError, match=message):
    train(config_lib.from_dict(tree), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_evaluation_sets_need_a_source(tiny):
  with pytest.raises(ValueError, match='eval_sources need a source'):
    loop.prepare(
        config_lib.from_dict(small(tiny)), eval_sources={'mine': Squares(1)}
    )


def test_one_run_a_folder(tiny, tmp_path):
  cfg = config_lib.from_dict(small(tiny, steps=1))
  with lock.held(tmp_path):
    with pytest.raises(errors.RunFailed) as refused:
      train(cfg, tmp_path)
  assert f'process {os.getpid()} on {platform.node()}, since 2' in str(
      refused.value
  )
  assert not any(tmp_path.iterdir())  # nothing was written beside the lock
  assert train(cfg, tmp_path)['steps'] == 1


def test_a_killed_run_holds_nothing(tmp_path):
  script = (
      'import sys, time\nfrom iblm_jax.training import lock\n'
      f'with lock.held({str(tmp_path)!r}):\n'
      '  print("held", flush=True)\n  time.sleep(60)\n'
  )
  with subprocess.Popen(
      [sys.executable, '-c', script], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b'held\n'
    with pytest.raises(errors.RunFailed, match=f'process {process.pid} on'):
      with lock.held(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
  held = json.loads((tmp_path / '.lock').read_text())
  assert held['process'] == process.pid
  with lock.held(tmp_path):
    held = json.loads((tmp_path / '.lock').read_text())
    assert held['process'] == os.getpid()
  assert not any(tmp_path.iterdir())
