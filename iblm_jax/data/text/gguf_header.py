"""The head of a `.gguf` file: what it says, and where its tensors are.

The package `gguf` reads it too, with an array of NumPy for every word of the
vocabulary, which takes longer than all tensors.
"""

import math
import os
import struct
from typing import Any, NamedTuple

import numpy as np
from etils import epath

# By the number of a type in the file; 8 is a string and 9 an array.
_NUMBERS = {
    0: '<u1', 1: '<i1', 2: '<u2', 3: '<i2', 4: '<u4', 5: '<i4', 6: '<f4',
    7: '?', 10: '<u8', 11: '<i8', 12: '<f8',
}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 'general.alignment'


class Place(NamedTuple):
  """Where a tensor is.

  Attributes:
    shape: Outermost axis first.
    kind: Number of its quantisation.
    start: First byte in the file.
  """

  shape: tuple[int, ...]
  kind: int
  start: int


class _Reader:
  """Reads values one after the other."""

  def __init__(self, data: np.ndarray):
    self.data, self.position = data.data, 0

  def bytes(self, count: int) -> memoryview:
    start, self.position = self.position, self.position + count
    if self.position > len(self.data):
      raise ValueError('it ends before its head does')
    return self.data[start : self.position]

  def number(self, form: str) -> Any:
    return struct.unpack(f'<{form}', self.bytes(struct.calcsize(f'<{form}')))[0]

  def string(self) -> str:
    return self.strings(1)[0]

  def strings(self, count: int) -> list[str]:
    # In one loop, since a vocabulary has many.
    data, end, length = self.data, self.position, struct.Struct('<Q')
    found = []
    try:
      for _ in range(count):
        start = end + length.size
        end = start + length.unpack_from(data, end)[0]
        found.append(str(data[start:end], 'utf-8'))
    except (struct.error, OverflowError):
      end = len(data) + 1
    if end > len(data):
      raise ValueError('it ends before its head does')
    self.position = end
    return found

  def value(self, kind: int) -> Any:
    if kind == _STRING:
      return self.string()
    if kind == _ARRAY:
      of, count = self.number('I'), self.number('Q')
      if of == _STRING:
        return self.strings(count)
      if of == _ARRAY:  # no key of any model is one; they could go on for ever
        raise ValueError('it has an array of arrays')
      return self._numbers(of, count)
    return self._numbers(kind, 1)[0]

  def _numbers(self, kind: int, count: int) -> list[Any]:
    if kind not in _NUMBERS:
      raise ValueError(f'it has a value of the unknown type {kind}')
    dtype = np.dtype(_NUMBERS[kind])
    return np.frombuffer(self.bytes(count * dtype.itemsize), dtype).tolist()


def read(data: np.ndarray) -> tuple[dict[str, Any], dict[str, Place]]:
  """Reads keys with their values, and the places of tensors.

  Args:
    data: uint8, the file.

  Raises:
    ValueError: It is no GGUF, of an unknown version, or cut short.
  """
  reader = _Reader(data)
  if bytes(reader.bytes(4)) != b'GGUF':
    raise ValueError('it does not begin with GGUF')
  version = reader.number('I')
  if version not in (2, 3):
    raise ValueError(f'its version must be 2 or 3, got {version}')
  num_tensors, num_keys = reader.number('Q'), reader.number('Q')
  values: dict[str, Any] = {}
  for _ in range(num_keys):
    key = reader.string()
    values[key] = reader.value(reader.number('I'))
  found = []
  for _ in range(num_tensors):
    name, axes = reader.string(), reader.number('I')
    shape = tuple(reader.number('Q') for _ in range(axes))
    found.append((name, shape[::-1], reader.number('I'), reader.number('Q')))
  step = values.get(_ALIGNMENT, 32)
  start = math.ceil(reader.position / step) * step
  return values, {
      name: Place(shape, kind, start + offset)
      for name, shape, kind, offset in found
  }


def of_file(
    path: epath.PathLike,
) -> tuple[np.ndarray, dict[str, Any], dict[str, Place]]:
  """Opens a file: its bytes, memory-mapped, and what `read` finds in them.

  Raises:
    ValueError: It is missing, or as `read`.
  """
  name = os.fspath(path)
  try:
    data = np.memmap(name, np.uint8, mode='r')
    return data, *read(data)
  except FileNotFoundError:
    raise ValueError(f'file {name!r} does not exist.') from None
  except (ValueError, OSError, TypeError) as error:
    raise ValueError(
        f'file {name!r} is no GGUF, or damaged: {error}.'
    ) from error
