"""Documents from text files, and which of them are held out."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

from etils import epath

from iblm_jax import fields
from iblm_jax.data.text import folders

# With fewer documents the tail of each is held out instead of whole ones.
MIN_DOCUMENTS_TO_SPLIT = 20

# What a document of a `.txt` can be.
DOCUMENTS = ('file', 'line', 'paragraph')
HOLDOUT_BY = ('rank', 'hash')

# What a gzip of text does not reach: 5 to 20 are usual, 1,032 is the most.
GZ_RATIO = 100
# So much may come out of a file that is as small as can be.
_LEAST_UNPACKED = 2**26
_CHUNK_BYTES = 2**20
_BLANK_LINES = re.compile(r'\n(?:[ \t\r]*\n)+')


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Options of a text corpus.

  Attributes:
    paths: Files that end in `.txt`, `.jsonl`, or either with `.gz`; of a folder
      all such files are read, sorted, with those in subfolders, but no hidden
      ones.
    documents: What a document of a `.txt` is: the 'file', a 'line' or a
      'paragraph' (up to a blank line). Blank ones are left out.
    text_field: Field of a JSON line that holds the text.
    holdout: Share of the documents kept for validation, 0 to 0.9; 0 means no
      validation set. See `split_documents`.
    holdout_by: 'rank' keeps exactly that share; by 'hash' a document that is
      held out stays so when others are added.
    tokenizer: See `tokenizers.load_tokenizer`.
    seq_len: Tokens of a row, L, 1..2**24.
    eval_rows: Rows of the validation pass, evenly spread over the held-out
      documents; None is all of them.
    gz_ratio: Most bytes that each byte of a `.gz` may unpack to once 64 MiB are
      unpacked, 1..2000; gzip can reach 1,032.

  Raises:
    ValueError: An option is out of its range.

  >>> TextConfig(paths='corpus.txt').paths
  ('corpus.txt',)
  """

  paths: tuple[str, ...]
  documents: str = fields.field('file', choices=DOCUMENTS)
  text_field: str = 'text'
  holdout: float = fields.field(0.1, low=0.0, high=0.9)
  holdout_by: str = fields.field('rank', choices=HOLDOUT_BY)
  tokenizer: str = 'bytes'
  seq_len: int = fields.field(256, low=1, high=2**24)
  eval_rows: int | None = fields.field(None, low=1)
  gz_ratio: int = fields.field(GZ_RATIO, low=1, high=2000)

  def __post_init__(self):
    # A lone path and the lists of config files are welcome too.
    paths = self.paths
    paths = (paths,) if isinstance(paths, str) else paths
    is_list = isinstance(paths, tuple | list) and len(paths) > 0
    if not is_list or not all(isinstance(p, str) and p for p in paths):
      raise ValueError(
          f'paths must name at least one file or folder, got {self.paths!r}.'
      )
    object.__setattr__(self, 'paths', tuple(paths))
    fields.check(self)
    if not self.text_field:
      raise ValueError("text_field must be the name of a field, got ''.")


