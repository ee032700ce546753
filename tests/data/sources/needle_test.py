"""Rows keep the rules of the task, and each set asks for its own chunk."""

import collections
import dataclasses

import numpy as np
import pytest
from scipy import stats

from iblm_jax.data.sources import needle

CONFIG = needle.NeedleConfig()
# Room for fewer queries than there are keys; an odd chunk; V not a multiple
# of 4.
TIGHT = needle.NeedleConfig(
    vocab_size=27, num_chunks=3, chunk_length=5, pairs=2, num_heldout=40
)
FULL = needle.NeedleConfig(
    vocab_size=8, num_chunks=2, chunk_length=4, pairs=2, num_heldout=40
)
CONFIGS = [CONFIG, TIGHT, FULL, needle.NeedleConfig(256, 9, 20, 7)]


def make(split='train', batch_size=512, seed=0, config=CONFIG):
  return needle.NeedleSource(config, split, batch_size, seed)


def kind_of(config, token):
  """'k', 'v' or '.': the range that a token is in."""
  quarter = config.vocab_size // 4
  assert 0 <= token < config.vocab_size
  return 'k' if token < quarter else 'v' if token < 2 * quarter else '.'


def parse(config, tokens):
  """[(place, key, value), ...] of each chunk of a row; checks its form."""
  length = config.chunk_length
  assert len(tokens) == config.num_chunks * length
  chunks = []
  for start in range(0, len(tokens), length):
    chunk = tokens[start : start + length]
    kinds = ''.join(kind_of(config, token) for token in chunk)
    # Nothing but whole pairs and fillers.
    assert not kinds.replace('kv', '').strip('.')
    chunks.append([
        (start + j, chunk[j], chunk[j + 1])
        for j, kind in enumerate(kinds)
        if kind == 'k'
    ])
  return chunks


@pytest.mark.parametrize('config', CONFIGS)
def test_rows_keep_the_rules(config):
  room = config.chunk_length // 2
  for split in needle.split_names(config):
    source = make(split, batch_size=40, config=config)
    batch = source.batch(0)
    for row in range(40):
      tokens, targets = (batch[k][row].tolist() for k in ('tokens', 'targets'))
      *chunks, query = parse(config, tokens)
      assert [len(chunk) for chunk in chunks] == [config.pairs] * len(chunks)
      value_of = {key: value for chunk in chunks for _, key, value in chunk}
      # No key is in two places.
      assert len(value_of) == config.pairs * len(chunks)
      if split == 'train':
        candidates = list(value_of)
      else:
        chosen = chunks[int(split.split('_')[1])]
        candidates = [key for _, key, _ in chosen]
      asked = [key for _, key, _ in query]
      assert len(set(asked)) == len(asked) == min(room, len(candidates))
      assert set(asked) <= set(candidates)
      assert [value for *_, value in query] == [value_of[k] for k in asked]
      # The query begins its chunk, one pair after the other.
      start = len(tokens) - config.chunk_length
      places = [place for place, *_ in query]
      assert places == [start + 2 * j for j in range(len(asked))]
      # What counts is the value after each key that is asked for.
      assert np.flatnonzero(batch['loss_mask'][row]).tolist() == places
      assert [targets[t] for t in places] == [value_of[k] for k in asked]
      assert targets[:-1] == tokens[1:]
      assert kind_of(config, targets[-1]) == '.'


def test_arrays_of_a_batch():
  batch = make(batch_size=4).batch(3, rows=range(1, 3))
  assert {key: (x.shape, x.dtype.name) for key, x in batch.items()} == {
      'tokens': ((2, 64), 'int32'),
      'targets': ((2, 64), 'int32'),
      'loss_mask': ((2, 64), 'bool'),
      'mask': ((2, 64), 'bool'),
      'segment_ids': ((2, 64), 'int32'),
      'positions': ((2, 64), 'int32'),
  }
  assert batch['mask'].all() and (batch['segment_ids'] == 1).all()
  assert (batch['positions'] == np.arange(64)).all()
  source = make()
  assert (source.vocab_size, source.length) == (64, 64)
  assert source.num_eval_batches is None


