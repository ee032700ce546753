"""Holds a folder, so that no second run writes into it."""

import contextlib
import datetime
import fcntl
import json
import os
import platform
from collections.abc import Generator

from etils import epath

from iblm_jax import errors

_NAME = '.lock'


@contextlib.contextmanager
def held(folder: epath.PathLike) -> Generator[None]:
  """Holds a folder for as long as a `with` block lasts.

  The kernel lets go of it when the process ends, however it ends, so there is
  no lock that nobody holds. An object store (`gs://`) is not locked.

  Args:
    folder: It exists; gets a file `.lock` that says who holds it.

  Raises:
    errors.RunFailed: Another run holds it; the message says which.
  """
  path = epath.Path(folder) / _NAME
  if '://' in os.fspath(path):
    yield
    return
  with _open(path) as file:
    holder = {
        'host': platform.node(),
        'process': os.getpid(),
        'since': datetime.datetime.now().isoformat(timespec='seconds'),
    }
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()
    try:
      yield
    finally:
      # Before it is let go of: whoever waits for the name makes a new file.
      path.unlink(missing_ok=True)


def _open(path: epath.Path):
  """The file, locked, and certainly the one that has the name."""
  while True:
    file = open(path, 'a+', encoding='utf-8')
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read()
      file.close()
      raise errors.RunFailed(
          f'{path.parent} is in use by another run ({_who(holder)}). Wait for'
          ' it, stop it, or use another workdir.'
      ) from None
    try:
      if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        return file
    except FileNotFoundError:
      pass
    file.close()


def _who(text: str) -> str:
  try:
    holder = json.loads(text)
    return (
        f'process {holder["process"]} on {holder["host"]}, since'
        f' {holder["since"]}'
    )
  except (ValueError, KeyError, TypeError):
    return 'which has just started'
