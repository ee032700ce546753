"""A finite population of units, in one array of tokens."""

import functools
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from iblm_jax.data import _checks, batches, documents, hashing, windows

# Separate the draw of the training set from the shuffling of controls.
_SPLIT_KEY, _SHUFFLE_KEY = 0x5B17, 0x5AFF
# Tokens that are read together, which may lie on a disk.
_PIECE = 2**22


class StoredDocuments:
  """Units of texts one after the other; see `documents.Documents`.

  The training set is a uniform random subset of the units, without
  replacement; all others are held out. Every text stands between two end marks;
  neighbours share one.

  Args:
    tokens: Integers [N], or what is indexed like such an array: an end mark,
      then the tokens of each text and an end mark after it.
    lengths: Targets of each text, its end included, [D], each at least 1.
    counts: Texts of each unit, [U], each at least 1.
    vocab_size: Tokens are in 0..vocab_size-1.
    end_id: The end mark, also used to fill up rows.
    num_train: Units of the training set, 1..U-1.
    seed: Seed of the choice of the training set and of shuffling, 0..2**63-1.
    context: Tokens of the longest row, at least 1.
    stride: How longer texts are scored, see `windows.scoring_windows`.
    shuffle_window: The tokens of each text are permuted within windows of so
      many, as a control; 0 leaves them as they are.
    unit: What a unit is, in words.
    files: SHA-256 of the files by name.

  Raises:
    ValueError: An argument is out of its range.
  """

  def __init__(
      self,
      tokens: Any,
      lengths: npt.ArrayLike,
      counts: npt.ArrayLike,
      *,
      vocab_size: int,
      end_id: int,
      num_train: int,
      seed: int,
      context: int,
      stride: int | None = None,
      shuffle_window: int = 0,
      unit: str = 'text',
      files: dict[str, str] | None = None,
  ):
    self._length_D = np.asarray(lengths, np.int64)
    self._position_D1 = np.concatenate([[0], np.cumsum(self._length_D)])
    counts = np.asarray(counts, np.int64)
    self._first_U1 = np.concatenate([[0], np.cumsum(counts)])
    size = counts.size
    self.num_train = _checks.check_int('num_train', num_train, 1, size - 1)
    self.num_heldout = size - self.num_train
    self.vocab_size = vocab_size
    self.max_length = _checks.check_int('context', context, 1)
    self._stride = stride
    self._end_id = end_id
    seed = _checks.check_int('seed', seed, 0, 2**63 - 1)
    self._unit_U = hashing.permutation(hashing.fold(seed, _SPLIT_KEY), size)
    window = _checks.check_int('shuffle_window', shuffle_window, 0)
    if window:
      tokens = _shuffled(
          tokens, self._length_D, window, hashing.fold(seed, _SHUFFLE_KEY)
      )
    self._tokens = tokens
    self._hash = self._sha256()
    self._unit, self._files = unit, files or {}

  @property
  def population(self) -> dict[str, Any]:
    """See `documents.Documents`."""
    size = self.num_train + self.num_heldout
    truncated = self._stride is None and self._length_D.max() > self.max_length
    scored = (
        f'its first {self.max_length} targets of each text'
        if truncated
        else 'all its targets, ends of texts included'
    )
    return {
        'average': f'mean over all {size} units of the population',
        'unit': self._unit,
        'sampling': 'without replacement',
        'size': size,
        'num_train': self.num_train,
        'num_heldout': self.num_heldout,
        'vocab_size': self.vocab_size,
        'loss': f'mean over {scored}',
        'unigram': self.unigram_entropy,
        'hash': self._hash,
        'files': dict(self._files),
    }

  @functools.cached_property
  def unigram_entropy(self) -> float:
    """The least mean loss of a model without context over all units, in bits.

    It predicts each token with its share of a unit, averaged over units.
    """
    scored_D = self._length_D
    if self._stride is None:
      scored_D = np.minimum(scored_D, self.max_length)
    scored_U = np.add.reduceat(scored_D, self._first_U1[:-1])
    weight_D = np.repeat(1 / scored_U, np.diff(self._first_U1))
    share_V = np.zeros(self.vocab_size)
    # In pieces: a weight takes four times as much memory as a token.
    for first in range(0, scored_D.size, 4096):
      piece = slice(first, first + 4096)
      length_d, scored_d = self._length_D[piece], scored_D[piece]
      begin = self._position_D1[first] + 1
      token_N = self._tokens[begin : begin + length_d.sum()]
      text_N, place_N = windows.numbered(length_d)
      weight_N = weight_D[piece][text_N]
      weight_N[place_N >= scored_d[text_N]] = 0
      share_V += np.bincount(token_N, weight_N, self.vocab_size)
    share_V = share_V[share_V > 0] / share_V.sum()
    return float(-(share_V * np.log2(share_V)).sum())

  def rows(self, split: str, indices: npt.ArrayLike) -> documents.Rows:
    """See `documents.Documents`; ValueError for an index out of range."""
    index_n = documents.check_indices(self, split, indices)
    offset = 0 if split == 'train' else self.num_train
    unit_n = self._unit_U[offset + index_n]
    count_n = self._first_U1[unit_n + 1] - self._first_U1[unit_n]
    place_T, ordinal_T = windows.numbered(count_n)
    document_T = self._first_U1[unit_n][place_T] + ordinal_T
    number_R, begin_R, first_R, end_R = windows.scoring_windows(
        self._length_D[document_T], self.max_length, self._stride
    )
    return documents.Rows(
        place_T[number_R], document_T[number_R], begin_R, first_R, end_R
    )

  def draw(self, keys: np.ndarray) -> documents.Rows:
    """See `documents.Documents`."""
    index_R = hashing.below(hashing.fold(keys, 0), self.num_train)
    unit_R = self._unit_U[index_R]
    # The texts of a unit, and so their positions, stand together.
    low_R = self._position_D1[self._first_U1[unit_R]]
    high_R = self._position_D1[self._first_U1[unit_R + 1]]
    around_R = low_R + hashing.below(hashing.fold(keys, 1), high_R - low_R)
    document_R = (
        np.searchsorted(self._position_D1, around_R, side='right') - 1
    )
    length_R = self._length_D[document_R]
    begin_R = np.clip(
        around_R - self._position_D1[document_R] - self.max_length // 2,
        0,
        np.maximum(length_R - self.max_length, 0),
    )
    end_R = np.minimum(begin_R + self.max_length, length_R)
    return documents.Rows(
        np.arange(index_R.size), document_R, begin_R, begin_R, end_R
    )

  def read(
      self, rows: documents.Rows, length: int | None = None
  ) -> batches.Batch:
    """See `documents.Documents`; ValueError if a row is longer."""

    def lookup(document_R, position_RxL):
      return self._tokens[self._position_D1[document_R][:, None] + position_RxL]

    length = self.max_length if length is None else length
    return documents.read_rows(rows, length, lookup, self._end_id)

  def _sha256(self) -> str:
    """Of the tokens, what they make up, and which units train."""
    found = hashlib.sha256()
    found.update(np.array([self._tokens.size], '<i8').tobytes())
    for start in range(0, self._tokens.size, _PIECE):
      piece = self._tokens[start : start + _PIECE]
      found.update(np.ascontiguousarray(piece, '<u2').data)
    for array, dtype in (
        (self._length_D, '<i8'),
        (self._first_U1, '<i8'),
        (self._unit_U, '<i8'),
        (np.array([self.num_train]), '<i8'),
    ):
      found.update(np.array([array.size], '<i8').tobytes())
      found.update(np.ascontiguousarray(array, dtype).data)
    return found.hexdigest()


def _shuffled(
    tokens: np.ndarray, length_D: np.ndarray, window: int, key: np.ndarray
) -> np.ndarray:
  """Tokens with those of each text permuted; end marks stay in place."""
  document, position = windows.numbered(length_D - 1)
  # Before the text d stand d + 1 end marks.
  place = np.arange(document.size) + document + 1
  shuffled = tokens.copy()
  shuffled[place] = windows.shuffle_in_windows(
      tokens[place], document, position, window, key
  )
  return shuffled
