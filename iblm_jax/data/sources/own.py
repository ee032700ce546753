"""Data of one's own: any object that gives batches by their number."""

import dataclasses
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from iblm_jax.data import _checks, batches, identity, kinds

# No evaluation set is as long; `repeat` of grain says such numbers.
_ENDLESS = 2**48
# Batches of a stream that stay in memory for threads that are late.
_KEPT = 256


@dataclasses.dataclass(frozen=True)
class OwnConfig:
  """The kind 'own' has no options: its sources are passed to `train`."""


def as_source(
    obj: Any,
    *,
    vocab_size: int | None = None,
    batch_size: int | None = None,
    train: bool = True,
) -> batches.Source:
  """Makes a source of batches from an object of one's own.

  Batch k must depend on k only, so that a resumed run goes on with the batch
  that it would have had. A batch is a mapping with at least `tokens`, integers
  [B, L]; what is missing of the other arrays (see `batches`) becomes:

  * `mask`: True, all tokens are there;
  * `segment_ids`: 1 where `mask` is, one document a row;
  * `positions`: numbers from 0 within each run of equal `segment_ids`;
  * `targets`: the next token of the row, and 0 for the last one;
  * `loss_mask`: `mask`; without `targets` also only where the next token is
    there and has the same segment, so never at the last position.

  Other arrays are left out. Masks may be integers 0 and 1.

  A run resumes only on the data that it began with: those with an equal
  attribute `identity`, of JSON types, such as a hash of a file. Without one the
  first batch has to be the same; of a `batches.Source` nothing is known then.

  Args:
    obj: One of these:
      a `batches.Source`, which is returned as it is;
      an object whose `obj[k]` is batch k, of which one with a length begins
      again after its last one;
      the same of rows, with `tokens` [L], which `batch_size` are a batch of;
      a grain `MapDataset` of batches or rows, which begins its next epoch;
      a grain `IterDataset` of batches that begins alike each time that it is
      iterated. It has no random access: a resumed run reads it up to where it
      was.
    vocab_size: Tokens are below it; an attribute `obj.vocab_size` goes first.
    batch_size: Rows of a batch, which must be those of `obj`; None takes the
      number of the first batch.
    train: Whether the source has no end. An evaluation set, False, needs an
      object with a length and has its whole batches, once.

  Raises:
    ValueError: The object is none of these, or its first batch has a wrong
      shape, dtype or value.

  >>> tokens = np.arange(12).reshape(2, 6)
  >>> source = as_source([{'tokens': tokens}], vocab_size=12)
  >>> source.batch(5)['targets'][1].tolist()
  [7, 8, 9, 10, 11, 0]
  """
  if all(hasattr(obj, name) for name in ('batch', *_SOURCE)):
    return _checked_source(obj, batch_size, train)
  size, read = None, _reader(obj)
  if not train:
    size = _length(obj)
    if size is None or size >= _ENDLESS:
      _refuse(obj, 'an evaluation set needs a length, and so an end')
  first = read(0)
  vocab_size = getattr(obj, 'vocab_size', vocab_size)
  if vocab_size is None:
    raise ValueError('vocab_size must be given, got None.')
  vocab_size = _checks.check_int('vocab_size', vocab_size, 1, 2**31)
  if np.ndim(_tokens(first, 0)) == 1:
    if batch_size is None:
      raise ValueError('batch_size must be given for an object of rows.')
    row, per_batch = read, batch_size
    read = lambda k, rows: _stack(row, k * per_batch + np.asarray(rows))
    if size is not None and size < per_batch:
      raise ValueError(
          f'an evaluation set must fill a batch of {per_batch} rows, got'
          f' {size}.'
      )
    size = None if size is None else size // per_batch
  else:
    batch_size = batch_size or len(_tokens(first, 0))
    whole = read
    read = lambda k, rows: _take(whole(k), k, batch_size, rows)
  source = _Own(
      read,
      _checks.check_int('batch_size', batch_size, 1),
      np.shape(_tokens(first, 0))[-1],
      vocab_size,
      size,
  )
  batch = source.batch(0)
  if not batch['loss_mask'].any():
    raise ValueError(
        'batch 0 must have a target that counts: rows of one token have no'
        ' next one.'
    )
  known = getattr(obj, 'identity', None) or identity.of_batch(batch)
  return dataclasses.replace(source, identity=known)


