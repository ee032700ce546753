"""Packing: documents of any length into rows of one length, with no waste.

A document `t1 ... tn` is read as `<bos> t1 ... tn` and asked for
`t1 ... tn <eos>`: n + 1 positions. So every token and every end of a document
is a target once, each target belongs to the document of its input, and no
position is spent on reading an eos that predicts nothing.

The positions of all documents in a row, one after the other, are cut into rows
of L. Training orders the documents anew in every epoch, turns the resulting
ring of positions by a random offset below L, cuts it, and shuffles the rows, so
that neighbours in a batch are unrelated. A cut ends less than a row before the
end of the ring: fewer than L positions, different ones each time, are left out
of an epoch. Validation is one pass in the order given, the last row filled up.
"""

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from iblm_jax.data import _checks, batches, hashing, windows
from iblm_jax.data.text import tokenizers

# Names of the three draws of an epoch.
_DOCUMENT_ORDER, _OFFSET, _ROW_ORDER = 0, 1, 2
# A batch at the border of two epochs needs both.
_CACHED_EPOCHS = 2


@dataclasses.dataclass(frozen=True)
class PackedTokens:
  """A corpus of tokens: documents, each a slice of one array.

  Document d reads `tokens[s : s + m]` and is asked for `tokens[s+1 : s+m+1]`,
  with s = `starts[d]` and m = `lengths[d]`.
  """

  tokens: np.ndarray  # Integers [N], in memory or mapped from a file.
  starts: np.ndarray  # int64 [D].
  lengths: np.ndarray  # int64 [D], each at least 1.
  pad_id: int  # Token that fills up rows.
  vocab_size: int  # Tokens are in 0..vocab_size-1.

  @property
  def num_positions(self) -> int:
    """Positions of all documents, which is the number of targets."""
    return int(self.lengths.sum())


def pack_tokens(
    documents: Iterable[np.ndarray],
    *,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    vocab_size: int,
) -> PackedTokens:
  """Puts a bos before and an eos after each document and joins them.

  The documents are integers [n], n at least 0. Tokens take 16 bits where these
  suffice. No document at all is a ValueError.

  >>> pack_tokens([np.array([7, 8])], bos_id=1, eos_id=2, pad_id=0,
  ...             vocab_size=9).tokens.tolist()
  [1, 7, 8, 2]
  """
  dtype = np.uint16 if vocab_size <= 2**16 else np.int32
  bos, eos = np.array([bos_id], dtype), np.array([eos_id], dtype)
  parts, lengths = [], []
  for document in documents:
    parts += [bos, document.astype(dtype), eos]
    lengths.append(document.size + 1)
  if not lengths:
    raise ValueError('documents must hold at least one document, got none.')
  lengths = np.asarray(lengths, np.int64)
  starts = np.cumsum(lengths + 1) - (lengths + 1)
  return PackedTokens(
      np.concatenate(parts), starts, lengths, pad_id, vocab_size
  )


def pack_text(
    documents: Iterable[str],
    tokenizer: tokenizers.Tokenizer,
    *,
    seq_len: int,
    batch_size: int,
    seed: int = 0,
    train: bool = True,
    eval_rows: int | None = None,
    max_rows: int | None = None,
) -> 'PackedText':
  """Tokenises texts and packs them into rows; see `PackedText`.

  Only the first texts that fill `max_rows` rows are read; None reads all.

  Raises:
    ValueError: There is no text, or they do not fill a row for training.

  >>> pack_text(['abc'], tokenizers.ByteTokenizer(), seq_len=4, batch_size=1,
  ...           train=False).batch(0)['targets'].tolist()
  [[97, 98, 99, 257]]
  """
  encoded = map(tokenizer.encode, documents)
  if max_rows is not None:
    encoded = _first(encoded, max_rows * seq_len)
  corpus = pack_tokens(
      encoded,
      bos_id=tokenizer.bos_id,
      eos_id=tokenizer.eos_id,
      pad_id=tokenizer.pad_id,
      vocab_size=tokenizer.vocab_size,
  )
  return PackedText(
      corpus,
      seq_len=seq_len,
      batch_size=batch_size,
      seed=seed,
      train=train,
      eval_rows=eval_rows,
  )


