"""Rows of tokenised files against a plain loop over lists of tokens."""

import collections
import concurrent.futures
import json
import os
import struct

import grain
import numpy as np
import pytest
from array_record.python import array_record_module

from iblm_jax import errors
from iblm_jax.data import batches, hashing, pipeline, sources
from iblm_jax.data.shards import files as shard_files
from iblm_jax.data.shards import source as shards
from iblm_jax.data.sources import shard_documents

EOT, VOCAB = 50256, 50257


def write_bin(path, tokens, magic=20240520, version=1, count=None):
  """The format written by hand, without the library."""
  count = len(tokens) if count is None else count
  header = struct.pack('<256i', magic, version, count, *[0] * 253)
  path.write_bytes(header + struct.pack(f'<{len(tokens)}H', *tokens))
  return str(path)


def write_records(path, records, options='group_size:1,uncompressed'):
  writer = array_record_module.ArrayRecordWriter(str(path), options)
  for record in records:
    writer.write(record)
  writer.close()
  return str(path)


def write_array_record(path, tokens):
  header = struct.pack('<256i', 20240520, 1, len(tokens), *[0] * 253)
  blocks = [tokens[i : i + 8192] for i in range(0, len(tokens), 8192)]
  return write_records(
      path, [header] + [struct.pack(f'<{len(b)}H', *b) for b in blocks]
  )


def random_tokens(n, seed=0, share=0.1):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, 1000, n)
  return np.where(rng.random(n) < share, EOT, tokens).tolist()


def make(paths, *, seq_len=8, batch_size=4, vocab_size=VOCAB, **options):
  return shards.ShardSource(
      [shard_files.open_shard(path) for path in paths],
      seq_len=seq_len,
      eot_id=EOT,
      vocab_size=vocab_size,
      batch_size=batch_size,
      **options,
  )


def row_by_loop(tokens, begin, count, seq_len):
  """One row, a position at a time, from the definition of a batch."""
  row = collections.defaultdict(list)
  segment, position = 0, 0
  for t in range(seq_len):
    there = t < count
    if there and (t == 0 or tokens[begin + t] == EOT):
      segment, position = segment + 1, 0
    row['tokens'].append(tokens[begin + t] if there else EOT)
    row['targets'].append(tokens[begin + t + 1] if there else EOT)
    row['loss_mask'].append(there)
    row['mask'].append(there)
    row['segment_ids'].append(segment if there else 0)
    row['positions'].append(position if there else 0)
    position += 1
  return row