def read_documents(config: TextConfig) -> list[str]:
  """Returns all documents of a corpus, in the order of the files.

  None of them is blank. A byte order mark is left out; line ends stay as they
  are within a document. A warning says how many files of a folder hold none.

  Raises:
    ValueError: A path is missing or holds no document, or a file is no UTF-8
      text, is a damaged gzip, unpacks to too much, or has a line that is no
      JSON object with the text field. The message names the file and the place.
  """
  documents = []
  for name in config.paths:
    found, empty = [], 0
    for path in folders.find_files((name,)):
      before = len(found)
      for chunk in read_chunks(path, config.documents, config.gz_ratio):
        found += chunk_documents(chunk, config.documents, config.text_field)
      empty += len(found) == before
    what = 'folder' if epath.Path(name).is_dir() else 'file'
    if not found:
      raise ValueError(f'{what} {name!r} holds no document.')
    if empty:
      warnings.warn(
          f'{what} {name!r}: {empty} files without a document left out.',
          stacklevel=2,
      )
    documents += found
  return documents


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Some whole documents of a file, unpacked and not decoded yet."""

  path: str
  data: bytes
  offset: int = 0  # Number of the first byte.
  line: int = 1  # Number of the first line.


def read_chunks(
    path: epath.Path, documents: str, gz_ratio: int = GZ_RATIO
) -> Iterator[Chunk]:
  """Reads a file of `find_files` piece by piece, cut between documents.

  The other arguments are those of `TextConfig`.

  Yields:
    Pieces of about a megabyte, more where a document is longer.

  Raises:
    ValueError: The file is a damaged gzip, unpacks to too much or cannot be
      read.
  """
  offset, line = 0, 1
  try:
    with path.open('rb') as file:
      stream = cast(BinaryIO, file)
      if path.name.endswith('.gz'):
        # Buffered once more: the lines of a GzipFile come at Python's speed.
        stream = io.BufferedReader(_Unpacked(path, stream, gz_ratio), 2**17)
      while data := _read_piece(stream, path.name, documents):
        yield Chunk(str(path), data, offset, line)
        offset += len(data)
        line += data.count(b'\n')
  except (gzip.BadGzipFile, EOFError, zlib.error) as e:
    raise ValueError(f'file {str(path)!r} is a damaged gzip: {e}.') from e
  except OSError as e:
    raise ValueError(f'file {str(path)!r} cannot be read: {e}.') from e


class _Unpacked(io.RawIOBase):
  """What comes out of a gzip, until that is more than text could be."""

  def __init__(self, path: epath.Path, stream: BinaryIO, ratio: int):
    self._path, self._ratio = os.fspath(path), ratio
    self._unpacked = gzip.GzipFile(fileobj=stream)
    size = path.stat().length
    self._left = max(_LEAST_UNPACKED, ratio * size)

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    count = self._unpacked.readinto(buffer)
    self._left -= count
    if self._left < 0:
      raise ValueError(
          f'file {self._path!r} must unpack to at most gz_ratio ='
          f' {self._ratio} times its size, got more: set gz_ratio to 2000 if it'
          ' is meant.'
      )
    return count


def _read_piece(stream: BinaryIO, name: str, documents: str) -> bytes:
  """The next whole documents, empty at the end of the file."""
  if documents == 'file' and not _is_json(name):
    return stream.read()
  lines = stream.readlines(_CHUNK_BYTES)
  if documents == 'paragraph' and not _is_json(name):
    while lines and lines[-1].strip(b' \t\r\n'):
      lines.append(stream.readline())
  return b''.join(lines)


def _is_json(name: str) -> bool:
  return name.removesuffix('.gz').endswith('.jsonl')


def chunk_documents(
    chunk: Chunk, documents: str, text_field: str
) -> list[str]:
  """Returns the documents of a piece of a file, without blank ones.

  The other arguments are those of `TextConfig`.

  Raises:
    ValueError: The contents are bad, as for `read_documents`.

  >>> chunk_documents(Chunk('a.txt', b'one two'), 'line', 'text')
  ['one two']
  """
  text = _decode(chunk)
  if _is_json(chunk.path):
    found = _json_documents(chunk, text, text_field)
  elif documents == 'file':
    found = [text]
  elif documents == 'paragraph':
    # The line end put before it makes a blank first line like any other.
    found = [p.strip('\r\n') for p in _BLANK_LINES.split('\n' + text)]
  else:
    # Not splitlines: it also cuts at form feeds and U+2028.
    found = [line.rstrip('\r') for line in text.split('\n')]
  return [document for document in found if document.strip()]


def split_documents(
    documents: list[str], holdout: float, by: str = 'rank'
) -> tuple[list[str], list[str]]:
  """Divides documents into those for training and those for validation.

  With at least 20 documents whole ones are held out, chosen by a hash of their
  text: the share `holdout` of the distinct ones, at least one. Copies of a
  document are on the same side, and the order of files does not matter. With
  fewer documents the tail of each is held out, the share `holdout` of its
  characters, and becomes a document of its own.

  Args:
    documents: All texts.
    holdout: The share, 0 to 0.9.
    by: 'rank' takes the smallest hashes, so that an added document may push
      another one to the other side; 'hash' all below `holdout` of the largest
      one that there could be, with few documents too, as `iblm-prepare` does.

  Returns:
    Two lists in the order of `documents`; the second is empty if `holdout`, 0
    to 0.9, is 0.

  Raises:
    ValueError: One side would be empty.

  >>> split_documents(['abcdefghij'], 0.2)
  (['abcdefgh'], ['ij'])
  """
  if not holdout:
    return list(documents), []
  if by == 'hash':
    sides = [is_held_out(document, holdout) for document in documents]
    train = [d for d, held in zip(documents, sides, strict=True) if not held]
    validation = [d for d, held in zip(documents, sides, strict=True) if held]
  elif len(documents) < MIN_DOCUMENTS_TO_SPLIT:
    cuts = [(d, len(d) - round(holdout * len(d))) for d in documents]
    train = [d[:cut] for d, cut in cuts if d[:cut]]
    validation = [d[cut:] for d, cut in cuts if d[cut:]]
  else:
    hashed = [(d, content_hash(d)) for d in documents]
    distinct = sorted({h for _, h in hashed})
    # Not all of them, so that training keeps one where there are two.
    count = min(max(1, round(holdout * len(distinct))), len(distinct) - 1)
    held_out = set(distinct[:count])
    train = [d for d, h in hashed if h not in held_out]
    validation = [d for d, h in hashed if h in held_out]
  if not train or not validation:
    raise ValueError(
        'holdout must leave text for training and for validation, got'
        f' {holdout=} by {by} with {len(documents)} documents.'
    )
  return train, validation


def is_held_out(document: str, holdout: float) -> bool:
  """Returns whether a document is in the share held out, by its text alone.

  >>> is_held_out('some text', 1.0), is_held_out('some text', 0.0)
  (True, False)
  """
  word = int.from_bytes(content_hash(document)[:8], 'big')
  return word < holdout * 2.0**64


def content_hash(document: str) -> bytes:
  """Returns 16 bytes that depend on the text of a document alone."""
  data = document.encode('utf-8', errors='surrogatepass')
  return hashlib.blake2b(data, digest_size=16).digest()


def _decode(chunk: Chunk) -> str:
  """Text of a piece; without the byte order mark if it begins the file."""
  try:
    text = chunk.data.decode('utf-8')
  except UnicodeDecodeError as e:
    line = chunk.line + chunk.data.count(b'\n', 0, e.start)
    raise ValueError(
        f'file {chunk.path!r} is not UTF-8: byte {chunk.data[e.start]:#04x} at'
        f' offset {chunk.offset + e.start}, line {line}.'
    ) from e
  return text if chunk.offset else text.removeprefix('\ufeff')


def json_lines(
    path: str, lines: Iterable[str | bytes], first: int
) -> Iterator[tuple[str, Any]]:
  """Yields where it stands, for messages, and the value of each line of JSON.

  Blank lines are left out. `first` is the number of the first of the lines
  within the file `path`. A line that is not JSON is a ValueError.
  """
  for number, line in enumerate(lines, first):
    if not line.strip():
      continue
    where = f'file {path!r}, line {number}'
    try:
      record = json.loads(line)
    except (ValueError, RecursionError) as e:
      raise ValueError(f'{where} is not JSON: {e}.') from e
    yield where, record


def file_hash(path: epath.PathLike) -> str:
  """Returns the SHA-256 of the bytes of a file."""
  with epath.Path(path).open('rb') as file:
    return hashlib.file_digest(cast(Any, file), 'sha256').hexdigest()


def _json_documents(chunk: Chunk, text: str, field: str) -> list[str]:
  """Field `field` of every JSON line; blank lines are left out."""
  found = []
  lines = json_lines(chunk.path, text.split('\n'), chunk.line)
  for where, record in lines:
    if not isinstance(record, dict) or field not in record:
      raise ValueError(f'{where} must be an object with a field {field!r}.')
    document = record[field]
    if not isinstance(document, str):
      raise ValueError(
          f'{where}: field {field!r} must be a string, got {document!r:.80}.'
      )
    if not document.isascii():
      # JSON can escape half of a surrogate pair, which no tokenizer takes.
      try:
        document.encode('utf-8')
      except UnicodeEncodeError as e:
        raise ValueError(
            f'{where}: field {field!r} holds a lone surrogate at character'
            f' {e.start}.'
        ) from e
    found.append(document)
  return found