_SOURCE = ('batch_size', 'length', 'vocab_size', 'num_eval_batches')


@dataclasses.dataclass(frozen=True)
class _Own:
  """Complete batches of an object; see `batches.Source`."""

  read: Callable[[int, Sequence[int]], Mapping[str, Any]]
  batch_size: int
  length: int
  vocab_size: int
  num_eval_batches: int | None
  identity: Any = None

  def batch(
      self, k: int, rows: Sequence[int] | None = None
  ) -> batches.Batch:
    """Returns rows of global batch `k`, completed and checked."""
    first = k * self.batch_size
    numbers = batches.row_numbers(
        k, rows, batch_size=self.batch_size, num_batches=self.num_eval_batches
    )
    places = (numbers - first).tolist()
    found = complete_batch(self.read(k, places), self.vocab_size, f'batch {k}')
    shape = found['tokens'].shape
    if shape != (len(places), self.length):
      raise ValueError(
          f'batch {k}: tokens must have {self.length} columns like those of'
          f' batch 0, got shape {shape}.'
      )
    return found


def complete_batch(
    batch: Mapping[str, Any], vocab_size: int, name: str = 'batch'
) -> batches.Batch:
  """Checks a batch and adds the arrays that it lacks, see `as_source`.

  Raises:
    ValueError: An array has a wrong shape, dtype or value.
  """
  tokens_BxL = np.asarray(_tokens(batch, 0))
  if tokens_BxL.ndim != 2 or not tokens_BxL.size:
    raise ValueError(
        f'{name}: tokens must have a shape [B, L], got {tokens_BxL.shape}.'
    )
  given = {
      key: _array(batch[key], key, tokens_BxL.shape, vocab_size, name)
      for key in batches.DTYPES
      if key in batch
  }
  tokens_BxL = given['tokens']
  mask_BxL = given.get('mask', np.ones(tokens_BxL.shape, bool))
  segment_BxL = given.get('segment_ids', mask_BxL.astype(np.int32))
  next_BxL = np.zeros_like(tokens_BxL)
  next_BxL[:, :-1] = tokens_BxL[:, 1:]
  counts_BxL = mask_BxL.copy()
  if 'targets' not in given:
    counts_BxL[:, -1:] = False
    counts_BxL[:, :-1] &= mask_BxL[:, 1:]
    counts_BxL[:, :-1] &= segment_BxL[:, :-1] == segment_BxL[:, 1:]
  begins_BxL = np.ones(tokens_BxL.shape, bool)
  begins_BxL[:, 1:] = segment_BxL[:, 1:] != segment_BxL[:, :-1]
  return {
      'tokens': tokens_BxL,
      'targets': next_BxL,
      'loss_mask': counts_BxL,
      'mask': mask_BxL,
      'segment_ids': segment_BxL,
      'positions': mask_BxL * batches.positions_since(begins_BxL),
  } | given


def _array(value, key, shape, vocab_size, name) -> np.ndarray:
  array, dtype = np.asarray(value), batches.DTYPES[key]
  high = 2 if dtype == np.bool_ else 2**31
  if key in ('tokens', 'targets'):
    high = vocab_size
  is_whole = array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer)
  if array.shape != shape or not is_whole:
    raise ValueError(
        f'{name}: {key} must be integers of shape {shape}, got'
        f' {array.dtype} of shape {array.shape}.'
    )
  if array.size and not (array.min() >= 0 and array.max() < high):
    raise ValueError(
        f'{name}: {key} must be between 0 and {high - 1}, got'
        f' {array.min()}..{array.max()}.'
    )
  return array.astype(dtype)


def _tokens(batch: Any, k: int) -> Any:
  if not isinstance(batch, Mapping) or 'tokens' not in batch:
    keys = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
    raise ValueError(f"batch {k} must be a mapping with 'tokens', got {keys}.")
  return batch['tokens']