def _first(
    documents: Iterable[np.ndarray], positions: int
) -> Iterator[np.ndarray]:
  """The first documents that fill so many positions."""
  for document in documents:
    yield document
    positions -= document.size + 1
    if positions <= 0:
      return


@dataclasses.dataclass(frozen=True)
class _Stream:
  """Documents one after the other; `ends` begins with 0."""

  starts_D: np.ndarray  # int64, where in the tokens a document begins.
  ends_D1: np.ndarray  # int64, cumulated positions.
  offset: int  # Position at which the first row begins.
  row_order: np.ndarray  # int64 of shape [rows]; empty: as they come.


class PackedText:
  """Random access to packed rows of text; see `batches.Source`.

  Row r of batch k is row k * batch_size + r of an endless sequence of epochs.
  Several threads may read it.

  Args:
    corpus: The tokens.
    seq_len: Tokens of a row, L, at least 1.
    batch_size: Rows of a global batch, at least 1.
    seed: Seed of the shuffling, 0..2**63-1.
    train: Endless and shuffled if True, else one pass in order.
    eval_rows: With `train` False, at most so many rows, evenly spread over the
      pass: files are often sorted. None is all of them.

  Raises:
    ValueError: An argument is out of its range, or the corpus does not fill
      one row for training.

  >>> corpus = pack_tokens([np.array([7, 8])], bos_id=1, eos_id=2, pad_id=0,
  ...                      vocab_size=9)
  >>> source = PackedText(corpus, seq_len=4, batch_size=1, train=False)
  >>> batch = source.batch(0)
  >>> batch['tokens'].tolist(), batch['targets'].tolist()
  ([[1, 7, 8, 0]], [[7, 8, 2, 0]])
  """

  num_eval_batches: int | None

  def __init__(
      self,
      corpus: PackedTokens,
      *,
      seq_len: int,
      batch_size: int,
      seed: int = 0,
      train: bool = True,
      eval_rows: int | None = None,
  ):
    self.corpus = corpus
    self.length = _checks.check_int('seq_len', seq_len, 1)
    self.batch_size = _checks.check_int('batch_size', batch_size, 1)
    self._seed = _checks.check_int('seed', seed, 0, 2**63 - 1)
    self._train = train
    self._epochs: dict[int, _Stream] = {}
    self._lock = threading.Lock()
    positions = corpus.num_positions
    if train:
      if positions < self.length:
        raise ValueError(
            'seq_len must be at most the number of positions of the corpus,'
            f' {positions}, got {seq_len=}.'
        )
      self.num_rows = positions // self.length
      self.num_eval_batches = None
    else:
      self.num_rows = self._pass_rows = -(-positions // self.length)
      if eval_rows is not None:
        eval_rows = _checks.check_int('eval_rows', eval_rows, 1)
        self.num_rows = min(self.num_rows, eval_rows)
      self.num_eval_batches = -(-self.num_rows // self.batch_size)

  @property
  def vocab_size(self) -> int:
    """Tokens are in 0..vocab_size-1."""
    return self.corpus.vocab_size

  def batch(
      self, k: int, rows: Sequence[int] | None = None
  ) -> batches.Batch:
    """Returns rows of global batch `k`; ValueError for one out of range."""
    number_b = batches.row_numbers(
        k, rows, batch_size=self.batch_size, num_batches=self.num_eval_batches
    )
    if not self._train:
      # Rows beyond the pass are empty, as is the rest of its last row.
      end = self.corpus.num_positions
      row_b = number_b * self._pass_rows // max(self.num_rows, 1)
      row_b = np.where(number_b < self.num_rows, row_b, self._pass_rows)
      begin_b = np.minimum(row_b * self.length, end)
      end_b = np.minimum(begin_b + self.length, end)
      return self._cut(self._epoch(0), begin_b, end_b)
    epoch_b, row_b = np.divmod(number_b, self.num_rows)
    parts = []
    for epoch in np.unique(epoch_b):
      stream = self._epoch(int(epoch))
      chosen = stream.row_order[row_b[epoch_b == epoch]]
      begin_b = stream.offset + chosen * self.length
      parts.append(self._cut(stream, begin_b, begin_b + self.length))
    if len(parts) == 1:
      return parts[0]
    # The parts are sorted by epoch; the rows asked for need not be.
    back = np.argsort(np.argsort(epoch_b, kind='stable'))
    return {
        key: np.concatenate([part[key] for part in parts])[back]
        for key in parts[0]
    }

  def _epoch(self, epoch: int) -> _Stream:
    """The stream of an epoch, kept until newer ones are asked for."""
    with self._lock:
      if epoch not in self._epochs:
        while len(self._epochs) >= _CACHED_EPOCHS:
          del self._epochs[next(iter(self._epochs))]
        make = self._shuffled if self._train else self._in_order
        self._epochs[epoch] = make(epoch)
      return self._epochs[epoch]

  def _in_order(self, epoch: int) -> _Stream:
    del epoch
    ends = np.concatenate([[0], np.cumsum(self.corpus.lengths)])
    return _Stream(self.corpus.starts, ends, 0, np.zeros(0, np.int64))

  def _shuffled(self, epoch: int) -> _Stream:
    key = hashing.fold(self._seed, epoch)
    order = hashing.permutation(
        hashing.fold(key, _DOCUMENT_ORDER), self.corpus.starts.size
    )
    starts, lengths = self.corpus.starts[order], self.corpus.lengths[order]
    # The last row may run past the end of the ring, by less than a row.
    around = np.searchsorted(np.cumsum(lengths), self.length) + 1
    starts = np.concatenate([starts, starts[:around]])
    lengths = np.concatenate([lengths, lengths[:around]])
    return _Stream(
        starts,
        np.concatenate([[0], np.cumsum(lengths)]),
        int(hashing.below(hashing.fold(key, _OFFSET), self.length)),
        hashing.permutation(hashing.fold(key, _ROW_ORDER), self.num_rows),
    )

  def _cut(
      self, stream: _Stream, begin_b: np.ndarray, end_b: np.ndarray
  ) -> batches.Batch:
    """Rows of the positions begin..end-1, filled up to the row length.

    Works on pieces, the part of one document in one row, and then on the
    tokens of all pieces at once; there is no loop over either.
    """
    ends = stream.ends_D1
    first_b = np.searchsorted(ends, begin_b, side='right') - 1
    last_b = np.searchsorted(ends, end_b, side='left') - 1
    count_b = np.where(end_b > begin_b, last_b - first_b + 1, 0)
    row_p, ordinal_p = windows.numbered(count_b)
    document_p = first_b[row_p] + ordinal_p
    begin_p = np.maximum(ends[document_p], begin_b[row_p])
    length_p = np.minimum(ends[document_p + 1], end_b[row_p]) - begin_p
    source_p = stream.starts_D[document_p] + begin_p - ends[document_p]
    # From pieces to tokens: numbers within the piece, then within the corpus.
    piece_t, position_t = windows.numbered(length_p)
    source_t = source_p[piece_t] + position_t
    mask = np.arange(self.length) < (end_b - begin_b)[:, None]

    def rows_of(values, fill):
      array = np.full(mask.shape, fill, np.int32)
      array[mask] = values
      return array

    pad_id = self.corpus.pad_id
    return {
        'tokens': rows_of(self.corpus.tokens[source_t], pad_id),
        'targets': rows_of(self.corpus.tokens[source_t + 1], pad_id),
        'loss_mask': mask.copy(),
        'mask': mask,
        'segment_ids': rows_of(ordinal_p[piece_t] + 1, 0),
        'positions': rows_of(position_t, 0),
    }