def test_splits_are_named_after_chunks():
  assert needle.split_names(CONFIG) == (
      'train', 'chunk_0', 'chunk_1', 'chunk_2'
  )
  assert needle.split_names(FULL) == ('train', 'chunk_0')


@pytest.mark.parametrize('split', needle.split_names(CONFIG))
def test_a_guess_is_at_chance(split):
  """Values are uniform and independent of key, place and other values."""
  assert CONFIG.chance == 1 / 16 and TIGHT.chance == 1 / 6
  config = dataclasses.replace(CONFIG, num_heldout=20_000)
  batch = make(split, batch_size=20_000, config=config).batch(0)
  places = np.flatnonzero(batch['loss_mask'][0])
  assert places.size == (6 if split == 'train' else 2)
  key, value = (batch[k][:, places] for k in ('tokens', 'targets'))
  for place in range(places.size):
    counts = np.zeros((16, 16))
    np.add.at(counts, (key[:, place], value[:, place] - 16), 1)
    # Each of the 256 pairs is equally likely.
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
  counts = np.zeros((16, 16))
  np.add.at(counts, (value[:, 0] - 16, value[:, 1] - 16), 1)
  assert stats.chisquare(counts.ravel()).pvalue > 1e-3
  # Guessing the last value seen before the query, as an instance.
  tokens = batch['tokens'][:, :48]
  is_value = (tokens >= 16) & (tokens < 32)
  last = 47 - is_value[:, ::-1].argmax(axis=1)
  guess = tokens[np.arange(20_000), last]
  # Right by chance, or where the key asked for is just that one.
  share = (guess == value[:, 0]).mean()
  own = {'train': 1 / 6, 'chunk_2': 1 / 2}.get(split, 0)
  wanted = own + (1 - own) / 16
  assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / 20_000) ** 0.5


def test_places_and_fillers_are_uniform():
  batch = make(batch_size=20_000).batch(0)
  tokens = batch['tokens']
  row, place = np.nonzero(tokens[:, :48] < 16)
  starts = (place % 16).reshape(-1, 2)
  assert (row.reshape(-1, 2)[:, 0] == row.reshape(-1, 2)[:, 1]).all()
  # Two pairs in 16 places, not overlapping: 14 * 13 / 2 equally likely ways.
  ways = collections.Counter(map(tuple, starts.tolist()))
  assert set(ways) == {(a, b) for b in range(15) for a in range(b - 1)}
  assert len(ways) == 91
  assert stats.chisquare(list(ways.values())).pvalue > 1e-3
  fillers = tokens[:, 60:]
  for t in range(4):
    counts = np.bincount(fillers[:, t] - 32, minlength=32)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_training_asks_for_all_chunks_alike():
  """Where there is room for two of four keys: 12 equally likely queries."""
  rows = make(batch_size=12_000, config=TIGHT).batch(0)['tokens'].tolist()
  counts = collections.Counter()
  for tokens in rows:
    *chunks, query = parse(TIGHT, tokens)
    number = {key: i for i, (_, key, _) in enumerate(sum(chunks, []))}
    counts[tuple(number[key] for _, key, _ in query)] += 1
  assert len(counts) == 12
  assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_evaluation_asks_in_random_order():
  config = dataclasses.replace(CONFIG, num_heldout=4000)
  batch = make('chunk_1', batch_size=4000, config=config).batch(0)
  first = 0
  for tokens in batch['tokens'].tolist():
    _, chunk, _, query = parse(config, tokens)
    first += query[0][1] == chunk[0][1]
  assert stats.binomtest(first, 4000).pvalue > 1e-3


