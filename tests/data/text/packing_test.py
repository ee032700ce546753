"""Packed rows against a plain loop, and what an epoch covers."""

import collections
import concurrent.futures
import time

import numpy as np
import pytest

from iblm_jax.data import hashing
from iblm_jax.data.text import files as text
from iblm_jax.data.text import packing, tokenizers

BOS, EOS, PAD = 97, 98, 99


def corpus_of(documents, bos_id=BOS, eos_id=EOS):
  return packing.pack_tokens(
      [np.asarray(d, np.int32) for d in documents],
      bos_id=bos_id,
      eos_id=eos_id,
      pad_id=PAD,
      vocab_size=100,
  )


def random_documents(n, longest, seed=0):
  rng = np.random.default_rng(seed)
  return [
      rng.integers(0, 97, rng.integers(0, longest + 1)).tolist()
      for _ in range(n)
  ]


def hash_order(key, n):
  """Order of 0..n-1 by their hash, written without the vectorised code."""
  return sorted(range(n), key=lambda i: int(hashing.fold(key, i)))


def rows_by_loop(documents, order, offset, seq_len):
  """Rows of one pass: one position at a time, from the definition.

  Returns a list of rows, each a list of (token, target, document, place).
  """
  ring = []
  for d in order:
    full = [BOS, *documents[d], EOS]
    ring += [(full[j], full[j + 1], d, j) for j in range(len(full) - 1)]
  ring = ring[offset:] + ring[:offset]
  return [ring[i : i + seq_len] for i in range(0, len(ring), seq_len)]


def arrays_by_loop(row, seq_len):
  """The arrays of a batch for one row of `rows_by_loop`."""
  out = collections.defaultdict(list)
  segment = position = 0
  before = None
  for token, target, document, place in row:
    starts = before != (document, place - 1)
    segment += starts
    position = 0 if starts else position + 1
    before = (document, place)
    out['tokens'].append(token)
    out['targets'].append(target)
    out['loss_mask'].append(True)
    out['mask'].append(True)
    out['segment_ids'].append(segment)
    out['positions'].append(position)
  fill = {'tokens': PAD, 'targets': PAD}
  return {
      key: values + [fill.get(key, 0)] * (seq_len - len(row))
      for key, values in out.items()
  }


def train_rows_by_loop(documents, seq_len, seed, epoch):
  key = hashing.fold(seed, epoch)
  order = hash_order(hashing.fold(key, 0), len(documents))
  offset = int(hashing.fold(key, 1)) % seq_len
  rows = rows_by_loop(documents, order, offset, seq_len)
  whole = [row for row in rows if len(row) == seq_len]
  return [whole[i] for i in hash_order(hashing.fold(key, 2), len(whole))]


def assert_rows_equal(batch, rows, seq_len):
  for key, array in batch.items():
    wanted = [arrays_by_loop(row, seq_len)[key] for row in rows]
    np.testing.assert_array_equal(array, wanted, err_msg=key)


