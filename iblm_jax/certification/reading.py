"""Reads files that a stranger may have written, within limits.

Nothing here allocates more than a small multiple of a file's size, and no file
is read beyond its limit. Everything that cannot be read is one `ValueError`.
"""

import collections
import io
import json
import math
import os
import stat
import struct
import zipfile
from typing import Any

import numpy as np
from etils import epath

# Bytes of JSON; it takes some twenty times as much memory once it is read.
JSON_BYTES = 4 << 20
_DEPTH = 32
# Names of a few arrays in a zip file.
_LISTING_BYTES = 4096
_INTEGERS = range(-(2**63), 2**63)
_KINDS = {
    stat.S_IFLNK: 'a link', stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a pipe',
    stat.S_IFSOCK: 'a socket', stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
}


def check_file(path: epath.PathLike) -> None:
  """ValueError unless a path is a regular file, and no link to one."""
  path = epath.Path(path)
  if '://' in os.fspath(path):
    if path.exists():
      return
  elif os.path.lexists(path):
    mode = stat.S_IFMT(os.lstat(path).st_mode)
    if mode != stat.S_IFREG:
      raise ValueError(
          f'{path} must be a regular file, got {_KINDS.get(mode, "none")}.'
      )
    return
  raise ValueError(f'{path.parent} must hold {path.name}; there is none.')


def read_bytes(path: epath.PathLike, limit: int) -> bytes:
  """Reads a regular file of at most `limit` bytes."""
  path = epath.Path(path)
  check_file(path)
  try:
    if '://' in os.fspath(path):
      size = path.stat().length
      data = path.read_bytes() if size <= limit else b''
    else:
      # Neither waits for a pipe nor follows a link that came since.
      flags = os.O_RDONLY | getattr(os, 'O_NOFOLLOW', 0)
      descriptor = os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))
      with open(descriptor, 'rb') as file:
        size = os.fstat(descriptor).st_size
        data = file.read(limit + 1) if size <= limit else b''
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error}') from error
  if max(size, len(data)) > limit:
    raise ValueError(
        f'{path} must have at most {limit:,} bytes, got'
        f' {max(size, len(data)):,}.'
    )
  return data


def parse_json(data: bytes, name: str) -> Any:
  """Reads JSON that means one thing only, to every reader.

  Args:
    data: UTF-8.
    name: What a message calls it.

  Raises:
    ValueError: It is no JSON, a key stands twice in a group, a number is not
      finite or an integer of more than 64 bits, or groups are too deep.

  >>> parse_json(b'{"a": 1, "a": 2}', 'it')
  Traceback (most recent call last):
  ValueError: it is damaged: the key 'a' stands twice in a group.
  """
  try:
    tree = json.loads(
        data.decode(),
        object_pairs_hook=_group,
        parse_constant=_no_constant,
        parse_float=_finite,
        parse_int=_integer,
    )
    _check_depth(tree)
  except RecursionError as error:
    raise ValueError(
        f'{name} is damaged: more than {_DEPTH} groups in each other.'
    ) from error
  except ValueError as error:
    raise ValueError(f'{name} is damaged: {error}') from error
  return tree


def _group(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    counts = collections.Counter(name for name, _ in pairs)
    ((twice, _),) = counts.most_common(1)
    raise ValueError(f'the key {shown(repr(twice))} stands twice in a group.')
  return found


def _no_constant(text: str) -> None:
  raise ValueError(f'{text} is no number.')


def _finite(text: str) -> float:
  if math.isinf(float(text)):
    raise ValueError(f'{shown(text, 40)} is not finite.')
  return float(text)


def _integer(text: str) -> int:
  if len(text) > 20 or int(text) not in _INTEGERS:
    raise ValueError(f'{shown(text, 40)} must be an integer of 64 bits.')
  return int(text)


def _check_depth(tree: Any) -> None:
  level = [tree]
  for _ in range(_DEPTH):
    groups = [x for x in level if isinstance(x, dict | list)]
    level = [
        x for group in groups
        for x in (group.values() if isinstance(group, dict) else group)
    ]
  if level:
    raise RecursionError


def parse_arrays(
    data: bytes, name: str, dims: dict[str, int]
) -> dict[str, np.ndarray]:
  """Reads an npz file of finite float64 arrays, as `np.savez` writes it.

  Args:
    data: The file.
    name: What a message calls it.
    dims: The arrays that it must hold, and their numbers of axes.

  Raises:
    ValueError: It is no such file; nothing is unpacked or unpickled.
  """
  try:
    if data[:4] != b'PK\3\4' or data[-22:-18] != b'PK\5\6':
      raise ValueError('it is no npz file.')
    (listing,) = struct.unpack('<I', data[-10:-6])
    if listing > _LISTING_BYTES:
      raise ValueError(f'it lists its parts in {listing:,} bytes.')
    with zipfile.ZipFile(io.BytesIO(data)) as file:
      members = {one.filename: one for one in file.infolist()}
      wanted = sorted(f'{one}.npy' for one in dims)
      if sorted(one.filename for one in file.infolist()) != wanted:
        raise ValueError(f'it must hold {wanted}, got {sorted(members)}.')
      for one in members.values():
        if one.compress_type != zipfile.ZIP_STORED or one.file_size > len(data):
          raise ValueError(f'{one.filename} must not be compressed.')
      return {
          one: _array(file.read(members[f'{one}.npy']), one, axes)
          for one, axes in dims.items()
      }
  # Its readers raise errors of many types.
  except Exception as error:
    said = str(error) or type(error).__name__
    raise ValueError(f'{name} is damaged: {said}') from error


def _array(data: bytes, name: str, axes: int) -> np.ndarray:
  file = io.BytesIO(data)
  version = np.lib.format.read_magic(file)
  if version != (1, 0):
    raise ValueError(f'{name} must be of version 1.0, got {version}.')
  shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
  rest = len(data) - file.tell()
  # Python's integers: a product of hostile sizes does not overflow.
  if dtype != np.dtype('<f8') or len(shape) != axes or (
      min(shape) < 0 or 8 * math.prod(shape) != rest
  ):
    raise ValueError(
        f'{name} must be float64 of {axes} axes in all of its bytes, got'
        f' {dtype} of shape {shape} in {rest} bytes.'
    )
  array = np.frombuffer(data, '<f8', offset=file.tell())
  if not np.isfinite(array).all():
    raise ValueError(f'{name} must be finite.')
  return array.reshape(shape, order='F' if in_columns else 'C')


def shown(value: Any, most: int = 600) -> str:
  r"""One line of text that a terminal shows as it is, of `most` letters.

  >>> shown('a\nverified: all\x1b[2J', 14)
  'a\\nverified: ...'
  """
  text = str(value)[: most + 1]
  text = ''.join(
      letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text
  )
  return text if len(text) <= most else f'{text[: most - 1].rstrip()} ...'
