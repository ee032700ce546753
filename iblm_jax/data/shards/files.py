"""Files of token ids: the two formats, and which files a pattern names.

Both hold tokens as little-endian uint16. A document begins with an end-of-text
token; a file may begin within a document.

* `.bin`: a header of 256 little-endian int32 (20240520, 1, the number of
  tokens, zeros), then the tokens. Local files only, mapped into memory.
* `.array_record`: record 0 is that header, record i the i-th block of 8,192
  tokens, the last one shorter; not compressed, groups of one record.
"""

import os
import struct
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from etils import epath

from iblm_jax.data.text import folders

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 1024
BLOCK_TOKENS = 8192
MAX_TOKENS = 2**31 - 1  # The header counts in 32 bits.
SUFFIXES = ('.bin', '.array_record')
INDEX = 'index.json'  # Beside the files that `prepare` writes.
TOKEN = np.dtype('<u2')

_WILDCARDS = '*?['
_WRITER_OPTIONS = 'group_size:1,uncompressed'
# Reading ahead is of no use for rows in random order.
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'
_READER_BUFFER_BYTES = 2**15


class Shard(Protocol):
  """Random access to the tokens of one file; safe from several threads."""

  path: str
  num_tokens: int

  def read(self, start: int, stop: int) -> np.ndarray:
    """Returns the tokens start..stop-1, uint16, within 0..num_tokens."""


def header(num_tokens: int) -> bytes:
  r"""Returns the 1,024 bytes that begin a shard of 0..2**31-1 tokens.

  >>> len(header(5)), header(5)[8:12]
  (1024, b'\x05\x00\x00\x00')
  """
  if not 0 <= num_tokens <= MAX_TOKENS:
    raise ValueError(
        f'num_tokens must be between 0 and {MAX_TOKENS}, got {num_tokens}.'
    )
  start = struct.pack('<3i', MAGIC, VERSION, num_tokens)
  return start.ljust(HEADER_BYTES, b'\0')


def _count_of(path: str, data: bytes) -> int:
  """Number of tokens that a header states."""
  if len(data) != HEADER_BYTES:
    raise ValueError(
        f'shard {path!r} must begin with a header of {HEADER_BYTES} bytes, got'
        f' {len(data)}.'
    )
  magic, version, count = struct.unpack_from('<3i', data)
  if (magic, version) != (MAGIC, VERSION):
    raise ValueError(
        f'shard {path!r} must begin with magic {MAGIC} and version {VERSION},'
        f' got {magic} and {version}.'
    )
  if count < 0:
    raise ValueError(
        f'shard {path!r} must hold at least 0 tokens, its header says {count}.'
    )
  return count


class BinShard:
  """A `.bin` file; see the module. Raises ValueError if it is damaged."""

  def __init__(self, path: str):
    self.path = path
    with open(path, 'rb') as file:
      self.num_tokens = _count_of(path, file.read(HEADER_BYTES))
      size = os.fstat(file.fileno()).st_size
      wanted = HEADER_BYTES + TOKEN.itemsize * self.num_tokens
      if size != wanted:
        raise ValueError(
            f'shard {path!r} must have {wanted} bytes for the'
            f' {self.num_tokens} tokens of its header, got {size}.'
        )
      # Only a plain array is quick to slice. An empty file cannot be mapped.
      self._tokens = (
          np.asarray(np.memmap(file, TOKEN, 'r', HEADER_BYTES))
          if self.num_tokens
          else np.zeros(0, TOKEN)
      )

  def read(self, start: int, stop: int) -> np.ndarray:
    """Returns the tokens start..stop-1, a view."""
    return self._tokens[start:stop]


