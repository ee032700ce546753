"""Prints how fast the sources make batches, in tokens per second.

Each number is the best of several runs: `batch` calls the source from one
thread, `iterator` reads through grain with one thread reading ahead.

  python benchmarks/data.py --text=corpus.txt
  python benchmarks/data.py --synthetic_shard

For tokenised files the rows are in random order over all of them, and are
compared with the plainest loader: one slice after the other, copied to int32
as inputs and as targets, with no masks, document ids or positions.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from iblm_jax import data
from iblm_jax.data.shards import files as shard_files

_TEXT = flags.DEFINE_multi_string(
    'text', [], 'Files or folders of text; none leaves text out.'
)
_DOCUMENTS = flags.DEFINE_enum(
    'documents', 'file', ['file', 'line', 'paragraph'], 'Documents of a .txt.'
)
_SHARDS = flags.DEFINE_list('shards', [], 'Tokenised files, paths or globs.')
_SYNTHETIC = flags.DEFINE_bool(
    'synthetic_shard', False, 'Write files of random tokens and read these.'
)
_SYNTHETIC_TOKENS = flags.DEFINE_integer(
    'synthetic_tokens', 100_000_000, 'Tokens of the file that is written.'
)
_VOCAB_SIZE = flags.DEFINE_integer('vocab_size', 50257, 'Of tokenised files.')
_EOT_ID = flags.DEFINE_integer('eot_id', 50256, 'Of tokenised files.')
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


def measure(name: str, source: data.Source) -> dict[str, float]:
  """Prints and returns the rates in tokens per second."""
  tokens = source.batch_size * source.length * _BATCHES.value
  source.batch(0)  # Makes the epoch, which later batches share.

  def direct():
    for k in range(_BATCHES.value):
      source.batch(k)

  def iterated():
    with contextlib.closing(data.make_iterator(source)) as iterator:
      for _ in range(_BATCHES.value):
        next(iterator)

  rates = {}
  for how, run in (('batch', direct), ('iterator', iterated)):
    rates[how] = tokens / best_seconds(run)
    print(
        f'{name:16} {how:9} {source.batch_size:5} x {source.length:5}'
        f' {rates[how] / 1e6:8.2f} M tokens/s'
    )
  return rates


def write_synthetic(folder: str) -> list[str]:
  """Files of both formats with the same random tokens."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, _EOT_ID.value, _SYNTHETIC_TOKENS.value, np.uint16)
  # Documents of 700 tokens in the mean.
  tokens[rng.integers(0, tokens.size, tokens.size // 700)] = _EOT_ID.value
  paths = [os.path.join(folder, 'a' + s) for s in shard_files.SUFFIXES]
  with open(paths[0], 'wb') as file:
    file.write(shard_files.header(tokens.size))
    tokens.tofile(file)
  shard_files.write_array_record(paths[1], tokens)
  return paths


def measure_shards(name: str, patterns: list[str]) -> None:
  config = data.ShardsConfig(
      train=tuple(patterns),
      seq_len=_SEQ_LEN.value,
      vocab_size=_VOCAB_SIZE.value,
      eot_id=_EOT_ID.value,
  )
  start = time.perf_counter()
  source = data.make_source(
      data.DataConfig(
          kind='shards', batch_size=_BATCH_SIZE.value, shards=config
      )
  )
  seconds = time.perf_counter() - start
  print(f'{name:16} opened in {seconds:.3f} s')
  rates = measure(name, source)
  files = shard_files.find_shards('shards', patterns)
  shard = shard_files.open_shard(files[0])
  step = _BATCH_SIZE.value * _SEQ_LEN.value
  count = min(_BATCHES.value, (shard.num_tokens - 1) // step)
  if not count:
    return  # Too short for the comparison.

  def plain():
    for k in range(count):
      tokens = shard.read(k * step, (k + 1) * step + 1)
      tokens[:-1].astype(np.int32)
      tokens[1:].astype(np.int32)

  rate = count * step / best_seconds(plain)
  print(
      f'{name:16} plain slices in order {rate / 1e6:8.2f} M tokens/s;'
      f' iterator / plain {rates["iterator"] / rate:.2f},'
      f' iterator / batch {rates["iterator"] / rates["batch"]:.2f}'
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
  if _SHARDS.value:
    measure_shards('shards', _SHARDS.value)
  if _SYNTHETIC.value:
    with tempfile.TemporaryDirectory() as folder:
      for path in write_synthetic(folder):
        measure_shards(path.rsplit('.', 1)[1], [path])


if __name__ == '__main__':
  app.run(main)
