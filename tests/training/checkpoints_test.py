import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from iblm_jax.training import checkpoints


def make_state(value):
  return {
      'w': jnp.full([64, 8], float(value)),
      'step': jnp.asarray(value, jnp.int32),
  }


def abstract_state():
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
      make_state(0),
  )


@pytest.fixture
def folder(tmp_path):
  """Checkpoints of steps 1, 2 and 3."""
  path = tmp_path / 'checkpoints'
  with checkpoints.Checkpoints(path) as store:
    for step in (1, 2, 3):
      store.save(step, make_state(step), {'next_index': 10 * step})
    store.wait(3)
  return path


def restore(folder, **kwargs):
  messages = []
  with checkpoints.Checkpoints(
      folder, report=messages.append, **kwargs
  ) as store:
    restored = store.restore(abstract_state())
  return restored, messages


def contents(folder):
  return {
      str(path.relative_to(folder)): path.read_bytes()
      for path in sorted(folder.rglob('*'))
      if path.is_file()
  }


def test_round_trip(folder):
  (step, state, data), messages = restore(folder)
  assert (step, data, messages) == (3, {'next_index': 30}, [])
  assert int(state['step']) == 3
  np.testing.assert_array_equal(state['w'], 3.0)


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with checkpoints.Checkpoints('run/checkpoints') as store:
    store.save(1, make_state(1), {})
    store.wait(1)
  assert checkpoints.intact_steps(tmp_path / 'run' / 'checkpoints') == [1]
  assert restore('run/checkpoints')[0][0] == 1


def test_nothing_saved(tmp_path):
  restored, messages = restore(tmp_path / 'none')
  assert restored is None and messages == []


def test_keeps_the_newest(tmp_path):
  with checkpoints.Checkpoints(tmp_path, keep=2) as store:
    for step in range(1, 6):
      store.save(step, make_state(step), {})
    store.wait(5)
    assert store.steps() == [4, 5]
  assert checkpoints.intact_steps(tmp_path) == [4, 5]


def _files_of(folder):
  return [path for path in sorted(folder.rglob('*')) if path.is_file()]


def test_every_flipped_bit_is_noticed(folder):
  rng = np.random.default_rng(0)
  files = _files_of(folder / '3')
  assert len(files) > 5
  for path in files:
    original = path.read_bytes()
    if not original:
      continue
    damaged = bytearray(original)
    damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    path.write_bytes(bytes(damaged))
    assert checkpoints.find_damage(epath.Path(folder) / '3') is not None, path
    path.write_bytes(original)
    assert checkpoints.find_damage(epath.Path(folder) / '3') is None


@pytest.mark.parametrize('how', ['flip', 'truncate', 'delete', 'no manifest'])
def test_falls_back_to_the_one_before(folder, how):
  target = max(_files_of(folder / '3'), key=lambda path: path.stat().st_size)
  match how:
    case 'flip':
      damaged = bytearray(target.read_bytes())
      damaged[len(damaged) // 2] ^= 1
      target.write_bytes(bytes(damaged))
    case 'truncate':
      target.write_bytes(target.read_bytes()[:-1])
    case 'delete':
      target.unlink()
    case 'no manifest':
      (folder / '3' / 'manifest.json').unlink()
  damaged_files = contents(folder / '3')
  (step, state, data), messages = restore(folder)
  assert (step, data) == (2, {'next_index': 20})
  np.testing.assert_array_equal(state['w'], 2.0)
  assert len(messages) == 1
  assert 'step 3 is damaged' in messages[0]
  assert 'falling back to step 2' in messages[0]
  # Nothing is lost, and step 3 can be saved again.
  assert contents(folder.parent / 'damaged' / '3') == damaged_files
  with checkpoints.Checkpoints(folder) as store:
    store.save(3, make_state(33), {})
    store.wait(3)
  (step, state, _), _ = restore(folder)
  assert step == 3 and int(state['step']) == 33


def test_read_only_changes_nothing(folder):
  (folder / '3' / 'manifest.json').unlink()
  before = contents(folder)
  (step, _, _), messages = restore(folder, read_only=True)
  assert step == 2 and 'falling back' in messages[0]
  assert contents(folder) == before


def test_refuses_when_all_are_damaged(folder):
  for step in (1, 2, 3):
    (folder / str(step) / 'manifest.json').write_text('{')
  before = contents(folder)
  with pytest.raises(checkpoints.CheckpointError, match='is intact .step 3'):
    restore(folder)
  assert contents(folder) == before


def test_disk_full_keeps_the_last_good_one(folder):
  """A limit on file sizes fails writes as a full disk does."""
  before = {step: contents(folder / step) for step in ('1', '2', '3')}
  code = f"""
import resource, sys
import jax, jax.numpy as jnp
from iblm_jax.training import checkpoints
with checkpoints.Checkpoints({str(folder)!r}) as store:
  jax.block_until_ready(jnp.ones(3))
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
  state = {{'w': jax.random.normal(jax.random.key(0), (1000, 100))}}
  try:
    store.save(4, state, {{}})
    store.wait(4)
  except checkpoints.CheckpointError as error:
    print('REFUSED', error)
"""
  run = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert 'REFUSED could not save the checkpoint of step 4' in run.stdout, (
      run.stdout + run.stderr
  )
  assert 'the last good one is of step 3' in run.stdout
  assert {step: contents(folder / step) for step in before} == before
  (step, _, _), _ = restore(folder)
  assert step == 3
  assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