def _take(batch, k, batch_size, rows) -> Mapping[str, Any]:
  size = len(_tokens(batch, k))
  if size != batch_size:
    raise ValueError(
        f'batch {k}: tokens must have batch_size={batch_size} rows, got {size}.'
    )
  if list(rows) == list(range(batch_size)):
    return batch
  return {
      key: np.asarray(batch[key])[rows]
      for key in batches.DTYPES
      if key in batch
  }


def _stack(row, numbers) -> Mapping[str, Any]:
  found = [row(int(number)) for number in numbers]
  for number, one in zip(numbers, found, strict=True):
    if np.shape(_tokens(one, number)) != np.shape(found[0]['tokens']):
      raise ValueError(
          f'row {number} must be as long as row {numbers[0]}: tokens of shape'
          f' {np.shape(found[0]["tokens"])}, got {np.shape(one["tokens"])}.'
      )
  keys = [key for key in batches.DTYPES if key in found[0]]
  return {key: np.stack([one[key] for one in found]) for key in keys}


def _checked_source(source, batch_size, train) -> batches.Source:
  if batch_size not in (None, source.batch_size):
    raise ValueError(
        f'data.batch_size must be that of the source, {source.batch_size}, got'
        f' {batch_size}.'
    )
  if train != (source.num_eval_batches is None):
    raise ValueError(
        'num_eval_batches of a source must be None for training, and a number'
        f' for an evaluation set, got {source.num_eval_batches}.'
    )
  return source


def _length(obj: Any) -> int | None:
  try:
    return len(obj)
  except TypeError:
    return None


def _reader(obj: Any) -> Callable[[int], Any]:
  """The function from the number of a batch or row to what the object has."""
  grain = sys.modules.get('grain')  # Whoever has a dataset has imported it.
  if grain is not None and isinstance(obj, grain.IterDataset):
    return _Stream(obj)
  if isinstance(obj, Mapping):
    _refuse(obj, "give a list of rows, [{'tokens': ...}, ...], or of batches")
  if not hasattr(obj, '__getitem__'):
    _refuse(obj, 'its batches cannot be read by number')
  size = _length(obj)
  if size == 0:
    _refuse(obj, 'it holds no batch')
  if size is None or (grain and isinstance(obj, grain.MapDataset)):
    return obj.__getitem__
  return lambda k: obj[k % size]


def _refuse(obj: Any, why: str) -> NoReturn:
  raise ValueError(
      'source must be a batches.Source, an object with batches by number, or a'
      f' grain MapDataset or IterDataset, got a {type(obj).__name__}: {why}.'
  )


class _Stream:
  """Batches of an `IterDataset` by number, read from its beginning on."""

  def __init__(self, dataset: Any):
    self._dataset = dataset
    self._lock = threading.Lock()
    one, other = (next(iter(dataset), None) for _ in range(2))
    if one is None:
      _refuse(dataset, 'it holds no batch')
    if not np.array_equal(_tokens(one, 0), _tokens(other, 0)):
      _refuse(
          dataset,
          'it begins otherwise each time that it is iterated, so its position'
          ' cannot be restored',
      )
    self._restart()

  def _restart(self) -> None:
    self._iterator, self._next, self._kept = iter(self._dataset), 0, {}

  def __call__(self, k: int) -> Any:
    with self._lock:
      if k < self._next and k not in self._kept:
        self._restart()
      while k >= self._next:
        try:
          self._kept[self._next] = next(self._iterator)
        except StopIteration:
          raise ValueError(
              f'the dataset ended after {self._next} batches: repeat it to go'
              ' on.'
          ) from None
        self._kept.pop(self._next - _KEPT, None)
        self._next += 1
      return self._kept[k]


def _no_sources(
    options: OwnConfig,
    splits: tuple[str, ...],
    *,
    batch_size: int,
    seed: int,
) -> NoReturn:
  raise ValueError(
      "data of kind 'own' are passed to training.train(cfg, workdir,"
      ' source=...): a program cannot make them. Register a kind for that, see'
      ' iblm_jax.data.kinds.'
  )


def _no_length(options: OwnConfig) -> NoReturn:
  raise ValueError("data of kind 'own' have the row length of their source.")


kinds.register(
    kinds.Kind(
        'own',
        OwnConfig,
        _no_sources,
        split_names=lambda options: ('train',),
        row_length=_no_length,
        default=OwnConfig(),
    )
)