def test_evaluation_sets_share_what_is_asked_about():
  sets = [make(f'chunk_{c}').batch(0)['tokens'] for c in range(3)]
  for c in (1, 2):
    np.testing.assert_array_equal(sets[0][:, :48], sets[c][:, :48])
    assert (sets[0][:, 48] != sets[c][:, 48]).all()


def test_a_row_is_a_function_of_seed_and_number():
  source = make(batch_size=100, seed=3)
  whole = source.batch(5)
  rows = [99, 5, 5, 70]
  few = make(batch_size=100, seed=3).batch(5, rows)
  for key, values in whole.items():
    np.testing.assert_array_equal(values[rows], few[key])
  for key, values in make(batch_size=8).batch(5).items():
    halves = [make(batch_size=4).batch(k)[key] for k in (10, 11)]
    np.testing.assert_array_equal(values, np.concatenate(halves))
  for other in (source.batch(6), make(batch_size=100, seed=4).batch(5)):
    assert (other['tokens'] != whole['tokens']).mean() > 0.8


def test_no_row_is_in_training_and_in_an_evaluation_set():
  held_out = make('chunk_0').batch(0)['tokens'][:, :48]
  train = make(batch_size=20_000).batch(0)['tokens'][:, :48]
  assert len(set(map(bytes, train))) == 20_000
  assert not set(map(bytes, train)) & set(map(bytes, held_out))


@pytest.mark.parametrize('split', needle.split_names(CONFIG)[1:])
def test_evaluation_sets_are_fixed_and_complete(split):
  wanted = None
  config = dataclasses.replace(CONFIG, num_heldout=150)
  for batch_size, seed in ((100, 0), (64, 7), (1, 0)):
    source = make(split, batch_size, seed, config)
    assert source.num_eval_batches == -(-150 // batch_size)
    rows = [source.batch(k) for k in range(source.num_eval_batches)]
    made = {
        key: np.concatenate([batch[key] for batch in rows]) for key in rows[0]
    }
    assert made['mask'][:150].all()
    assert made['loss_mask'].sum() == 300
    for values in made.values():
      assert not values[150:].any()
    wanted = made['tokens'][:150] if wanted is None else wanted
    np.testing.assert_array_equal(made['tokens'][:150], wanted)
  assert len(set(map(bytes, wanted))) == 150


@pytest.mark.parametrize(
    'options,message',
    [
        ({'vocab_size': 7}, 'vocab_size must be .* 8 and 65536, got 7'),
        ({'vocab_size': 23}, 'vocab_size must be at least 24 .* 6 .* got 23'),
        ({'num_chunks': 1}, 'num_chunks must be .* got 1'),
        ({'num_chunks': 10}, 'vocab_size must be at least 72 .* got 64'),
        ({'chunk_length': 1}, 'chunk_length must be .* got 1'),
        ({'chunk_length': 3}, 'pairs must be .* between 1 and 1, got 2'),
        ({'pairs': 0}, 'pairs must be .* 1 and 8, got 0'),
        ({'num_heldout': 0}, 'num_heldout must be .* got 0'),
    ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    needle.NeedleConfig(**options)


def test_the_smallest_vocabulary_that_holds_the_keys_will_do():
  config = needle.NeedleConfig(vocab_size=24)
  tokens = make(config=config).batch(0)['tokens']
  assert (np.sort(tokens[:, 48:60:2]) == np.arange(6)).all()


def test_bad_arguments_are_refused():
  for split in ('test', 'chunk_3'):
    with pytest.raises(ValueError, match=f'split must be .* got {split!r}'):
      make(split)
  with pytest.raises(ValueError, match='seed must be .* got -1'):
    make(seed=-1)
  with pytest.raises(ValueError, match='batch_size must be .* got 0'):
    make(batch_size=0)
  with pytest.raises(ValueError, match='k must be an integer between 0 and 0,'):
    make('chunk_0').batch(1)
  with pytest.raises(ValueError, match='rows must be .* between 0 and 511'):
    make().batch(0, [512])
