"""Holds a folder, so that no second run writes into it.

A file `.lock` says who holds the folder and, every few seconds, that this one
lives. Where the kernel can lock the file it does, and lets go of it when the
process ends, however it ends. Elsewhere, on object stores and some network
disks, and for a holder on another host, the sign of life is all there is.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import platform
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Generator
from typing import Any, BinaryIO, NoReturn, cast

from etils import epath

from iblm_jax import errors, files

_NAME = '.lock'
_BEAT_SECONDS = 10.0
# Who has given no sign of life for so long, seen from here, is gone.
_SILENT_SECONDS = 60.0
# Clocks of hosts differ by less: who is so late is gone without a look.
_OLD_SECONDS = 600.0
# Who writes at the same moment without a kernel's lock has done so by then.
_SETTLE_SECONDS = 1.0
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


@contextlib.contextmanager
def held(folder: epath.PathLike) -> Generator[None]:
  """Holds a folder for as long as a `with` block lasts.

  The lock of a process that is gone is taken over: at once where the kernel or
  the process table tells, else after a minute without a sign of life. A process
  that finds that another one took its lock over, as after it was suspended,
  ends at once.

  Args:
    folder: It exists; gets a file `.lock` that says who holds it.

  Raises:
    errors.RunFailed: Another run holds it; the message says which.
  """
  path = epath.Path(folder) / _NAME
  if path.exists() and not (_is_remote(path) or os.path.isfile(path)):
    raise errors.RunFailed(f'{path} must be a file: remove what is there.')
  file = None if _is_remote(path) else _locked(path)
  with file or contextlib.nullcontext():
    _take_over(path, is_locked=file is not None)
    record = {
        'host': platform.node(),
        'process': os.getpid(),
        'since': datetime.datetime.now().isoformat(timespec='seconds'),
        'started': _started(os.getpid()),
        'token': uuid.uuid4().hex,
    }
    _write(path, file, record)
    if file is None:
      time.sleep(_SETTLE_SECONDS)
      if _token(_read(path)) != record['token']:
        _refuse(path, _read(path))
    done = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(path, file, record, done), daemon=True
    )
    renewing.start()
    try:
      yield
    finally:
      done.set()
      renewing.join()
      # Before it is let go of: whoever waits for the name makes a new file.
      if file is not None or _token(_read(path)) == record['token']:
        path.unlink(missing_ok=True)


def _is_remote(path: epath.Path) -> bool:
  return '://' in os.fspath(path)


def _locked(path: epath.Path) -> BinaryIO | None:
  """The file, locked, and certainly the one that has the name.

  None where the file system does not lock.
  """
  while True:
    file = cast(BinaryIO, open(path, 'r+b', buffering=0, opener=_opener))
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.close()
      _refuse(path, _read(path))
    except OSError as error:
      file.close()
      if error.errno not in _NO_FLOCK:
        raise
      return None
    try:
      if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        return file
    except FileNotFoundError:
      pass
    file.close()


def _opener(path: str, flags: int) -> int:
  return os.open(path, flags | os.O_CREAT, 0o666)


def _take_over(path: epath.Path, is_locked: bool) -> None:
  """Returns if nobody who lives holds the lock; refuses otherwise."""
  text = _read(path)
  holder = _holder(text)
  if not text or (is_locked and holder.get('host') in (None, platform.node())):
    return
  beat = holder.get('beat')
  if holder.get('host') == platform.node():
    if _runs(holder):
      _refuse(path, text)
  elif not isinstance(beat, float) or time.time() - beat < _OLD_SECONDS:
    warnings.warn(
        f'{path.parent} was in use by another run ({_who(text)}): waiting up to'
        f' {_SILENT_SECONDS:.0f} s for a sign of life.',
        stacklevel=4,
    )
    end = time.monotonic() + _SILENT_SECONDS
    while (now := _read(path)) == text:
      if time.monotonic() > end:
        break
      time.sleep(min(1.0, _BEAT_SECONDS))
    if now not in ('', text):
      _refuse(path, now)
  warnings.warn(
      f'{path.parent}: the lock of another run ({_who(text)}) is taken over: it'
      ' is gone.',
      stacklevel=4,
  )


def _renew(path, file, record, done) -> None:
  """Gives signs of life until `done`."""
  while not done.wait(_BEAT_SECONDS):
    with contextlib.suppress(Exception):  # next time, perhaps
      text = '' if file is not None else _read(path)
      if _token(text) not in (None, record['token']):
        _end(
            f'{path.parent} was taken over by another run ({_who(text)}) while'
            ' this one gave no sign of life: it ends here, and nothing more is'
            ' written.'
        )
      _write(path, file, record)


def _end(message: str) -> NoReturn:
  """Ends the process in the middle of what it does, from another thread."""
  print(message, file=sys.stderr, flush=True)
  os._exit(1)


def _write(path: epath.Path, file: BinaryIO | None, record: Any) -> None:
  data = json.dumps(record | {'beat': time.time()}).encode()
  if file is None:
    files.write_bytes(path, data)
  else:  # the file that is locked, of which others always read something
    os.pwrite(file.fileno(), data, 0)
    os.ftruncate(file.fileno(), len(data))
    os.fsync(file.fileno())


def _read(path: epath.Path) -> str:
  """What the lock says, empty for nothing."""
  try:
    return files.read_bytes(path).decode()
  except FileNotFoundError:
    return ''
  except (OSError, ValueError):  # such as bytes that are no text
    return 'unreadable'


def _runs(holder: dict[str, Any]) -> bool:
  """Whether a process of this host lives; not another one of its number."""
  process, started = holder.get('process'), holder.get('started')
  try:
    os.kill(int(cast(int, process)), 0)
  except PermissionError:
    pass
  except (OSError, TypeError, ValueError, OverflowError):
    return False
  now = _started(cast(int, process))
  return started == now or None in (started, now)


def _started(process: int) -> str | None:
  """When a process began; None if the system, such as a Mac, does not say."""
  try:
    with open(f'/proc/{process}/stat', encoding='utf-8') as file:
      return file.read().rsplit(')', 1)[-1].split()[19]
  except OSError:
    return None


def _holder(text: str) -> dict[str, Any]:
  try:
    found = json.loads(text)
  except (ValueError, RecursionError):
    return {}
  return found if isinstance(found, dict) else {}


def _token(text: str) -> str | None:
  return _holder(text).get('token')


def _who(text: str) -> str:
  holder = _holder(text)
  if not holder.keys() >= {'process', 'host', 'since'}:
    return 'which has just started'
  return (
      f'process {holder["process"]} on {holder["host"]}, since'
      f' {holder["since"]}'
  )


def _refuse(path: epath.Path, text: str) -> NoReturn:
  raise errors.RunFailed(
      f'{path.parent} is in use by another run ({_who(text)}). Wait for it,'
      ' stop it, or use another workdir.'
  )