class ArrayRecordShard:
  """An `.array_record` file; see the module. ValueError if it is damaged."""

  def __init__(self, path: str):
    self.path = path
    # Here, because `.bin` files do not need it.
    from array_record.python import array_record_module

    self._reader: Any = array_record_module.ArrayRecordReader(
        path,
        options=_READER_OPTIONS,
        file_reader_buffer_size=_READER_BUFFER_BYTES,
    )
    try:
      if not self._reader.ok():
        self._reader.read([0])  # Says what is wrong.
    except RuntimeError as e:
      raise ValueError(f'shard {path!r} is damaged: {e}.') from e
    num_records = self._reader.num_records()
    if not num_records:
      raise ValueError(f'shard {path!r} must hold a header, got no record.')
    self.num_tokens = _count_of(path, self._record(0))
    num_blocks = -(-self.num_tokens // BLOCK_TOKENS)
    if num_records != 1 + num_blocks:
      raise ValueError(
          f'shard {path!r} must have {1 + num_blocks} records for the'
          f' {self.num_tokens} tokens of its header, got {num_records}.'
      )
    if num_blocks:
      self._block(num_blocks - 1)  # The one whose length can be any.

  def read(self, start: int, stop: int) -> np.ndarray:
    """Returns the tokens start..stop-1 from the blocks that hold them."""
    if stop <= start:
      return np.zeros(0, TOKEN)
    first, end = start // BLOCK_TOKENS, -(-stop // BLOCK_TOKENS)
    blocks = [self._block(block) for block in range(first, end)]
    tokens = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return tokens[start - first * BLOCK_TOKENS : stop - first * BLOCK_TOKENS]

  def _block(self, block: int) -> np.ndarray:
    data = self._record(1 + block)
    wanted = min(BLOCK_TOKENS, self.num_tokens - block * BLOCK_TOKENS)
    if len(data) != wanted * TOKEN.itemsize:
      raise ValueError(
          f'shard {self.path!r}: record {1 + block} must have'
          f' {wanted * TOKEN.itemsize} bytes, got {len(data)}.'
      )
    return np.frombuffer(data, TOKEN)

  def _record(self, number: int) -> bytes:
    try:
      # As a range of one record: several, or a list of numbers, start threads
      # and cost four times as much.
      return self._reader.read(number, number + 1)[0]
    except RuntimeError as e:
      raise ValueError(f'shard {self.path!r} is damaged: {e}.') from e


def open_shard(path: str) -> Shard:
  """Opens a file of `find_shards` and checks what can be checked at once.

  Raises:
    ValueError: The file is none of the formats, is damaged or was cut off, or
      is a pipe or a device.
  """
  folders.check_is_file(path)
  if path.endswith('.array_record'):
    return ArrayRecordShard(path)
  return BinShard(path)


def write_array_record(path: str, tokens: np.ndarray) -> None:
  """Writes tokens, uint16 [N], as an `.array_record` file."""
  from array_record.python import array_record_module

  writer = array_record_module.ArrayRecordWriter(path, _WRITER_OPTIONS)
  writer.write(header(tokens.size))
  for start in range(0, tokens.size, BLOCK_TOKENS):
    block = tokens[start : start + BLOCK_TOKENS]
    writer.write(block.astype(TOKEN).tobytes())
  writer.close()


def find_shards(name: str, patterns: Iterable[str]) -> list[str]:
  """Returns the files that paths and globs name, sorted, each once.

  Args:
    name: What the patterns are called in errors.
    patterns: Paths, in which the last parts may have wildcards (`*`, `?`,
      `[...]`), which stand for no hidden file.

  Raises:
    ValueError: A pattern matches no file, a file is no shard or is named
      twice, or a `.bin` file is not local.
  """
  found = []
  for pattern in patterns:
    if '://' in pattern and pattern.endswith('.bin'):
      raise ValueError(
          f'{name}: {pattern!r} is remote, and .bin files can only be read from'
          ' a local disk: copy it there, or use .array_record files.'
      )
    path = epath.Path(pattern)
    # A name with wildcards may exist as it is.
    matches = [path] if path.exists() else _glob(pattern)
    if not matches:
      raise ValueError(f'{name}: {pattern!r} matches no file.')
    found += [os.fspath(match) for match in matches]
  for file in found:
    if not file.endswith(SUFFIXES) or epath.Path(file).is_dir():
      raise ValueError(
          f'{name}: {file!r} must be a file that ends in one of {SUFFIXES}.'
      )
    folders.check_is_file(file)
  found.sort()
  for one, other in zip(found, found[1:], strict=False):
    if one == other:
      raise ValueError(f'{name}: {one!r} is named twice.')
  return found


def _glob(pattern: str) -> list[epath.Path]:
  parts = epath.Path(pattern).parts
  wild = [any(c in part for c in _WILDCARDS) for part in parts]
  if not any(wild):
    return []
  first = wild.index(True)
  folder = epath.Path(*parts[:first]) if first else epath.Path('.')
  if not folder.exists():
    return []
  # As a shell does, so that sidecars of a Mac are no shards.
  return [
      match for match in folder.glob('/'.join(parts[first:]))
      if not any(
          folders.is_hidden(found) and not wanted.startswith('.')
          for found, wanted in zip(
              match.parts[-len(parts[first:]):], parts[first:], strict=True
          )
      )
  ]