def offsets_by_loop(lengths, seq_len, seed, epoch):
  """Rows and offset of each file in an epoch."""
  out = []
  for s, n in enumerate(lengths):
    rows = max(1, n // seq_len - 1)
    key = hashing.fold(hashing.fold(hashing.fold(seed, epoch), 1), s)
    out.append((rows, int(key) % (n - rows * seq_len)))
  return out


def assert_rows_equal(batch, rows):
  for key, array in batch.items():
    wanted = [row[key] for row in rows]
    np.testing.assert_array_equal(array, wanted, err_msg=key)


def test_batch_has_the_documented_types(tmp_path):
  path = write_bin(tmp_path / 'a.bin', random_tokens(100))
  batch = make([path]).batch(0)
  kinds = {key: (array.dtype, array.shape) for key, array in batch.items()}
  whole, flag = (np.dtype(np.int32), (4, 8)), (np.dtype(bool), (4, 8))
  assert kinds == {
      'tokens': whole,
      'targets': whole,
      'segment_ids': whole,
      'positions': whole,
      'mask': flag,
      'loss_mask': flag,
  }


@pytest.mark.parametrize(
    'lengths,seq_len,batch_size',
    [
        ([100, 57, 200], 8, 4),
        ([9, 16, 17, 15], 8, 3),  # One row each, most with little to move.
        ([40], 39, 5),  # Each batch over several epochs.
        ([30, 20], 1, 7),
    ],
)
@pytest.mark.parametrize('seed', [0, 2**63 - 1])
def test_training_agrees_with_a_loop(
    tmp_path, lengths, seq_len, batch_size, seed
):
  files = [random_tokens(n, n) for n in lengths]
  paths = [write_bin(tmp_path / f'{i}.bin', f) for i, f in enumerate(files)]
  source = make(paths, seq_len=seq_len, batch_size=batch_size, seed=seed)
  wanted = []
  for epoch in range(4):
    places = []
    for s, (rows, offset) in enumerate(
        offsets_by_loop(lengths, seq_len, seed, epoch)
    ):
      places += [(s, i * seq_len + offset) for i in range(rows)]
    assert len(places) == source.num_rows
    key = hashing.fold(hashing.fold(seed, epoch), 0)
    for place in range(len(places)):
      s, begin = places[int(hashing.shuffled(key, place, len(places)))]
      wanted.append(row_by_loop(files[s], begin, seq_len, seq_len))
  assert source.num_eval_batches is None
  for k in range(len(wanted) // batch_size):
    rows = wanted[k * batch_size : (k + 1) * batch_size]
    assert_rows_equal(source.batch(k), rows)


@pytest.mark.parametrize('batch_size', [1, 4, 7])
@pytest.mark.parametrize('eval_rows', [None, 5])
def test_validation_agrees_with_a_loop(tmp_path, batch_size, eval_rows):
  lengths, seq_len = [33, 2, 9, 40, 18], 8
  files = [random_tokens(n, n) for n in lengths]
  paths = [write_bin(tmp_path / f'{i}.bin', f) for i, f in enumerate(files)]
  source = make(
      paths,
      seq_len=seq_len,
      batch_size=batch_size,
      train=False,
      eval_rows=eval_rows,
  )
  rows = []
  for tokens in files:
    for begin in range(0, len(tokens) - 1, seq_len):
      count = min(seq_len, len(tokens) - 1 - begin)
      rows.append(row_by_loop(tokens, begin, count, seq_len))
  rows = rows[:eval_rows]
  assert source.num_eval_batches == -(-len(rows) // batch_size)
  empty = row_by_loop([], 0, 0, seq_len)
  rows += [empty] * (-len(rows) % batch_size)
  for k in range(source.num_eval_batches):
    assert_rows_equal(
        source.batch(k), rows[k * batch_size : (k + 1) * batch_size]
    )
  with pytest.raises(ValueError, match='k must be'):
    source.batch(source.num_eval_batches)


def test_documents_of_a_row(tmp_path):
  """Written out by hand: the rest of a document, two ends in a row, an end."""
  tokens = [5, 6, EOT, EOT, 7, 8, EOT, 9, EOT, 1, 2]
  path = write_bin(tmp_path / 'a.bin', tokens)
  batch = make([path], batch_size=2, train=False).batch(0)
  assert batch['segment_ids'].tolist() == [
      [1, 1, 2, 3, 3, 3, 4, 4], [1, 1, 0, 0, 0, 0, 0, 0]
  ]
  assert batch['positions'].tolist() == [
      [0, 1, 0, 0, 1, 2, 0, 1], [0, 1, 0, 0, 0, 0, 0, 0]
  ]
  assert batch['targets'][1].tolist() == [1, 2] + [EOT] * 6
  assert batch['tokens'][1].tolist() == [EOT, 1] + [EOT] * 6


def test_epoch_covers_every_row_once(tmp_path):
  """Tokens are unique, so that each one can be counted."""
  sizes, seq_len = [100, 37, 64], 8
  ends = np.cumsum(sizes)
  paths = [
      write_bin(tmp_path / f'{end}.bin', range(end - size, end))
      for size, end in zip(sizes, ends, strict=True)
  ]
  num_rows = sum(size // seq_len - 1 for size in sizes)
  source = make(sorted(paths), seq_len=seq_len, batch_size=num_rows, seed=3)
  assert source.num_rows == num_rows
  left_out, orders = [], set()
  for epoch in range(300):
    rows = source.batch(epoch)['tokens']
    seen = collections.Counter(np.concatenate(rows).tolist())
    assert set(seen.values()) == {1}
    assert len(seen) == num_rows * seq_len
    left_out.append(frozenset(range(ends[-1])) - set(seen))
    orders.add(tuple(int(row[0]) for row in rows))
  # Each epoch has its own cuts and order, and only the last token of a file,
  # which is a target, is always left out.
  assert len(orders) == 300
  assert len(set(left_out)) > 100
  never = frozenset.intersection(*left_out)
  assert never <= {int(end) - 1 for end in ends}


def test_rows_of_a_batch_and_of_processes(tmp_path):
  path = write_bin(tmp_path / 'a.bin', range(1000))
  for train in (True, False):
    source = make([path], batch_size=32, train=train)
    whole = source.batch(1)
    for rows in (range(8, 16), [31, 0, 5, 5], [7]):
      part = source.batch(1, rows)
      for key, values in part.items():
        np.testing.assert_array_equal(values, whole[key][list(rows)])
    parts = [
        source.batch(1, batches.process_rows(32, p, 4))['tokens']
        for p in range(4)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole['tokens'])
    assert len({int(row[0]) for part in parts for row in part}) == 32


def test_batches_do_not_depend_on_what_was_read_before(tmp_path):
  path = write_bin(tmp_path / 'a.bin', random_tokens(300))
  source = make([path], batch_size=3)
  forwards = [source.batch(k) for k in range(100)]
  for k in list(range(99, -1, -7)) + [50, 0, 99]:
    for one in (source.batch(k), make([path], batch_size=3).batch(k)):
      np.testing.assert_equal(one, forwards[k])
  # Far more blocks of rows than are kept, and the last batch there is.
  source.batch(2**60)


def test_iterator_resumes(tmp_path):
  path = write_bin(tmp_path / 'a.bin', random_tokens(300))
  source = make([path])
  iterator = pipeline.make_iterator(source, num_threads=2, prefetch=4)
  try:
    for k in range(30):
      np.testing.assert_equal(next(iterator), source.batch(k))
      if k == 11:
        state = iterator.get_state()
    iterator.set_state(state)
    np.testing.assert_equal(next(iterator), source.batch(12))
  finally:
    iterator.close()
  assert isinstance(iterator, grain.DatasetIterator)


@pytest.mark.parametrize('write', [write_bin, write_array_record])
def test_threads_read_the_same_batches(tmp_path, write):
  path = write(
      tmp_path / f'a.{write.__name__[6:]}', random_tokens(40_000)
  )
  source = make([path], seq_len=100, batch_size=16)
  wanted = [source.batch(k) for k in range(60)]
  source = make([path], seq_len=100, batch_size=16)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    np.testing.assert_equal(list(pool.map(source.batch, range(60))), wanted)


def test_seeds_differ_in_training_only(tmp_path):
  path = write_bin(tmp_path / 'a.bin', random_tokens(3000))
  train = [make([path], seed=seed).batch(0)['tokens'] for seed in (0, 1)]
  assert (train[0] != train[1]).mean() > 0.5
  one, two = (make([path], seed=s, train=False).batch(0) for s in (0, 1))
  np.testing.assert_equal(one, two)


@pytest.mark.parametrize('n', [2, 8191, 8192, 8193, 16384, 20_000])
def test_formats_agree(tmp_path, n):
  tokens = random_tokens(n, share=0.01)
  paths = [
      write_bin(tmp_path / 'a.bin', tokens),
      write_array_record(tmp_path / 'a.array_record', tokens),
  ]
  one, two = (shard_files.open_shard(path) for path in paths)
  for shard in (one, two):
    assert shard.num_tokens == n
    for start, stop in [(0, n), (0, 0), (n - 1, n), (n // 2, n // 2 + 1)]:
      assert shard.read(start, stop).tolist() == tokens[start:stop]
  if n > 8192:
    assert two.read(8190, 8193).tolist() == tokens[8190:8193]
    assert two.read(8192, 8193).tolist() == tokens[8192:8193]
  seq_len = min(n - 1, 300)
  for train in (True, False):
    one, two = (make([p], seq_len=seq_len, train=train) for p in paths)
    for k in range(one.num_eval_batches or 30):
      np.testing.assert_equal(one.batch(k), two.batch(k))


def test_written_array_record_is_the_documented_format(tmp_path):
  tokens = random_tokens(9000)
  path = str(tmp_path / 'a.array_record')
  shard_files.write_array_record(path, np.array(tokens, np.uint16))
  reader = array_record_module.ArrayRecordReader(path)
  records = reader.read_all()
  assert 'group_size:1,' in reader.writer_options_string()
  assert struct.unpack('<256i', records[0])[:4] == (20240520, 1, 9000, 0)
  assert [len(r) for r in records[1:]] == [16384, 1616]
  assert struct.unpack('<9000H', b''.join(records[1:])) == tuple(tokens)
  assert shard_files.header(9000) == records[0]


@pytest.mark.parametrize(
    'change,message',
    [
        (lambda d: b'', 'header of 1024 bytes, got 0'),
        (lambda d: d[:1023], 'header of 1024 bytes, got 1023'),
        (lambda d: d[:1024], 'must have 1224 bytes for the 100 .* got 1024'),
        (lambda d: d[:-1], 'must have 1224 bytes .* got 1223'),
        (lambda d: d[:-2], 'must have 1224 bytes .* got 1222'),
        (lambda d: d + b'\0\0', 'must have 1224 bytes .* got 1226'),
        (lambda d: b'\0' + d[1:], 'magic 20240520 .* got 20240384 and 1'),
        (lambda d: d[:4] + b'\2' + d[5:], 'version 1, got 20240520 and 2'),
        (lambda d: d[:8] + b'\xff' * 4 + d[12:], 'its header says -1'),
    ],
)
def test_damaged_bin_is_refused(tmp_path, change, message):
  path = tmp_path / 'a.bin'
  write_bin(path, random_tokens(100))
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ValueError, match=message) as error:
    shard_files.open_shard(str(path))
  assert repr(str(path)) in str(error.value)


@pytest.mark.parametrize('cut', [0, 1, 1000, 0.3, 0.5, 0.9, -65536, -1])
def test_cut_array_record_is_refused(tmp_path, cut):
  path = tmp_path / 'a.array_record'
  write_array_record(path, random_tokens(100_000))
  data = path.read_bytes()
  cut = round(cut * len(data)) if isinstance(cut, float) else cut
  path.write_bytes(data[:cut])
  with pytest.raises(ValueError, match='is damaged: ') as error:
    shard_files.open_shard(str(path))
  assert repr(str(path)) in str(error.value)


def test_flipped_bit_of_an_array_record_is_found(tmp_path):
  path = tmp_path / 'a.array_record'
  write_array_record(path, random_tokens(100_000))
  data = bytearray(path.read_bytes())
  data[len(data) // 4] ^= 1
  path.write_bytes(data)
  source = make([str(path)], seq_len=1000, batch_size=100, train=False)
  with pytest.raises(ValueError, match='array_record.* is damaged'):
    source.batch(0)


@pytest.mark.parametrize(
    'records,message',
    [
        ([], 'got no record'),
        ([b'abc'], 'header of 1024 bytes, got 3'),
        (['header'], 'must have 3 records for the 10000 .* got 1'),
        (['header', b'ab' * 8192], 'must have 3 records .* got 2'),
        (['header', b'ab' * 8192] + [b'ab'] * 2, 'must have 3 rec.* got 4'),
        (
            ['header', b'ab' * 8192, b'ab' * 1807],
            'record 2 must have 3616 bytes, got 3614',
        ),
    ],
)
def test_wrong_records_are_refused(tmp_path, records, message):
  header = struct.pack('<256i', 20240520, 1, 10_000, *[0] * 253)
  records = [header if r == 'header' else r for r in records]
  path = write_records(tmp_path / 'a.array_record', records)
  with pytest.raises(ValueError, match=message) as error:
    shard_files.open_shard(path)
  assert repr(path) in str(error.value)


def test_short_block_is_found_when_it_is_read(tmp_path):
  header = struct.pack('<256i', 20240520, 1, 10_000, *[0] * 253)
  path = write_records(
      tmp_path / 'a.array_record', [header, b'ab' * 8190, b'ab' * 1808]
  )
  shard = shard_files.open_shard(path)
  with pytest.raises(ValueError, match='record 1 must have 16384 bytes'):
    shard.read(0, 10)


@pytest.mark.parametrize(
    'n,train,message',
    [(8, True, 'at least 9 tokens.*seq_len=8, got 8'), (1, False, 'least 2')],
)
def test_too_short_file_is_refused(tmp_path, n, train, message):
  good = write_bin(tmp_path / 'a.bin', random_tokens(100))
  bad = write_bin(tmp_path / 'b.bin', random_tokens(n))
  with pytest.raises(ValueError, match=message) as error:
    make([good, bad], train=train)
  assert repr(bad) in str(error.value)
  write_bin(tmp_path / 'b.bin', random_tokens(n + 1))
  make([good, bad], train=train)


def test_file_without_tokens_is_refused(tmp_path):
  path = write_bin(tmp_path / 'a.bin', [])
  assert shard_files.open_shard(path).num_tokens == 0
  with pytest.raises(ValueError, match='got 0'):
    make([path], train=False)


def test_token_outside_of_the_vocabulary_names_the_file(tmp_path):
  good = write_bin(tmp_path / 'a.bin', [3] * 50)
  bad = write_bin(tmp_path / 'b.bin', [3] * 40 + [VOCAB] + [3] * 9)
  source = make([good, bad], batch_size=100, train=False)
  with pytest.raises(ValueError, match='0 and 50256, got 50257') as error:
    source.batch(0)
  assert repr(bad) in str(error.value)
  make([good, bad], batch_size=4, train=False).batch(0)
  # Also where it is only the target of the last position.
  bad = write_bin(tmp_path / 'b.bin', [3] * 8 + [VOCAB])
  with pytest.raises(ValueError, match='got 50257'):
    make([bad]).batch(0)
  make([bad], vocab_size=2**16).batch(0)


def options_of(**options):
  return sources.DataConfig(
      kind='shards', batch_size=2, shards=shards.ShardsConfig(**options)
  )


def test_sources(tmp_path, monkeypatch):
  files = {f'train_{i}.bin': random_tokens(60, i) for i in (2, 0, 1)}
  for name, tokens in files.items():
    write_bin(tmp_path / name, tokens)
  write_bin(tmp_path / 'val.bin', random_tokens(30))
  config = options_of(
      train=f'{tmp_path}/train_*.bin', validation=f'{tmp_path}/val.bin',
      seq_len=8, eval_rows=3,
  )
  assert sources.split_names(config) == ('train', 'validation')
  made = sources.make_sources(config)
  assert list(made) == ['train', 'validation']
  names = [shard.path.rsplit('/', 1)[1] for shard in made['train'].shards]
  assert names == sorted(files)
  assert made['validation'].num_eval_batches == 2
  assert {s.vocab_size for s in made.values()} == {VOCAB}
  assert {s.length for s in made.values()} == {8}
  # Commas and other spellings name the same files.
  monkeypatch.chdir(tmp_path)
  again = sources.make_source(
      options_of(train='*_[01].bin,train_2.bin', seq_len=8)
  )
  np.testing.assert_equal(again.batch(5), made['train'].batch(5))
  alone = options_of(train='train_0.bin', seq_len=8)
  assert sources.split_names(alone) == ('train',)
  assert sources.eval_sets(alone) == {}


@pytest.mark.parametrize(
    'options,message',
    [
        ({'train': 'no_*.bin'}, r"train: 'no_\*.bin' matches no file"),
        ({'train': 'no.bin'}, "train: 'no.bin' matches no file"),
        ({'train': 'x/*/no.bin'}, 'matches no file'),
        ({'train': '.'}, r"'\.' must be a file that ends in one of"),
        ({'train': 'a.bin,*.bin'}, "train: 'a.bin' is named twice"),
        ({'train': 'notes.txt'}, "'notes.txt' must be a file that ends in"),
        ({'train': 'gs://b/a_*.bin'}, "gs://b/a_.*is remote.*: copy it"),
        ({'validation': 'a.bin'}, "no file of train, got 'a.bin'"),
        ({'validation': 'no*.bin'}, 'validation: .* matches no file'),
    ],
)
def test_bad_files_are_refused(tmp_path, monkeypatch, options, message):
  monkeypatch.chdir(tmp_path)
  write_bin(tmp_path / 'a.bin', random_tokens(2000))
  (tmp_path / 'notes.txt').write_text('')
  config = options_of(**{'train': 'a.bin', **options})
  with pytest.raises(ValueError, match=message):
    sources.make_sources(config)


@pytest.mark.parametrize(
    'options,message',
    [
        ({'train': ()}, r'train must name at least one file, got \(\)'),
        ({'train': ''}, 'train must name at least one'),
        ({'train': 'a.bin,'}, "train must be paths .* got 'a.bin,'"),
        ({'validation': 3}, 'validation must be paths .* got 3'),
        ({'seq_len': 0}, 'seq_len must be .* got 0'),
        ({'vocab_size': 65537}, 'vocab_size must be .* 65536, got 65537'),
        ({'eot_id': 50257}, 'eot_id must be .* 50256, got 50257'),
        ({'eval_rows': 0}, 'eval_rows must be .* got 0'),
    ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    shards.ShardsConfig(**{'train': 'a.bin', **options})


def test_options_of_shards_are_needed():
  assert shards.ShardsConfig(train='a', validation='').validation == ()
  with pytest.raises(ValueError, match="kind='shards', got None"):
    sources.DataConfig(kind='shards')
  with pytest.raises(ValueError, match='ShardsConfig or None, got {}'):
    sources.DataConfig(shards={})


def test_tokenizer_comes_from_the_index(tmp_path):
  path = write_bin(tmp_path / 'a.bin', random_tokens(100))
  config = options_of(train=path)
  with pytest.raises(ValueError, match='put an index.json beside it'):
    sources.make_tokenizer(config)
  index = tmp_path / 'index.json'
  for bad in ('', '[]', '{"tokens": 3}'):
    index.write_text(bad)
    with pytest.raises(ValueError, match="index.json.* a field 'tokenizer'"):
      sources.make_tokenizer(config)
  index.write_text(json.dumps({'tokenizer': 'bytes'}))
  assert sources.make_tokenizer(config).vocab_size == 259
  # A file is looked for in the same folder.
  index.write_text(json.dumps({'tokenizer': 'own.json'}))
  with pytest.raises(ValueError, match='must be an existing file'):
    sources.make_tokenizer(config)
  (tmp_path / 'own.json').write_text('{}')
  with pytest.raises(ValueError, match=f'{tmp_path}/own.json.* be read'):
    sources.make_tokenizer(config)
  index.unlink()
  os.mkfifo(index)  # whoever opens it waits for ever
  shards.check_index(config.shards)
  with pytest.raises(ValueError, match='index.json must be a file'):
    sources.make_tokenizer(config)


def test_short_files_among_others_are_left_out(tmp_path):
  """As the last one that `prepare` writes may be."""
  for name, n in (
      ('a', 100), ('b', 8), ('c', 1), ('d', 0), ('u', 1), ('v', 30), ('w', 0)
  ):
    write_bin(tmp_path / f'{name}.bin', random_tokens(n))
  config = options_of(
      train=f'{tmp_path}/[a-d].bin', validation=f'{tmp_path}/[uvw].bin',
      seq_len=8,
  )
  with pytest.warns(UserWarning, match='files have fewer than the') as warned:
    made = sources.make_sources(config)
  assert [str(w.message).split(' or ')[0][:34] for w in warned] == [
      'train: 3 of 4 files have fewer tha', 'validation: 2 of 3 files have fewe'
  ]
  first = str(warned[0].message)
  assert 'b.bin' in first and first.endswith('with 8.')
  alone = sources.make_sources(
      options_of(
          train=f'{tmp_path}/a.bin', validation=f'{tmp_path}/v.bin', seq_len=8
      )
  )
  for split in made:
    np.testing.assert_equal(made[split].batch(1), alone[split].batch(1))
  # Where no file is long enough there is nothing to train on.
  with pytest.raises(ValueError, match='at least 9 tokens'):
    sources.make_sources(options_of(train=f'{tmp_path}/[bcd].bin', seq_len=8))


@pytest.mark.parametrize('prefetch', [0, 4])
def test_bad_token_in_the_middle_is_one_line(tmp_path, prefetch):
  tokens = [3] * 5000
  tokens[2500] = VOCAB + 9
  path = write_bin(tmp_path / 'a.bin', tokens)
  source = make([path], batch_size=4, train=False)
  wanted = f"shard '{path}' must hold .* got 50266 at token 2500"
  iterator = pipeline.make_iterator(source, prefetch=prefetch)
  with pytest.raises(errors.BadData, match=wanted) as e:
    for _ in iterator:
      pass
  assert '\n' not in str(e.value)
  iterator.close()
  config = sources.DataConfig(
      kind='shard_documents',
      options=shard_documents.ShardDocumentsConfig((path,), EOT, VOCAB, 2),
  )
  with pytest.raises(ValueError, match='got 50266 at token 2500'):
    sources.make_documents(config)
