"""Prints how fast the sources make batches, in tokens per second.

Each number is the best of several runs: `batch` calls the source from one
thread, `iterator` reads through grain with one thread reading ahead.

  python benchmarks/data.py --text=corpus.txt
"""

import contextlib
import time
from collections.abc import Callable

from absl import app, flags

from iblm_jax import data

_TEXT = flags.DEFINE_multi_string(
    'text', [], 'Files or folders of text; none leaves text out.'
)
_DOCUMENTS = flags.DEFINE_enum(
    'documents', 'file', ['file', 'line', 'paragraph'], 'Documents of a .txt.'
)
_SEQ_LEN = flags.DEFINE_integer('seq_len', 1024, 'Tokens of a row of text.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Rows of a batch of text.')
_BATCHES = flags.DEFINE_integer('batches', 100, 'Batches of a run.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs; the best one counts.')


def best_seconds(run: Callable[[], None]) -> float:
  times = []
  for _ in range(_REPEATS.value):
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return min(times)


def measure(name: str, source: data.Source) -> None:
  tokens = source.batch_size * source.length * _BATCHES.value
  source.batch(0)  # Makes the epoch, which later batches share.

  def direct():
    for k in range(_BATCHES.value):
      source.batch(k)

  def iterated():
    with contextlib.closing(data.make_iterator(source)) as iterator:
      for _ in range(_BATCHES.value):
        next(iterator)

  for how, run in (('batch', direct), ('iterator', iterated)):
    rate = tokens / best_seconds(run) / 1e6
    print(
        f'{name:16} {how:9} {source.batch_size:5} x {source.length:5}'
        f' {rate:8.2f} M tokens/s'
    )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}.')
  for batch_size in (64, 1024):
    measure(
        'multiplication',
        data.make_source(data.DataConfig(batch_size=batch_size)),
    )
  if _TEXT.value:
    start = time.perf_counter()
    source = data.make_source(
        data.DataConfig(
            kind='text',
            batch_size=_BATCH_SIZE.value,
            text=data.TextConfig(
                paths=tuple(_TEXT.value),
                documents=_DOCUMENTS.value,
                seq_len=_SEQ_LEN.value,
            ),
        )
    )
    seconds = time.perf_counter() - start
    print(f'text             read and tokenised in {seconds:.2f} s')
    start = time.perf_counter()
    source.batch(0)
    seconds = time.perf_counter() - start
    print(f'text             first batch of an epoch in {seconds:.3f} s')
    measure('text', source)


if __name__ == '__main__':
  app.run(main)
