"""Writes token shards so that a killed program goes on where it was.

`index.json` is what counts: it lists the finished files and, until all is done,
how many chunks of the sources are written and how far each unfinished file is.
It is replaced in one step, and a file gets its last name only once the index
lists it. Whatever was written after the last index is cut off when the program
starts again.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import warnings
from typing import Any, BinaryIO

import numpy as np

from iblm_jax import files
from iblm_jax.data import identity
from iblm_jax.data.shards import files as shard_files

_INDEX = shard_files.INDEX
# Files of a folder that this program writes, beside the index.
_OURS = re.compile(
    r'(train|validation)_\d{6}\.(bin|array_record(\.tmp)?|partial)'
    r'|tokenizer\.(json|model)'
)


@dataclasses.dataclass
class _Part:
  """The file of a split that is being written."""

  split: str
  number: int
  file: BinaryIO
  tokens: int = 0
  documents: int = 0


class ShardWriter:
  """Writes the shards of a folder; see the module.

  Attributes:
    index: What `index.json` holds.

  Args:
    folder: Where the files go; made if missing.
    settings: What determines the files, a dictionary for JSON with at least
      `format` and `shard_tokens`.
    contents: What the sources are, see `identity.of_files`.

  Raises:
    ValueError: The folder holds other files, or shards of other settings or
      sources, or its files do not agree with its index, or another program
      writes to it.
  """

  def __init__(
      self,
      folder: str,
      settings: dict[str, Any],
      contents: dict[str, Any] | None = None,
  ):
    self._folder = folder
    self._suffix = '.' + settings['format']
    self._shard_tokens = settings['shard_tokens']
    self._parts: dict[str, _Part] = {}
    os.makedirs(folder, exist_ok=True)
    # Ends with this process, however that ends.
    self._lock = os.open(folder, os.O_RDONLY)
    try:
      self._hold()
      self._contents = contents or {}
      self.index = self._read_index(settings)
      self._check_shards()
      if not self.index['finished']:
        self._go_back()
    except BaseException:
      self.close()
      raise

  @property
  def finished(self) -> bool:
    """Whether all is written."""
    return self.index['finished']

  @property
  def chunks(self) -> int:
    """Chunks of the sources that are written already."""
    return self.index['progress']['chunks']

  def documents(self, split: str) -> int:
    """Returns how many documents are written so far."""
    return self._total(split, 'documents')

  def tokens(self, split: str) -> int:
    """Returns how many tokens are written so far."""
    return self._total(split, 'tokens')

  def add(self, split: str, tokens: np.ndarray, lengths: np.ndarray) -> bool:
    """Appends documents: their tokens, uint16 [N], and their lengths, int64.

    Returns:
      Whether a shard became full, so that `commit` should follow.
    """
    ends = np.cumsum(lengths)
    done = done_tokens = 0
    became_full = False
    while done < lengths.size:
      part = self._parts.get(split) or self._new_part(split)
      room = self._shard_tokens - part.tokens
      # Up to the first document with which the shard is full.
      stop = int(np.searchsorted(ends, done_tokens + room)) + 1
      stop = min(stop, lengths.size)
      stop_tokens = int(ends[stop - 1])
      piece = tokens[done_tokens:stop_tokens]
      part.file.write(piece.astype(shard_files.TOKEN).tobytes())
      part.tokens += piece.size
      part.documents += stop - done
      done, done_tokens = stop, stop_tokens
      if part.tokens >= self._shard_tokens:
        self._close_part(split)
        became_full = True
    return became_full

  def commit(self, chunks: int) -> None:
    """Makes what was added last, as the first `chunks` chunks."""
    for part in self._parts.values():
      _sync(part.file)
    self.index['progress'] = self._progress(chunks)
    self._write_index()

  def _progress(self, chunks: int) -> dict[str, Any]:
    return {
        'chunks': chunks,
        **({'contents': self._contents} if self._contents else {}),
        'partial': {
            split: {
                'number': part.number,
                'tokens': part.tokens,
                'documents': part.documents,
            }
            for split, part in sorted(self._parts.items())
        },
    }

  def finish(self) -> None:
    """Finishes the last files; `add` may not be called any more."""
    for split in sorted(self._parts):
      self._close_part(split)
    self.index['shards'].sort(key=lambda shard: shard['name'])
    del self.index['progress']
    self.index['finished'] = True
    self._write_index()

  def discard(self) -> None:
    """Removes all that was written: what it was made of was refused.

    The index goes last and says so, for the next program if this one is killed.
    Files of other names are left alone.
    """
    for part in self._parts.values():
      part.file.close()
    self._parts = {}
    self.index = {'discarded': True, 'shards': []}
    self._write_index()
    self._remove_ours()

  def _remove_ours(self) -> None:
    for name in sorted(os.listdir(self._folder)):
      if _OURS.fullmatch(name):
        os.remove(self._path(name))
    os.remove(self._path(_INDEX))

  def close(self) -> None:
    """Lets go of the folder."""
    for part in self._parts.values():
      part.file.close()
    os.close(self._lock)

  def _hold(self) -> None:
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise ValueError(
          f'folder {self._folder!r} is being written by another program.'
      ) from e
    except OSError as e:  # such as some network disks
      warnings.warn(
          f'folder {self._folder!r} cannot be locked ({e.strerror}): let no'
          ' second program write to it.',
          stacklevel=3,
      )

  def _path(self, name: str) -> str:
    return os.path.join(self._folder, name)

  def _total(self, split: str, what: str) -> int:
    shards = [s[what] for s in self.index['shards'] if s['split'] == split]
    part = self._parts.get(split)
    return sum(shards) + (getattr(part, what) if part else 0)

  def _read_index(self, settings: dict[str, Any]) -> dict[str, Any]:
    path = self._path(_INDEX)
    if os.path.exists(path) and self._load(path).get('discarded'):
      self._remove_ours()
    if not os.path.exists(path):
      others = sorted(
          name for name in os.listdir(self._folder)
          if not (name.startswith(_INDEX) and name.endswith('.tmp'))
      )
      if others:
        raise ValueError(
            f'folder {self._folder!r} must be empty or hold shards with their'
            f' {_INDEX}, found {others[0]!r}.'
        )
      self.index = {
          **settings,
          'shards': [],
          'finished': False,
          'progress': self._progress(0),
      }
      self._write_index()
      return self.index
    index = self._load(path)
    try:
      found = {name: index[name] for name in settings}
      _ = index['shards'], index['finished'] or index['progress']['partial']
    except (KeyError, TypeError) as e:
      raise ValueError(f'file {path!r} is no index of shards: {e!r}.') from e
    differing = [name for name in settings if found[name] != settings[name]]
    if differing:
      name = differing[0]
      raise ValueError(
          f'folder {self._folder!r} holds shards of other settings, {name}='
          f'{found[name]!r:.200}, got {settings[name]!r:.200}: nothing was'
          ' written.'
      )
    progress = {} if index['finished'] else index['progress']
    # Version 0.1 did not write down what its sources held.
    began = progress.get('contents', self._contents)
    changed = identity.difference(began, self._contents)
    if changed is not None:
      raise ValueError(
          f'folder {self._folder!r} holds shards of other sources: {changed}:'
          ' nothing was written.'
      )
    return index

  def _load(self, path: str) -> dict[str, Any]:
    try:
      index = files.read_json(path)
    except ValueError as e:
      raise ValueError(f'file {path!r} is no index of shards: {e!r}.') from e
    if not isinstance(index, dict):
      raise ValueError(
          f'file {path!r} is no index of shards: got {index!r:.80}.'
      )
    return index

  def _check_shards(self) -> None:
    """Makes sure that finished files are those that the index lists."""
    for shard in self.index['shards']:
      self._rename(shard['name'])
      opened = shard_files.open_shard(self._path(shard['name']))
      if opened.num_tokens != shard['tokens']:
        raise ValueError(
            f'shard {opened.path!r} must hold {shard["tokens"]} tokens as'
            f' {_INDEX} says, got {opened.num_tokens}.'
        )
      now = identity.of_file(opened.path, sampled=True)
      name = f'shard {opened.path!r}'
      changed = identity.difference({name: shard}, {name: now})
      if changed is not None:
        raise ValueError(
            f'{changed}: it is not the one that {_INDEX} lists. Remove the'
            ' folder, or copy all of it anew.'
        )

  def _go_back(self) -> None:
    """Makes unfinished files as long as the index says."""
    # Files that the index does not name are left as they are: they get written
    # anew under the same names.
    for split, state in self.index['progress']['partial'].items():
      path = self._path(_partial_name(split, state['number']))
      size = shard_files.HEADER_BYTES
      size += state['tokens'] * shard_files.TOKEN.itemsize
      if not os.path.exists(path) or os.path.getsize(path) < size:
        raise ValueError(f'file {path!r} must have at least {size} bytes.')
      file = open(path, 'r+b')
      file.truncate(size)
      file.seek(size)
      self._parts[split] = _Part(split, file=file, **state)

  def _rename(self, name: str) -> None:
    """Gives a listed shard its last name, if it has not got it."""
    stem, suffix = os.path.splitext(name)
    partial = self._path(stem + '.partial')
    written = partial if suffix == '.bin' else self._path(name + '.tmp')
    if os.path.exists(written):
      os.replace(written, self._path(name))
    if not os.path.exists(self._path(name)):
      raise ValueError(
          f'folder {self._folder!r} must hold {name!r}, which {_INDEX} lists.'
      )
    with contextlib.suppress(FileNotFoundError):
      os.remove(partial)

  def _new_part(self, split: str) -> _Part:
    number = sum(shard['split'] == split for shard in self.index['shards'])
    file = open(self._path(_partial_name(split, number)), 'wb')
    # The header is known at the end only.
    file.write(bytes(shard_files.HEADER_BYTES))
    self._parts[split] = part = _Part(split, number, file)
    return part

  def _close_part(self, split: str) -> None:
    """Finishes a file and lists it; it is renamed with the next index."""
    part = self._parts.pop(split)
    path = self._path(_partial_name(split, part.number))
    with part.file as file:
      file.seek(0)
      file.write(shard_files.header(part.tokens))
      _sync(file)
    name = f'{split}_{part.number:06d}{self._suffix}'
    if self._suffix != '.bin':
      tokens = np.memmap(
          path, shard_files.TOKEN, 'r', shard_files.HEADER_BYTES
      )
      path = self._path(name + '.tmp')
      shard_files.write_array_record(path, tokens)
    known = identity.of_file(path, sampled=True)
    with open(path, 'rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
      os.fsync(file.fileno())
    self.index['shards'].append({
        'name': name,
        'split': split,
        'tokens': part.tokens,
        'documents': part.documents,
        'sha256': digest,
        # What a run compares where hashing all of it would take long.
        **{k: v for k, v in known.items() if k == 'sha256_of_samples'},
    })

  def _write_index(self) -> None:
    files.write_json(self._path(_INDEX), self.index)
    for shard in self.index['shards']:
      self._rename(shard['name'])


def _partial_name(split: str, number: int) -> str:
  return f'{split}_{number:06d}.partial'


def _sync(file: BinaryIO) -> None:
  file.flush()
  os.fsync(file.fileno())
