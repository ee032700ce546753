"""From sources of text to token ids, in this process or in several."""

import collections
import concurrent.futures
import dataclasses
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import process
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import fields
from iblm_jax.data.text import files as text_lib
from iblm_jax.data.text import folders, tokenizers

SPLITS = ('train', 'validation')

_HUB = 'hf:'
_CHUNK_CHARACTERS = 2**20
# Chunks in flight for each worker: enough to keep it busy, few enough to hold.
_CHUNKS_PER_WORKER = 3


@dataclasses.dataclass(frozen=True)
class Options:
  """How text becomes tokens.

  Attributes:
    tokenizer: See `tokenizers.load_tokenizer`.
    documents: See `text.TextConfig`.
    text_field: See `text.TextConfig`; also the one of data sets.
    holdout: Share of the documents for validation, 0 to 0.9.
    gz_ratio: See `text.TextConfig`.
  """

  tokenizer: str = 'bytes'
  documents: str = fields.field('file', choices=text_lib.DOCUMENTS)
  text_field: str = 'text'
  holdout: float = fields.field(0.01, low=0.0, high=0.9)
  gz_ratio: int = fields.field(text_lib.GZ_RATIO, low=1, high=2000)

  def __post_init__(self):
    fields.check(self)


@dataclasses.dataclass(frozen=True)
class Records:
  """Some texts of a data set, in place of a `text.Chunk`."""

  texts: tuple[str, ...]


Chunk = text_lib.Chunk | Records
# For each split the tokens of its documents, uint16, and their lengths, int64.
Tokens = dict[str, tuple[np.ndarray, np.ndarray]]


class Tokeniser:
  """Makes tokens of chunks: each document is a bos and those of its text."""

  def __init__(self, options: Options):
    self._options = options
    self._tokenizer = tokenizers.load_tokenizer(options.tokenizer)

  def __call__(self, chunk: Chunk) -> Tokens:
    """Returns the tokens by split; ValueError if the contents are bad."""
    options = self._options
    if isinstance(chunk, Records):
      documents = [text for text in chunk.texts if text.strip()]
    else:
      documents = text_lib.chunk_documents(
          chunk, options.documents, options.text_field
      )
    bos = np.array([self._tokenizer.bos_id])
    parts = {split: [bos[:0]] for split in SPLITS}
    lengths = {split: [] for split in SPLITS}
    for document in documents:
      ids = self._tokenizer.encode(document)
      side = SPLITS[is_held_out(document, options.holdout)]
      parts[side] += [bos, ids]
      lengths[side].append(1 + ids.size)
    return {
        split: (
            # Ids are below vocab_size, which the caller checked.
            np.concatenate(parts[split], dtype=np.uint16, casting='unsafe'),
            np.array(lengths[split], np.int64),
        )
        for split in SPLITS
    }


is_held_out = text_lib.is_held_out


def describe(sources: Iterable[str]) -> list[dict[str, Any]]:
  """Lists the files and data sets that sources stand for.

  Sources are files and folders as in `text.TextConfig`, or `hf:NAME[:SPLIT]`.
  Each gives a dictionary with its `name`, and for files `bytes`. ValueError
  where a file is missing or has a wrong suffix, or `datasets` is not installed.
  """
  found = []
  for source in sources:
    if source.startswith(_HUB):
      _datasets_package(source)
      found.append({'name': source})
    else:
      found += [
          {'name': os.fspath(path), 'bytes': path.stat().length}
          for path in folders.find_files((source,))
      ]
  return found


def read(
    sources: Iterable[dict[str, Any]], options: Options
) -> Iterator[Chunk]:
  """Yields the chunks of the sources of `describe`, in order.

  Raises:
    ValueError: A source cannot be read.
    OSError: A data set ended early, for example because of the network.
  """
  for source in sources:
    name = source['name']
    if name.startswith(_HUB):
      yield from _read_data_set(name, options.text_field)
    else:
      yield from text_lib.read_chunks(
          epath.Path(name), options.documents, options.gz_ratio
      )


def _datasets_package(source: str) -> Any:
  try:
    return importlib.import_module('datasets')
  except ImportError as e:
    raise ValueError(
        f'source {source!r} needs a package that is not installed: run'
        f" `pip install 'iblm-jax[hf]'` ({e})."
    ) from e


def _read_data_set(source: str, text_field: str) -> Iterator[Records]:
  name, _, split = source.removeprefix(_HUB).partition(':')
  # Names are OWNER/NAME; a third part is one of the data set's configurations.
  parts = name.split('/')
  package = _datasets_package(source)
  try:
    records = iter(
        package.load_dataset(
            '/'.join(parts[:2]),
            '/'.join(parts[2:]) or None,
            split=split or 'train',
            streaming=True,
        )
    )
  except Exception as e:  # The package raises errors of many kinds.
    raise ValueError(f'source {source!r} cannot be opened: {e}.') from e
  texts, size, number = [], 0, 0
  while True:
    try:
      record = next(records, None)
    except Exception as e:
      raise OSError(
          f'source {source!r} cannot be read after record {number}: {e}.'
      ) from e
    if record is None:
      break
    number += 1
    text = record.get(text_field)
    if not isinstance(text, str):
      raise ValueError(
          f'source {source!r}, record {number}: field {text_field!r} must be a'
          f' string, got {text!r:.80}; there are {sorted(record)}.'
      )
    texts.append(text)
    size += len(text)
    if size >= _CHUNK_CHARACTERS:
      yield Records(tuple(texts))
      texts, size = [], 0
  if texts:
    yield Records(tuple(texts))


def tokenise(
    chunks: Iterable[Chunk], options: Options, workers: int
) -> Generator[Tokens, None, None]:
  """Tokenises chunks in some processes; with one worker, in this one.

  Yields:
    For each chunk, in order, what `Tokeniser` returns.

  Raises:
    ValueError: The contents of a chunk are bad.
    OSError: A process was killed.
  """
  if workers == 1:
    yield from map(Tokeniser(options), chunks)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
      workers,
      # A fork would copy locks of threads that a library may have started.
      mp_context=multiprocessing.get_context('spawn'),
      initializer=_start_worker,
      initargs=(options,),
  )
  try:
    waiting = collections.deque()
    for chunk in chunks:
      waiting.append(pool.submit(_tokenise_in_worker, chunk))
      if len(waiting) >= _CHUNKS_PER_WORKER * workers:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  except process.BrokenProcessPool as e:
    raise ChildProcessError(
        'a process that tokenises was killed, perhaps for want of memory; with'
        ' fewer workers it may do.'
    ) from e
  finally:
    pool.shutdown(cancel_futures=True)


_tokeniser: Tokeniser | None = None


def _start_worker(options: Options) -> None:
  global _tokeniser
  # A keyboard interrupt goes to all processes; the main one ends the others.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  _tokeniser = Tokeniser(options)


def _end_with_parent() -> None:
  """A killed main process cannot end its workers, which would wait forever."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _tokenise_in_worker(chunk: Chunk) -> Tokens:
  assert _tokeniser is not None, 'the pool starts workers with _start_worker'
  return _tokeniser(chunk)