@pytest.mark.parametrize(
    'n,longest,seq_len,batch_size',
    [
        (40, 12, 8, 4),  # Several documents in a row.
        (7, 100, 16, 3),  # Documents over several rows.
        (1, 30, 8, 2),  # One document.
        (3, 2, 3, 5),  # A batch over several epochs.
        (50, 0, 8, 4),  # Nothing but empty documents.
        (60, 5, 1, 4),  # Rows of one token.
        (4, 6, 9, 1),  # Hardly one row.
    ],
)
@pytest.mark.parametrize('seed', [0, 2**63 - 1])
def test_training_agrees_with_a_loop(n, longest, seq_len, batch_size, seed):
  documents = random_documents(n, longest, seed=n)
  source = packing.PackedText(
      corpus_of(documents), seq_len=seq_len, batch_size=batch_size, seed=seed
  )
  rows = []
  for epoch in range(4):
    rows += train_rows_by_loop(documents, seq_len, seed, epoch)
  assert len(rows) == 4 * source.num_rows
  for k in range(len(rows) // batch_size):
    wanted = rows[k * batch_size : (k + 1) * batch_size]
    assert_rows_equal(source.batch(k), wanted, seq_len)


@pytest.mark.parametrize(
    'n,longest,seq_len,batch_size',
    [(40, 12, 8, 4), (7, 100, 16, 3), (1, 30, 64, 2), (60, 5, 1, 7)],
)
def test_validation_agrees_with_a_loop(n, longest, seq_len, batch_size):
  documents = random_documents(n, longest)
  source = packing.PackedText(
      corpus_of(documents), seq_len=seq_len, batch_size=batch_size, train=False
  )
  rows = rows_by_loop(documents, range(n), 0, seq_len)
  assert source.num_eval_batches == -(-len(rows) // batch_size)
  for k in range(source.num_eval_batches):
    wanted = rows[k * batch_size : (k + 1) * batch_size]
    batch = source.batch(k)
    there = {key: x[: len(wanted)] for key, x in batch.items()}
    assert_rows_equal(there, wanted, seq_len)
    assert all(x.shape == (batch_size, seq_len) for x in batch.values())
    assert not batch['mask'][len(wanted) :].any()
    assert not batch['loss_mask'][len(wanted) :].any()
    assert (batch['tokens'][len(wanted) :] == PAD).all()


def test_validation_counts_every_target_once():
  """All tokens and one eos for each document, whatever the batch size."""
  documents = random_documents(30, 20)
  wanted = collections.Counter(t for d in documents for t in [*d, EOS])
  for batch_size in (1, 4, 100):
    source = packing.PackedText(
        corpus_of(documents), seq_len=8, batch_size=batch_size, train=False
    )
    seen = collections.Counter()
    for k in range(source.num_eval_batches):
      batch = source.batch(k)
      seen.update(batch['targets'][batch['loss_mask']].tolist())
    assert seen == wanted


def test_eval_rows_are_spread_over_the_validation_pass():
  documents = random_documents(30, 20)
  whole, part = (
      packing.PackedText(
          corpus_of(documents),
          seq_len=8,
          batch_size=4,
          train=False,
          eval_rows=rows,
      )
      for rows in (None, 6)
  )
  assert part.num_eval_batches == 2
  assert part.batch(1)['mask'].any(axis=1).tolist() == [True] * 2 + [False] * 2
  rows = whole.num_rows
  assert rows > 18  # so that the first rows are not all there is
  of_whole = [i * rows // 6 for i in range(6)]
  assert len(set(of_whole)) == 6 and rows - of_whole[-1] <= -(-rows // 6)
  for i, row in enumerate(of_whole):
    found, expected = part.batch(i // 4), whole.batch(row // 4)
    for key in found:
      np.testing.assert_array_equal(found[key][i % 4], expected[key][row % 4])


def test_more_eval_rows_than_there_are():
  documents = random_documents(5, 20)
  whole, more = (
      packing.PackedText(
          corpus_of(documents), seq_len=8, batch_size=4, train=False,
          eval_rows=rows,
      )
      for rows in (None, 1000)
  )
  assert more.num_eval_batches == whole.num_eval_batches
  for k in range(whole.num_eval_batches):
    for key, values in more.batch(k).items():
      np.testing.assert_array_equal(values, whole.batch(k)[key])


def test_epoch_covers_every_position_once():
  """Tokens are unique here, so that each one can be counted."""
  n = 90
  rng = np.random.default_rng(1)
  cuts = np.sort(rng.choice(np.arange(1, n), 12, replace=False))
  documents = [part.tolist() for part in np.split(np.arange(n), cuts)]
  total = n + len(documents)
  source = packing.PackedText(corpus_of(documents), seq_len=7, batch_size=1)
  assert source.num_rows == total // 7
  left_out = []
  for epoch in range(30):
    seen = collections.Counter()
    for row in range(source.num_rows):
      seen.update(source.batch(epoch * source.num_rows + row)['tokens'][0])
    assert seen.pop(BOS) <= len(documents)
    assert set(seen.values()) == {1}
    left_out.append(frozenset(range(n)) - set(seen))
    assert len(left_out[-1]) <= total - source.num_rows * 7
  # Other tokens are left out each time, and none always.
  assert len(set(left_out)) > 10
  assert not frozenset.intersection(*left_out)


def test_rows_are_shuffled():
  """Neighbours in a batch are not neighbours in the text."""
  documents = [np.arange(97).tolist()] * 20
  source = packing.PackedText(corpus_of(documents), seq_len=16, batch_size=64)
  tokens = source.batch(0)['tokens']
  follows = [
      tokens[i, 0] == (tokens[i - 1, -1] + 1) % 98 for i in range(1, 64)
  ]
  assert np.mean(follows) < 0.2


def test_epochs_and_seeds_differ():
  documents = random_documents(50, 20)

  def epoch(seed, number):
    source = packing.PackedText(
        corpus_of(documents), seq_len=8, batch_size=1, seed=seed
    )
    first = number * source.num_rows
    rows = range(first, first + source.num_rows)
    return np.concatenate([source.batch(k)['tokens'] for k in rows])

  assert (epoch(0, 0) != epoch(0, 1)).mean() > 0.5
  assert (epoch(0, 0) != epoch(1, 0)).mean() > 0.5
  np.testing.assert_array_equal(epoch(1, 1), epoch(1, 1))


def test_batches_do_not_depend_on_what_was_read_before():
  """Backwards, forwards and alone; more epochs than are kept."""
  corpus = corpus_of(random_documents(30, 10))

  def make():
    return packing.PackedText(corpus, seq_len=8, batch_size=3)

  source = make()
  assert source.num_rows < 40
  forwards = [source.batch(k) for k in range(100)]
  for k in list(range(99, -1, -7)) + [50, 0, 99]:
    for one in (source.batch(k), make().batch(k)):
      np.testing.assert_equal(one, forwards[k])


@pytest.mark.parametrize('train', [True, False])
def test_rows_of_a_batch(train):
  source = packing.PackedText(
      corpus_of(random_documents(30, 10)), seq_len=8, batch_size=32, train=train
  )
  whole = source.batch(0)
  for rows in (range(8, 16), [31, 0, 5, 5], [7]):
    part = source.batch(0, rows)
    for key, values in part.items():
      np.testing.assert_array_equal(values, whole[key][list(rows)])


def test_threads_read_the_same_batches():
  corpus = corpus_of(random_documents(30, 10))
  source = packing.PackedText(corpus, seq_len=8, batch_size=16)
  wanted = [source.batch(k) for k in range(60)]
  source = packing.PackedText(corpus, seq_len=8, batch_size=16)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    np.testing.assert_equal(list(pool.map(source.batch, range(60))), wanted)


def test_threads_share_one_epoch(monkeypatch):
  """It is made once, however many ask for it meanwhile."""
  corpus = corpus_of(random_documents(30, 10))
  source = packing.PackedText(corpus, seq_len=8, batch_size=1)
  make_epoch = source._shuffled
  made = []

  def slowly(epoch):
    made.append(epoch)
    time.sleep(0.05)
    return make_epoch(epoch)

  monkeypatch.setattr(source, '_shuffled', slowly)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(source.batch, range(source.num_rows)))
  assert made == [0]


def test_one_token_may_begin_and_end_documents():
  """As in GPT-2: the end of a document is the begin token of the next."""
  corpus = corpus_of([[1, 2], [3]], bos_id=50, eos_id=50)
  source = packing.PackedText(corpus, seq_len=8, batch_size=1, train=False)
  batch = source.batch(0)
  assert batch['tokens'][0].tolist() == [50, 1, 2, 50, 3, PAD, PAD, PAD]
  assert batch['targets'][0].tolist() == [1, 2, 50, 3, 50, PAD, PAD, PAD]
  assert batch['segment_ids'][0].tolist() == [1, 1, 1, 2, 2, 0, 0, 0]
  assert batch['positions'][0].tolist() == [0, 1, 2, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    'vocab_size,dtype', [(2**16, np.uint16), (2**16 + 1, np.int32)]
)
def test_large_vocabularies_are_not_cut(vocab_size, dtype):
  last = vocab_size - 1
  corpus = packing.pack_tokens(
      [np.array([last, 5])], bos_id=0, eos_id=1, pad_id=2, vocab_size=vocab_size
  )
  assert corpus.tokens.dtype == dtype
  source = packing.PackedText(corpus, seq_len=3, batch_size=1, train=False)
  batch = source.batch(0)
  assert batch['tokens'].dtype == np.int32
  assert batch['tokens'].tolist() == [[0, last, 5]]


def test_tokens_may_be_mapped_from_a_file(tmp_path):
  """Documents that share a border token, as in GPT-2 shards."""
  tokens = np.array([50, 1, 2, 50, 3, 50], np.uint16)
  tokens.tofile(tmp_path / 'tokens.bin')
  corpus = packing.PackedTokens(
      np.memmap(tmp_path / 'tokens.bin', np.uint16, 'r'),
      starts=np.array([0, 3]),
      lengths=np.array([3, 2]),
      pad_id=PAD,
      vocab_size=100,
  )
  source = packing.PackedText(corpus, seq_len=5, batch_size=1, train=False)
  assert source.batch(0)['targets'].tolist() == [[1, 2, 50, 3, 50]]


def test_bad_arguments_are_refused():
  corpus = corpus_of([[1, 2]])
  with pytest.raises(ValueError, match='seq_len must be at most .* 3, got.*4'):
    packing.PackedText(corpus, seq_len=4, batch_size=1)
  for name in ('seq_len', 'batch_size', 'eval_rows'):
    options = {'seq_len': 2, 'batch_size': 1, 'train': False, name: 0}
    with pytest.raises(ValueError, match=f'{name} must be .* got 0'):
      packing.PackedText(corpus, **options)
  with pytest.raises(ValueError, match='documents must hold at least one'):
    corpus_of([])
  source = packing.PackedText(corpus, seq_len=2, batch_size=2, train=False)
  with pytest.raises(ValueError, match='k must be .* 0 and 0, got 1'):
    source.batch(1)


def test_real_text(real_text):
  """Rows of real pages decode to parts of these pages."""
  config = text.TextConfig(paths=f'{real_text}/tldr_en.jsonl.gz')
  documents = text.read_documents(config)[:2000]
  tokenizer = tokenizers.ByteTokenizer()
  corpus = packing.pack_tokens(
      map(tokenizer.encode, documents),
      bos_id=tokenizer.bos_id,
      eos_id=tokenizer.eos_id,
      pad_id=tokenizer.pad_id,
      vocab_size=tokenizer.vocab_size,
  )
  data = b'\0'.join(d.encode() for d in documents)
  assert corpus.num_positions == len(data) + 1
  batch = packing.PackedText(corpus, seq_len=512, batch_size=16).batch(3)
  pieces = 0
  for tokens, targets, segments in zip(
      batch['tokens'], batch['targets'], batch['segment_ids'], strict=True
  ):
    for segment in range(1, segments.max() + 1):
      piece = tokenizer.decode_bytes(tokens[segments == segment])
      assert piece in data
      ends = targets[segments == segment][-1] == tokenizer.eos_id
      assert not ends or data.count(piece + b'\0') + data.endswith(piece)
      pieces += 1
  assert pieces > 16
