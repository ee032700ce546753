"""A folder has one run, also where the kernel cannot lock a file."""

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from iblm_jax import errors
from iblm_jax.training import lock

ELSEWHERE = 'another-host'


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(lock, '_BEAT_SECONDS', 0.05)
  monkeypatch.setattr(lock, '_SILENT_SECONDS', 0.5)
  monkeypatch.setattr(lock, '_SETTLE_SECONDS', 0.1)


@pytest.fixture(params=['object store', 'no flock', 'flock'])
def storage(request, monkeypatch):
  """Where there is a lock of the kernel, and where there is none."""

  def refuse(file, flags):
    raise OSError(errno.ENOTSUP, 'Operation not supported')

  if request.param == 'object store':
    monkeypatch.setattr(lock, '_is_remote', lambda path: True)
  elif request.param == 'no flock':
    monkeypatch.setattr(fcntl, 'flock', refuse)
  return request.param


def holder(**changes):
  return {
      'host': platform.node(),
      'process': os.getpid(),
      'since': '2026-01-01T00:00:00',
      'started': lock._started(os.getpid()),
      'token': 'a',
      'beat': time.time(),
  } | changes


def write(folder, record):
  (folder / '.lock').write_text(json.dumps(record))


def gone():
  """The number of a process that has ended."""
  with subprocess.Popen([sys.executable, '-c', '']) as process:
    return process.pid


def test_a_second_run_is_refused_at_once(tmp_path, storage):
  with lock.held(tmp_path):
    time.sleep(0.2)  # it lives on
    began = time.monotonic()
    with pytest.raises(errors.RunFailed) as refused:
      with lock.held(tmp_path):
        pass
    assert time.monotonic() - began < 0.1
  assert f'process {os.getpid()} on {platform.node()}, since 2' in str(
      refused.value
  )
  assert '\n' not in str(refused.value)
  assert not any(tmp_path.iterdir())
  with lock.held(tmp_path):
    assert json.loads((tmp_path / '.lock').read_text())['beat'] > 0


@pytest.mark.parametrize(
    'change',
    [
        {'process': gone()}, {'started': 'long ago'}, {'process': 'what'},
        {'host': ELSEWHERE, 'beat': time.time() - 3600},
    ],
    ids=['ended', 'number of another', 'garbage', 'silent for an hour'],
)
def test_the_lock_of_who_is_gone_is_taken_over_at_once(
    tmp_path, monkeypatch, change
):
  monkeypatch.setattr(lock, '_is_remote', lambda path: True)
  monkeypatch.setattr(lock, '_SILENT_SECONDS', 60.0)
  write(tmp_path, holder(**change))
  with pytest.warns(UserWarning, match='is taken over') as said:
    with lock.held(tmp_path):
      assert lock._read(tmp_path / '.lock') != ''
  assert len(said) == 1 and '\n' not in str(said[0].message)


@pytest.mark.parametrize('lives', [True, False])
def test_who_is_elsewhere_is_watched_for_a_sign_of_life(
    tmp_path, storage, lives
):
  """Also under a kernel's lock, which may be of this host alone."""
  write(tmp_path, holder(host=ELSEWHERE, process=7))
  beat = lambda: write(tmp_path, holder(host=ELSEWHERE, process=7, beat=1.5))
  threading.Timer(0.2, beat if lives else lambda: None).start()
  with pytest.warns(UserWarning) as said:
    if lives:
      with pytest.raises(errors.RunFailed, match='process 7 on another-host'):
        with lock.held(tmp_path):
          pass
    else:
      with lock.held(tmp_path):
        pass
  found = [str(one.message) for one in said]
  assert 'waiting up to' in found[0]
  assert len(found) == 1 if lives else 'is taken over' in found[1]


def test_a_lock_that_is_no_json_ends_too(tmp_path, storage):
  (tmp_path / '.lock').write_bytes(b'\0\xff{"host')
  if storage == 'flock':
    with lock.held(tmp_path):
      pass
  else:
    with pytest.warns(UserWarning, match='which has just started'):
      with lock.held(tmp_path):
        pass
  assert not any(tmp_path.iterdir())


def test_of_two_at_the_same_moment_one_goes_on(tmp_path, monkeypatch):
  """Both find no lock; the one that wrote last has it."""
  monkeypatch.setattr(lock, '_is_remote', lambda path: True)
  monkeypatch.setattr(lock, '_take_over', lambda path, is_locked: None)
  # Two threads are one process, of whose drafts there is one.
  monkeypatch.setattr(
      lock.files, 'write_bytes', lambda path, data: path.write_bytes(data)
  )
  both, ended = threading.Barrier(2), []

  def run():
    both.wait()
    try:
      with lock.held(tmp_path):
        time.sleep(0.5)
        ended.append('done')
    except errors.RunFailed:
      ended.append('refused')

  threads = [threading.Thread(target=run) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(ended) == ['done', 'refused']
  assert not any(tmp_path.iterdir())


def test_who_was_taken_over_ends(tmp_path, monkeypatch):
  """A process that was suspended must not write beside another one."""
  monkeypatch.setattr(lock, '_is_remote', lambda path: True)
  said = threading.Event()
  messages = []

  def end(message):
    messages.append(message)
    said.set()
    raise RuntimeError

  monkeypatch.setattr(lock, '_end', end)
  with lock.held(tmp_path):
    write(tmp_path, holder(host=ELSEWHERE, token='b'))
    assert said.wait(5)
  assert 'was taken over by another run' in messages[0]
  # The lock of the other one is still there.
  assert json.loads((tmp_path / '.lock').read_text())['token'] == 'b'


def test_a_failing_disk_is_no_end(tmp_path, monkeypatch):
  """A sign of life that cannot be written is written later."""
  monkeypatch.setattr(lock, '_is_remote', lambda path: True)
  real, failed = lock.files.write_bytes, threading.Event()

  def fail(path, data):
    if not failed.is_set():
      failed.set()
      raise OSError(errno.EIO, 'later')
    real(path, data)

  with lock.held(tmp_path):
    before = (tmp_path / '.lock').read_text()
    monkeypatch.setattr(lock.files, 'write_bytes', fail)
    end = time.monotonic() + 5
    while (tmp_path / '.lock').read_text() == before:
      assert time.monotonic() < end
      time.sleep(0.01)
  assert failed.is_set()


@pytest.mark.parametrize('make', [os.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_named(tmp_path, make):
  make(tmp_path / '.lock')
  with pytest.raises(errors.RunFailed, match='.lock must be a file'):
    with lock.held(tmp_path):
      pass
