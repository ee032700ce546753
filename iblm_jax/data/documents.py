"""Documents as the units of a bound, read by number.

A certificate is about the mean loss of units: i.i.d. draws, or a finite
population of which the training set is a random subset. A unit is read as one
or more rows: a text longer than a row takes several, and a unit may hold
several texts. The loss of a unit is the mean over all its scored targets, each
of which is in exactly one of its rows.

Every text `t1 ... tn` is read as `<end> t1 ... tn` and asked for
`t1 ... tn <end>`, so the end is scored as well: n + 1 targets. Target j is the
token after position j.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from iblm_jax.data import _checks, batches, buckets, hashing

SPLITS = ('train', 'heldout')

# Units of a split whose lengths decide the shapes of batches.
_MANY = 1 << 19
# Separates the rows that training draws from the documents themselves.
_ROWS_KEY = 0xD0C5


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Which parts of which documents make up rows; int64 arrays of shape [R].

  Attributes:
    unit: Place of the unit that a row belongs to among those asked for; -1 is
      an empty row.
    document: Number of the text within the source.
    begin: First position read.
    first: First target scored.
    end: End of the positions read and of the targets scored.
  """

  unit: np.ndarray
  document: np.ndarray
  begin: np.ndarray
  first: np.ndarray
  end: np.ndarray

  @property
  def lengths(self) -> np.ndarray:
    """Tokens of each row, int64 of shape [R]; 0 for an empty row."""
    return self.end - self.begin

  def take(self, chosen: npt.ArrayLike) -> 'Rows':
    """Returns the rows of the numbers [b]; -1 gives an empty row."""
    chosen = np.asarray(chosen, np.int64)
    there = chosen >= 0
    values = [
        np.where(there, getattr(self, field.name)[chosen], 0)
        for field in dataclasses.fields(self)
    ]
    values[0] = np.where(there, values[0], -1)
    return Rows(*values)


class Documents(Protocol):
  """A source of units: i.i.d., or a finite population in random order."""

  @property
  def vocab_size(self) -> int:
    """Tokens are in 0..vocab_size-1."""

  @property
  def num_train(self) -> int:
    """Units of the training set, m."""

  @property
  def num_heldout(self) -> int:
    """Units held out."""

  @property
  def max_length(self) -> int:
    """Tokens of the longest row."""

  @property
  def population(self) -> dict[str, Any]:
    """What a certificate says of the data, as JSON types.

    'average': what the risk averages over; 'unit'; 'sampling': 'iid' or
    'without replacement'; 'size': units of the population, None if it is a
    distribution; 'num_train'; 'num_heldout'; 'vocab_size'; 'loss': what the
    loss of a unit is; 'unigram': bits of the best model without context;
    'hash': SHA-256 of the data; 'files': SHA-256 by name.
    """

  def rows(self, split: str, indices: npt.ArrayLike) -> Rows:
    """Returns rows that score every target of some units, sorted by place.

    The `indices` [n] are below `num_train` or `num_heldout`; some may repeat.
    """

  def draw(self, keys: np.ndarray) -> Rows:
    """Draws one row for training for each key, uint64 [R].

    The unit is uniform in the training set; of its windows it is the one around
    a uniform position. All targets of the row are scored.
    """

  def read(self, rows: Rows, length: int | None = None) -> batches.Batch:
    """Reads rows, filled up to `length` tokens, by default to `max_length`."""


def check_indices(
    documents: Documents, split: str, indices: npt.ArrayLike
) -> np.ndarray:
  """Returns numbers of units as int64; ValueError for one out of its range."""
  _checks.check_choice('split', split, SPLITS)
  train = split == 'train'
  size = documents.num_train if train else documents.num_heldout
  array = np.asarray(indices)
  whole = array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
  if not whole or ((array < 0) | (array >= size)).any():
    raise ValueError(
        f'indices must be a sequence of integers between 0 and {size - 1} for'
        f' split {split!r}, got {indices!r}.'
    )
  return array.astype(np.int64)


def read_rows(
    rows: Rows,
    length: int,
    lookup: Callable[[np.ndarray, np.ndarray], np.ndarray],
    pad_id: int,
) -> batches.Batch:
  """Returns the batch of some rows, filled up to `length` tokens by `pad_id`.

  Args:
    rows: R rows.
    length: Tokens of a row, L; ValueError where one of the rows is longer.
    lookup: Maps documents [R] and positions [R, L + 1], none beyond the end of
      the row, to the tokens there. Position 0 is the end mark before a text.
    pad_id: Token that fills up the rows.
  """
  longest = int(rows.lengths.max(initial=1))
  length = _checks.check_int('length', length, longest)
  t = np.arange(length + 1)
  position_RxL1 = np.minimum(rows.begin[:, None] + t, rows.end[:, None])
  token_RxL1 = lookup(rows.document, position_RxL1)
  t = t[:-1]
  return batches.render(
      token_RxL1,
      mask=t < rows.lengths[:, None],
      loss_mask=t >= (rows.first - rows.begin)[:, None],
      pad_id=pad_id,
  )


