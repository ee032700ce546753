"""Writes files whole and durably, and reads small ones that may be anything."""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from etils import epath


def folder(name: str, path: epath.PathLike) -> epath.Path:
  """Returns a folder that is there or can be made, with `~` expanded.

  Args:
    name: What it is, for messages.
    path: As a person gave it; any in an object store is taken as it is.

  Raises:
    ValueError: It is empty, is of a user who is not here, or a file is where
      it or a folder above it should be.

  >>> folder('workdir', '')
  Traceback (most recent call last):
  ValueError: workdir must be a folder, got ''.
  """
  text = os.fspath(path)
  if not text.strip():
    raise ValueError(f'{name} must be a folder, got {text!r}.')
  if '://' in text:
    return epath.Path(text)
  made = epath.Path(os.path.expanduser(text))
  if text.startswith('~') and str(made).startswith('~'):
    raise ValueError(f'{name} must be a folder, but {text!r} names no user.')
  there = made
  while not os.path.lexists(there) and there != there.parent:
    there = there.parent
  if not there.is_dir():
    raise ValueError(f'{name} must be a folder, but {there} is a file.')
  return made


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a file whole or not at all.

  The data are on the disk before the file has its name, and so is the name
  before this returns, so that neither a kill nor a power loss leaves half of
  it. Object stores (`gs://`) write whole files by themselves.

  Args:
    path: The file; its folder exists. What it held is replaced.
    data: All of its new content.

  Raises:
    OSError: It cannot be written; what it held is still there.

  >>> import tempfile
  >>> folder = epath.Path(tempfile.mkdtemp())
  >>> write_bytes(folder / 'a.txt', b'whole')
  >>> [path.name for path in folder.iterdir()]
  ['a.txt']
  """
  path = epath.Path(path)
  if '://' in os.fspath(path):
    path.write_bytes(data)
    return
  draft = path.parent / f'{path.name}.{os.getpid()}.tmp'
  try:
    with open(draft, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(draft, path)
  except OSError as error:
    draft.unlink(missing_ok=True)
    error.filename = str(path)  # a full disk names none
    raise
  sync(path.parent)


def check_new(name: str, path: epath.PathLike) -> None:
  """Raises ValueError unless a folder is empty or not there yet.

  Args:
    name: What it is, for messages.
    path: On this machine.
  """
  if '://' in os.fspath(path):
    raise ValueError(f'{name} must be on this machine, got {str(path)!r}.')
  made = folder(name, path)
  if made.exists() and any(made.iterdir()):
    raise ValueError(
        f'{name} must be empty or not there yet: nothing in {made} is'
        ' overwritten.'
    )


@contextlib.contextmanager
def new_folder(name: str, path: epath.PathLike) -> Iterator[epath.Path]:
  """Gives a folder to write to, which gets its name when all is written.

  Args:
    name: What it is, for messages.
    path: Where it will be; empty or not there yet.

  Yields:
    A folder beside it. After an error it is gone, and `path` as before.

  Raises:
    ValueError: As `check_new`.

  >>> import tempfile
  >>> out = epath.Path(tempfile.mkdtemp()) / 'out'
  >>> with new_folder('out', out) as draft:
  ...   _ = (draft / 'a.txt').write_text('whole')
  >>> [path.name for path in out.iterdir()]
  ['a.txt']
  """
  check_new(name, path)
  made = folder(name, path)
  draft = made.parent / f'{made.name}.{os.getpid()}.tmp'
  draft.mkdir(parents=True)
  try:
    yield draft
    sync(draft)
    os.replace(draft, made)
  except BaseException:
    draft.rmtree(missing_ok=True)
    raise
  sync(made.parent)


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a file of UTF-8 text, see `write_bytes`."""
  write_bytes(path, text.encode())


def write_json(path: epath.PathLike, tree: Any, indent: int | None = 2) -> None:
  """Writes a file of JSON that ends with a line end, see `write_bytes`."""
  write_text(path, json.dumps(tree, indent=indent) + '\n')


def read_bytes(path: epath.PathLike, most: int = 2**26) -> bytes:
  """Reads a small file, whatever may lie in its place.

  Args:
    path: The file.
    most: The most bytes that it may have.

  Raises:
    FileNotFoundError: There is nothing, or a link to nothing.
    ValueError: It is a folder, a pipe, a device or a loop of links, or larger;
      nothing was read.
  """
  path = epath.Path(path)
  if '://' not in os.fspath(path):
    try:
      found = os.stat(path)
    except FileNotFoundError:
      raise
    except OSError as error:
      raise ValueError(f'{path} cannot be read: {error.strerror}.') from error
    if not stat.S_ISREG(found.st_mode):
      raise ValueError(f'{path} must be a file.')
    if found.st_size > most:
      raise ValueError(
          f'{path} must have at most {most:,} bytes, got {found.st_size:,}.'
      )
  return path.read_bytes()


def read_json(path: epath.PathLike, most: int = 2**26) -> Any:
  """Reads a JSON file in which every name stands once, see `read_bytes`.

  Raises:
    FileNotFoundError: There is nothing.
    ValueError: It cannot be read; the message names it.
  """
  data = read_bytes(path, most)
  try:
    return json.loads(data, object_pairs_hook=_without_repeats)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not readable JSON: {error}') from error


def read_object(path: epath.PathLike) -> dict[str, Any]:
  """Reads a JSON file that holds an object, see `read_json`.

  Raises:
    FileNotFoundError: There is nothing.
    ValueError: It cannot be read, or holds something else.
  """
  tree = read_json(path)
  if not isinstance(tree, dict):
    raise ValueError(f'{path} must hold a JSON object, got {tree!r:.80}.')
  return tree


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  tree = dict(pairs)
  if len(tree) < len(pairs):  # readers differ in which one they take
    raise ValueError('a name stands twice in one object')
  return tree


def sha256(path: epath.PathLike) -> str:
  """Hashes a file of any size, in hexadecimal."""
  digest = hashlib.sha256()
  with epath.Path(path).open('rb') as file:
    while chunk := file.read(2**22):
      digest.update(chunk)
  return digest.hexdigest()


def sync(path: epath.PathLike) -> None:
  """Waits until a file, or the names in a folder, are on the disk (POSIX)."""
  if os.name != 'posix' or '://' in os.fspath(path):
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:  # file systems of networks may not sync folders
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)
