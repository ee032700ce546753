import os
import resource
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from iblm_jax.training import checkpoints, manifest


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
    store.wait()
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
    store.wait()
  assert checkpoints.intact_steps(tmp_path / 'run' / 'checkpoints') == [1]
  assert restore('run/checkpoints')[0][0] == 1


def test_nothing_saved(tmp_path):
  restored, messages = restore(tmp_path / 'none')
  assert restored is None and messages == []


def test_keeps_the_newest(tmp_path):
  with checkpoints.Checkpoints(tmp_path, keep=2) as store:
    for step in range(1, 6):
      store.save(step, make_state(step), {})
    store.wait()
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
    store.wait()
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


def test_a_refusal_blesses_nothing(folder):
  """What has no manifest is of unknown origin, however often it is opened."""
  for step in (1, 2):
    shutil.rmtree(folder / str(step))
  target = max(_files_of(folder / '3'), key=lambda path: path.stat().st_size)
  target.write_bytes(target.read_bytes()[:-1] + b'x')
  (folder / '3' / 'manifest.json').unlink()
  before = contents(folder)
  for _ in range(2):
    with pytest.raises(checkpoints.CheckpointError, match='step 3: it has no'):
      restore(folder)
    assert contents(folder) == before
  with checkpoints.Checkpoints(folder, keep=1) as store:
    store.save(4, make_state(4), {})
  assert contents(folder / '3') == {k[2:]: v for k, v in before.items()}
  assert checkpoints.intact_steps(folder) == [4]


_KILLED = """
import os, signal, sys
import jax.numpy as jnp
from iblm_jax.training import checkpoints

def kill(*args, **kwargs):
  os.kill(os.getpid(), signal.SIGKILL)

paths = type(checkpoints.epath.Path())
write, rename = checkpoints.manifest.write, paths.rename

def written(*args):
  write(*args)
  kill()

def renamed(path, target):
  moved = rename(path, target)
  if str(target).endswith('.deleted'):
    (moved / 'manifest.json').unlink()
    kill()
  return moved

where, folder = sys.argv[1:]
if where == 'before the manifest':
  checkpoints.manifest.write = kill
elif where == 'before the name':
  checkpoints.manifest.write = written
else:
  paths.rename = renamed
with checkpoints.Checkpoints(folder) as store:
  state = {'w': jnp.full([64, 8], 4.0), 'step': jnp.asarray(4, jnp.int32)}
  store.save(4, state, {'next_index': 40})
"""


@pytest.mark.parametrize(
    'where, left',
    [
        ('before the manifest', [1, 2, 3]),
        ('before the name', [1, 2, 3]),
        ('in deleting', [2, 3, 4]),
    ],
)
def test_a_kill_inside_a_commit_leaves_whole_checkpoints(folder, where, left):
  run = subprocess.run(
      [sys.executable, '-c', _KILLED, where, str(folder)],
      capture_output=True, text=True, check=False,
  )
  assert run.returncode == -signal.SIGKILL, run.stderr
  before = contents(folder)
  (step, state, data), messages = restore(folder)
  assert (step, data, messages) == (left[-1], {'next_index': 10 * step}, [])
  np.testing.assert_array_equal(state['w'], float(step))
  assert checkpoints.intact_steps(folder) == left
  assert contents(folder) == before
  with checkpoints.Checkpoints(folder) as store:
    store.save(step + 1, make_state(step + 1), {})
  kept = sorted(path.name for path in folder.iterdir())
  assert kept == [str(s) for s in range(step - 1, step + 2)]


def test_a_checkpoint_without_a_rename(tmp_path, monkeypatch):
  """As on an object store: the manifest, written last, makes it one."""
  monkeypatch.setattr(checkpoints, '_is_remote', lambda path: True)
  with checkpoints.Checkpoints(tmp_path, keep=2) as store:
    for step in (1, 2, 3):
      store.save(step, make_state(step), {'next_index': step})
  assert checkpoints.intact_steps(tmp_path) == [2, 3]
  with monkeypatch.context() as patched, checkpoints.Checkpoints(
      tmp_path
  ) as store:
    patched.setattr(manifest, 'write', _fails)
    store.save(4, make_state(4), {})
    with pytest.raises(checkpoints.CheckpointError, match='step 4 .* step 3'):
      store.wait()
  (step, _, data), messages = restore(tmp_path, read_only=True)
  assert (step, data) == (3, {'next_index': 3}) and 'cut off' in messages[0]
  with checkpoints.Checkpoints(tmp_path) as store:
    store.save(4, make_state(4), {})
  assert checkpoints.intact_steps(tmp_path) == [2, 3, 4]


def _fails(*args):
  raise OSError(28, 'No space left on device')


def test_a_failed_save_is_named_by_its_own_step(folder, monkeypatch):
  monkeypatch.setattr(manifest, 'write', _fails)
  message = 'checkpoint of step 4 in .*last good one is of step 3.*No space'
  with checkpoints.Checkpoints(folder) as store:
    store.save(4, make_state(4), {})
    with pytest.raises(checkpoints.CheckpointError, match=message):
      store.save(5, make_state(5), {})


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
    store.wait()
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
  # The same error from three threads of orbax was 300 lines.
  assert 'Traceback' not in run.stderr and len(run.stdout.splitlines()) == 1
  assert {step: contents(folder / step) for step in before} == before
  (step, _, _), _ = restore(folder)
  assert step == 3
  assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


