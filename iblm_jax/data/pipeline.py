"""From a source to an iterator that reads ahead and can be checkpointed."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from iblm_jax import errors
from iblm_jax.data import _checks, batches

if TYPE_CHECKING:
  import grain


class _Batches:
  """The rows of one process as the random-access sequence grain reads."""

  def __init__(self, source: batches.Source, rows: Sequence[int] | None):
    self._source = source
    self._rows = rows

  def __len__(self) -> int:
    # An endless source still needs a length, and this one is never reached.
    num_batches = self._source.num_eval_batches
    return sys.maxsize if num_batches is None else num_batches

  def __getitem__(self, index: int) -> batches.Batch:
    try:
      return self._source.batch(index, self._rows)
    except ValueError as e:
      raise errors.BadData(str(e)) from e


def make_iterator(
    source: batches.Source,
    *,
    rows: Sequence[int] | None = None,
    num_threads: int = 1,
    prefetch: int = 4,
    start: int = 0,
) -> 'grain.DatasetIterator':
  """Iterates over this process's rows of batch `start`, `start` + 1, ...

  Its state is the number of the next batch, `{'next_index': k}`: the same on
  every process, whatever their number, and what was read ahead does not count.
  It goes into an orbax checkpoint as `grain.checkpoint.CheckpointSave(it)` and
  comes back with `CheckpointRestore`. `close()` ends its threads.

  Args:
    source: Where the batches come from.
    rows: Rows of each global batch that this process reads, each in
      0..batch_size-1; None is all. See `batches.process_rows`.
    num_threads: Threads that read ahead, 1..256.
    prefetch: Batches that are read ahead, 0..4096; 0 reads in the caller.
    start: Number of the first batch, at least 0 and for an evaluation set at
      most the number of its batches.

  Returns:
    A grain iterator of `batches.Batch`. It ends after the last batch of an
    evaluation set, and never in training. It raises `errors.BadData` for a
    batch that cannot be read.

  Raises:
    ValueError: An argument is out of its range.

  >>> from iblm_jax import data
  >>> source = data.make_source(data.DataConfig(batch_size=4))
  >>> it = make_iterator(source, rows=[2, 3], prefetch=0)
  >>> next(it)['tokens'].shape, it.get_state()
  ((2, 16), {'next_index': 1})
  >>> it.close()
  """
  import grain  # Here, for it takes seconds and tokenising needs none of it.

  num_threads = _checks.check_int('num_threads', num_threads, 1, 256)
  prefetch = _checks.check_int('prefetch', prefetch, 0, 4096)
  data = _Batches(source, rows)
  start = _checks.check_int('start', start, 0, len(data))
  options = grain.ReadOptions(
      # More threads than batches to read ahead would have nothing to do.
      num_threads=min(num_threads, prefetch),
      prefetch_buffer_size=prefetch,
  )
  iterator = iter(grain.MapDataset.source(data).to_iter_dataset(options))
  if start:
    iterator.set_state({'next_index': start})
  return iterator
