"""What a batch is, what a source is, and which rows a process holds.

A source is a random-access function of the number of the global batch: batch k
depends on the seed and on k, never on what was read before or on how many
processes read. Process p of P takes rows p*B/P ... (p+1)*B/P - 1 of each.

A batch is a dictionary of NumPy arrays of shape [b, L], b rows of L tokens:

* `tokens` int32, what the model reads;
* `targets` int32, `targets[:, t]` is the token after `tokens[:, t]`;
* `loss_mask` bool, the targets that count in the loss;
* `mask` bool, the tokens that are there (False: padding);
* `segment_ids` int32, the number of the document within the row, from 1;
  0 is padding;
* `positions` int32, from 0 at the first token of each document in the row.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from iblm_jax.data import _checks

Batch = dict[str, np.ndarray]

# The arrays of a batch, which the docstring of this module explains.
DTYPES = {
    'tokens': np.int32,
    'targets': np.int32,
    'loss_mask': np.bool_,
    'mask': np.bool_,
    'segment_ids': np.int32,
    'positions': np.int32,
}

# More rows than this in one run would overflow the row number.
_MAX_ROWS = 2**62


class Source(Protocol):
  """Random access to the batches of one split."""

  @property
  def batch_size(self) -> int:
    """Rows of a global batch."""

  @property
  def length(self) -> int:
    """Tokens of a row, L."""

  @property
  def vocab_size(self) -> int:
    """Tokens are in 0..vocab_size-1."""

  @property
  def num_eval_batches(self) -> int | None:
    """Batches of an evaluation set; None for training, which has no end."""

  def batch(self, k: int, rows: Sequence[int] | None = None) -> Batch:
    """Returns rows of global batch `k`; all of them by default."""


def process_rows(
    batch_size: int, process_index: int = 0, process_count: int = 1
) -> range:
  """Returns the rows of each global batch that one process holds.

  Args:
    batch_size: Rows of a global batch, a multiple of `process_count`.
    process_index: This process, in 0..process_count-1.
    process_count: How many processes share the batch, at least 1.

  Raises:
    ValueError: An argument is out of its range.

  >>> process_rows(8, process_index=1, process_count=4)
  range(2, 4)
  """
  batch_size = _checks.check_int('batch_size', batch_size, 1)
  process_count = _checks.check_int('process_count', process_count, 1)
  process_index = _checks.check_int(
      'process_index', process_index, 0, process_count - 1
  )
  if batch_size % process_count:
    raise ValueError(
        'batch_size must be a multiple of process_count, got'
        f' {batch_size=} and {process_count=}.'
    )
  share = batch_size // process_count
  return range(process_index * share, (process_index + 1) * share)


def row_numbers(
    k: int,
    rows: Sequence[int] | None,
    *,
    batch_size: int,
    num_batches: int | None,
) -> np.ndarray:
  """Returns k * batch_size + row for the rows asked for, int64 [b].

  Args:
    k: Number of the global batch, from 0.
    rows: Rows of the global batch, each in 0..batch_size-1; None is all.
    batch_size: Rows of a global batch.
    num_batches: `k` must be below it; None for an endless source.

  Raises:
    ValueError: `k` or a row is out of its range.

  >>> row_numbers(2, [0, 3], batch_size=4, num_batches=None).tolist()
  [8, 11]
  """
  last = (_MAX_ROWS // batch_size if num_batches is None else num_batches) - 1
  k = _checks.check_int('k', k, 0, last)
  row_b = np.asarray(range(batch_size) if rows is None else rows, np.int64)
  in_range = (row_b >= 0) & (row_b < batch_size)
  if row_b.ndim != 1 or not row_b.size or not in_range.all():
    raise ValueError(
        'rows must be a sequence of at least one number between 0 and'
        f' {batch_size - 1}, got {rows!r}.'
    )
  return k * batch_size + row_b


def positions_since(begins_nxL: np.ndarray) -> np.ndarray:
  """Returns positions from 0 at each True, int32 [n, L]; the first is True.

  >>> positions_since(np.array([[True, False, True, False]]))
  array([[0, 1, 0, 1]], dtype=int32)
  """
  t_L = np.arange(begins_nxL.shape[1], dtype=np.int32)
  start_nxL = np.maximum.accumulate(
      np.where(begins_nxL, t_L, np.int32(0)), axis=1
  )
  return np.subtract(t_L, start_nxL, out=start_nxL)


def render(
    sequence_nxL1: np.ndarray,
    *,
    mask: npt.ArrayLike = True,
    loss_mask: npt.ArrayLike = True,
    pad_id: int = 0,
) -> Batch:
  """Returns the batch of rows that hold one document each.

  Args:
    sequence_nxL1: Integers [n, L + 1], each token followed by its target.
    mask: Which of the first L tokens are there: bool, broadcasts to [n, L].
    loss_mask: Which of their targets count, alike.
    pad_id: Token in place of those that are not there.

  >>> render(np.array([[5, 6, 7]]), mask=[[True, False]])['targets']
  array([[6, 0]], dtype=int32)
  """
  n, length = sequence_nxL1.shape[0], sequence_nxL1.shape[1] - 1
  mask_nxL = np.array(np.broadcast_to(mask, (n, length)))
  return {
      'tokens': np.where(mask_nxL, sequence_nxL1[:, :-1], pad_id).astype(
          np.int32, copy=False
      ),
      'targets': np.where(mask_nxL, sequence_nxL1[:, 1:], pad_id).astype(
          np.int32, copy=False
      ),
      'loss_mask': mask_nxL & loss_mask,
      'mask': mask_nxL,
      'segment_ids': mask_nxL.astype(np.int32),
      'positions': mask_nxL * np.arange(length, dtype=np.int32),
  }
