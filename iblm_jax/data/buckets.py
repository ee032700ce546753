"""Rows of many lengths in batches of few shapes, so that little is compiled.

Shapes can be those of other rows: samples of the same documents then share
them, and what was compiled for one serves all.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from iblm_jax.data import _checks


class Bucket(NamedTuple):
  """One batch: rows that are filled up to one length."""

  length: int  # Tokens of a row.
  rows: np.ndarray  # int64 [b], numbers of the rows; -1 is an empty row.


def bucket_lengths(
    lengths: npt.ArrayLike, max_shapes: int, multiple: int = 1
) -> np.ndarray:
  """Finds the lengths to fill up to for which the least padding is needed.

  Args:
    lengths: Tokens of each row, whole numbers of at least 1, [N], N > 0.
    max_shapes: How many lengths may be used, at least 1.
    multiple: The lengths are multiples of it, at least 1.

  Returns:
    At most `max_shapes` ascending lengths, int64; a row belongs to the first
    that is not below its own.

  Raises:
    ValueError: An argument is out of its range.

  >>> bucket_lengths([1, 1, 1, 7, 8, 8], max_shapes=2).tolist()
  [1, 8]
  """
  max_shapes = _checks.check_int('max_shapes', max_shapes, 1)
  multiple = _checks.check_int('multiple', multiple, 1)
  length_N = _checked_lengths('lengths', lengths)
  length_U, count_U = np.unique(
      -(-length_N // multiple) * multiple, return_counts=True
  )
  below_U1 = np.concatenate([[0], np.cumsum(count_U)])
  # cost[j]: tokens of the first j lengths, filled up, in the buckets so far; a
  # bucket that ends with length j - 1 begins with some length i.
  cost_U1 = np.where(np.arange(length_U.size + 1) > 0, np.inf, 0.0)
  begins = []
  for _ in range(min(max_shapes, length_U.size)):
    best_U1 = np.zeros(length_U.size + 1)
    begin_U1 = np.zeros(length_U.size + 1, np.int64)
    for j in range(1, length_U.size + 1):
      total_j = cost_U1[:j] + length_U[j - 1] * (below_U1[j] - below_U1[:j])
      begin_U1[j] = np.argmin(total_j)
      best_U1[j] = total_j[begin_U1[j]]
    cost_U1 = best_U1
    begins.append(begin_U1)
  end, chosen = length_U.size, []
  for begin_U1 in reversed(begins):
    if end:  # A bucket of no length stands before the first one.
      chosen.append(length_U[end - 1])
      end = begin_U1[end]
  return np.array(chosen[::-1], np.int64)


def buckets(
    lengths: npt.ArrayLike,
    max_tokens: int,
    *,
    like: npt.ArrayLike | None = None,
    max_shapes: int = 8,
    multiple: int = 1,
    row_multiple: int = 1,
) -> list[Bucket]:
  """Puts rows into batches of few shapes and little padding.

  Args:
    lengths: Tokens of each row, whole numbers of at least 1, shape [N].
    max_tokens: Most tokens of a batch, padding included; at least the longest
      row, filled up, times `row_multiple`.
    like: Tokens of the rows for which the lengths of the batches need the least
      padding, none shorter than the longest of `lengths`; by default `lengths`
      itself. The shapes depend on no other row.
    max_shapes: Most shapes [b, L] of the batches, at least 1.
    multiple: L is a multiple of it, at least 1.
    row_multiple: b is a multiple of it, at least 1: the number of devices that
      share a batch.

  Returns:
    The batches, shortest first; each row is in exactly one of them. A length
    has one shape, with as many rows as `max_tokens` allows. Rows that do not
    fill a batch go to the next length, or beside empty rows where that is less
    padding.

  Raises:
    ValueError: An argument is out of its range.

  >>> found = buckets([3, 9, 3, 3, 3, 3], max_tokens=9)
  >>> [(b.length, b.rows.tolist()) for b in found]
  [(3, [0, 2, 3]), (3, [4, 5, -1]), (9, [1])]
  """
  row_multiple = _checks.check_int('row_multiple', row_multiple, 1)
  length_N = _checked_lengths('lengths', lengths)
  like_M = length_N if like is None else _checked_lengths('like', like)
  if like_M.max() < length_N.max():
    raise ValueError(
        f'like must have a row of at least the {length_N.max()} tokens of the'
        f' longest row, got at most {like_M.max()}.'
    )
  shape_S = bucket_lengths(like_M, max_shapes, multiple)
  least = int(shape_S[-1]) * row_multiple
  max_tokens = _checks.check_int('max_tokens', max_tokens, least)
  shape_N = np.searchsorted(shape_S, length_N)
  found, left = [], np.zeros(0, np.int64)
  for number, length in enumerate(shape_S.tolist()):
    share = max_tokens // length // row_multiple * row_multiple
    # Shorter rows first: what is left over gets the least padding.
    rows = np.concatenate([left, np.flatnonzero(shape_N == number)])
    over, missing = rows.size % share, -rows.size % share
    is_last = number == shape_S.size - 1
    if is_last or missing * length < over * (shape_S[number + 1] - length):
      rows = np.pad(rows, (0, missing), constant_values=-1)
    whole = rows.size // share * share
    found += [Bucket(length, one) for one in rows[:whole].reshape(-1, share)]
    left = rows[whole:]
  return found


def _checked_lengths(name: str, lengths: npt.ArrayLike) -> np.ndarray:
  length_N = np.asarray(lengths, np.int64)
  if length_N.ndim != 1 or not length_N.size or length_N.min() < 1:
    raise ValueError(
        f'{name} must be a sequence of at least one number of at least 1, got'
        f' {lengths!r}.'
    )
  return length_N