def evaluation_batches(
    documents: Documents,
    split: str,
    indices: npt.ArrayLike,
    *,
    max_tokens: int,
    max_shapes: int = 8,
    row_multiple: int = 1,
) -> Iterator[tuple[np.ndarray, batches.Batch]]:
  """Reads every scored target of some units once, in batches of few shapes.

  The shapes are a function of the rows of all units (of many of them, where
  there are very many), so any units share them. See `buckets.buckets` for the
  last arguments.

  Yields:
    For each batch, the place in `indices` of the unit of each row, int64 [b]
    with -1 for an empty row, and the batch. `unit_means` brings the rows of a
    unit together.

  Raises:
    ValueError: An argument is out of its range.
  """
  rows = documents.rows(split, indices)
  sizes = (documents.num_train, documents.num_heldout)
  many = [
      documents.rows(name, np.arange(0, size, -(-size // _MANY))).lengths
      for name, size in zip(SPLITS, sizes, strict=True)
      if size
  ]
  if max(sizes) > _MANY:  # any of the others may be as long as a row can be
    many.append(np.array([documents.max_length]))
  for bucket in buckets.buckets(
      rows.lengths,
      max_tokens,
      like=np.concatenate(many),
      max_shapes=max_shapes,
      row_multiple=row_multiple,
  ):
    chosen = rows.take(bucket.rows)
    yield chosen.unit, documents.read(chosen, bucket.length)


def unit_means(
    sums: npt.ArrayLike,
    counts: npt.ArrayLike,
    units: npt.ArrayLike,
    num_units: int,
) -> np.ndarray:
  """Averages over the scored targets of each unit.

  Args:
    sums: Sums over the targets of each row, [..., R].
    counts: Targets of each row, [R].
    units: Place of the unit of each row, [R]; rows of -1 are left out.
    num_units: How many units, n.

  Returns:
    float64 [..., n].

  Raises:
    ValueError: A unit has no target.

  >>> unit_means([1.0, 5.0, 6.0], [1, 2, 2], [0, 1, 0], 2)
  array([2.33333333, 2.5       ])
  """
  unit_R = np.asarray(units, np.int64)
  there_R = unit_R >= 0
  unit_R = unit_R[there_R]
  count_R = np.asarray(counts, np.float64)[there_R]
  count_n = np.bincount(unit_R, count_R, num_units)
  if count_n.size != num_units or (count_n == 0).any():
    raise ValueError(
        f'units must name each of 0..{num_units - 1}, with a target each.'
    )
  sum_xR = np.asarray(sums, np.float64)[..., there_R]
  sum_x = [
      np.bincount(unit_R, one, num_units)
      for one in sum_xR.reshape(-1, unit_R.size)
  ]
  return np.reshape(sum_x, (*sum_xR.shape[:-1], num_units)) / count_n


class DocumentSource:
  """Random access to batches of one split, for training; see `batches.Source`.

  Row r of training batch k is a function of the seed and of
  k * batch_size + r: a random row of a unit that is uniform in the training
  set. Held out is one pass over the rows of the first units, the same for every
  seed and batch size, filled up with empty rows.

  Args:
    documents: Where the rows come from.
    split: One of `SPLITS`.
    batch_size: Rows of a global batch, at least 1.
    seed: Seed of the rows of training, 0..2**63-1.
    eval_units: Most units of the pass over the held-out ones, at least 1; None
      is all of them.

  Raises:
    ValueError: An argument is out of its range, or no unit is held out.
  """

  num_eval_batches: int | None

  def __init__(
      self,
      documents: Documents,
      split: str = 'train',
      batch_size: int = 64,
      seed: int = 0,
      eval_units: int | None = None,
  ):
    self.documents = documents
    _checks.check_choice('split', split, SPLITS)
    self.batch_size = _checks.check_int('batch_size', batch_size, 1)
    self._key = hashing.fold(
        _checks.check_int('seed', seed, 0, 2**63 - 1), _ROWS_KEY
    )
    self._rows: Rows | None = None
    self.num_eval_batches = None
    if split == 'heldout':
      count = documents.num_heldout
      if eval_units is not None:
        count = min(count, _checks.check_int('eval_units', eval_units, 1))
      if not count:
        raise ValueError('split must be train: the source holds no unit out.')
      self._rows = documents.rows(split, np.arange(count))
      self.num_eval_batches = -(-self._rows.unit.size // self.batch_size)

  @property
  def vocab_size(self) -> int:
    """Tokens are in 0..vocab_size-1."""
    return self.documents.vocab_size

  @property
  def length(self) -> int:
    """Tokens of a row."""
    return self.documents.max_length

  def batch(
      self, k: int, rows: Sequence[int] | None = None
  ) -> batches.Batch:
    """Returns rows of global batch `k`; ValueError for one out of range."""
    number_b = batches.row_numbers(
        k, rows, batch_size=self.batch_size, num_batches=self.num_eval_batches
    )
    if self._rows is None:
      chosen = self.documents.draw(hashing.fold(self._key, number_b))
    else:
      there_b = number_b < self._rows.unit.size
      chosen = self._rows.take(np.where(there_b, number_b, -1))
    return self.documents.read(chosen)