_STRAYS = [
    '.DS_Store', 'Thumbs.db', 'desktop.ini', '._state', 'run.json~', '.nfs0001',
    'state/._METADATA', 'state/.a.swp', 'manifest.json.123.tmp', 'd/notes',
]


def test_leftovers_of_others_are_ignored(folder):
  for name in _STRAYS:
    (folder / '3' / name).parent.mkdir(exist_ok=True)
    (folder / '3' / name).write_bytes(b'x')
  (folder / '3' / 'up').symlink_to('..')
  (folder / '3' / 'loop').symlink_to('loop')
  os.mkfifo(folder / '3' / 'pipe')
  for name in ('notes.txt', '.DS_Store', '²', '٣', '03', '9' * 30):
    (folder / name).write_bytes(b'x')
  (step, state, _), messages = restore(folder)
  assert (step, messages) == (3, [])
  with checkpoints.Checkpoints(folder) as store:
    store.save(4, make_state(4), {})
    store.save(5, make_state(5), {})
    store.save(6, make_state(6), {})
  assert checkpoints.intact_steps(folder) == [4, 5, 6]
  assert (folder / 'notes.txt').exists()


def _replace(path, how):
  """Puts something else in the place of a file or folder."""
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()
  match how:
    case 'folder':
      path.mkdir()
    case 'pipe':
      os.mkfifo(path)
    case 'loop':
      path.symlink_to(path.name)
    case 'file':
      path.touch()
    case text:
      path.write_text(text)


@pytest.mark.parametrize(
    'name, how, message',
    [
        ('manifest.json', '[]', 'manifest.json does not map'),
        ('manifest.json', 'null', 'manifest.json does not map'),
        ('manifest.json', '{}', 'manifest.json does not map'),
        ('manifest.json', '{"/dev/zero": "' + '0' * 64 + '"}', 'does not map'),
        ('manifest.json', '{"../2/x": "' + '0' * 64 + '"}', 'does not map'),
        ('manifest.json', '[' * 100_000, 'manifest.json is not readable JSON'),
        ('manifest.json', '', 'manifest.json is not readable'),
        ('manifest.json', 'folder', 'manifest.json must be a file'),
        ('manifest.json', 'pipe', 'manifest.json must be a file'),
        ('manifest.json', 'loop', 'manifest.json cannot be read'),
        ('state/_METADATA', 'folder', 'state/_METADATA is not a file'),
        ('state/_METADATA', 'pipe', 'state/_METADATA is not a file'),
        ('state/_METADATA', 'loop', 'file state/_METADATA is missing'),
        ('state', 'file', 'file state/_METADATA is missing'),
        ('.', 'file', 'it is not a folder'),
        ('.', 'pipe', 'it is not a folder'),
        ('.', 'loop', 'it is not a folder'),
        ('.', 'folder', 'it has no manifest'),
    ],
)
def test_what_is_no_checkpoint_is_named(folder, name, how, message):
  _replace(folder / '3' / name, how)
  (step, state, _), messages = restore(folder)
  assert step == 2
  np.testing.assert_array_equal(state['w'], 2.0)
  (told,) = messages
  assert 'step 3 is damaged (' in told and message in told
  assert [path.name for path in (folder.parent / 'damaged').iterdir()] == ['3']


def test_a_checkpoint_is_of_its_step_and_of_its_run(folder, tmp_path):
  (folder / '3').rename(folder / '5')
  shutil.copytree(folder / '1', folder / '3')
  (step, _, _), messages = restore(folder)
  assert step == 2
  assert "5 is damaged (run.json says of it {'step': 3, " in messages[0]
  assert "3 is damaged (run.json says of it {'step': 1, " in messages[1]

  other = tmp_path / 'other' / 'checkpoints'
  for run, seed in (folder.parent, 0), (other.parent, 1):
    run.mkdir(exist_ok=True)
    (run / 'config.json').write_text('{"seed": ' + f'{seed}}}')
  with checkpoints.Checkpoints(folder) as store:
    store.save(7, make_state(7), {})
  with checkpoints.Checkpoints(other) as store:
    store.save(8, make_state(8), {})
  shutil.copytree(other / '8', folder / '8')
  (step, _, _), messages = restore(folder)
  assert step == 7 and "another run's config" in messages[0]
  (folder.parent / 'config.json').write_text('{ "seed":0 }')  # says the same
  assert checkpoints.intact_steps(folder) == [1, 2, 7]


def test_a_stray_that_orbax_would_read_is_named(folder):
  place = folder / '3' / 'state' / 'array_metadatas'
  os.mkfifo(place / 'process_0~')
  (step, _, _), (told,) = restore(folder)
  assert step == 2 and 'array_metadatas/process_0~ does not belong' in told


def test_checkpoints_that_are_no_folder(tmp_path):
  (tmp_path / 'checkpoints').touch()
  with pytest.raises(checkpoints.CheckpointError, match='must be a folder'):
    restore(tmp_path / 'checkpoints')
