"""Buckets hold every row once, in few shapes and with the least padding."""

import itertools

import numpy as np
import pytest

from iblm_jax.data import buckets

RNG = np.random.default_rng(0)


def padded(lengths, shapes):
  shapes = np.sort(shapes)
  return shapes[np.searchsorted(shapes, lengths)].sum()


@pytest.mark.parametrize('max_shapes', [1, 2, 3, 5, 9])
def test_padding_is_the_least_possible(max_shapes):
  """Against all choices of lengths."""
  lengths = RNG.choice([1, 2, 4, 5, 9, 11, 30], 60, p=np.arange(1, 8) / 28)
  got = buckets.bucket_lengths(lengths, max_shapes)
  assert got.size <= max_shapes and (np.diff(got) > 0).all()
  distinct = np.unique(lengths)
  best = min(
      padded(lengths, [*chosen, distinct[-1]])
      for count in range(max_shapes)
      for chosen in itertools.combinations(distinct[:-1], count)
  )
  assert padded(lengths, got) == best


def test_multiples():
  got = buckets.bucket_lengths([1, 3, 8, 9, 17], 3, multiple=8)
  assert got.tolist() == [8, 16, 24]


@pytest.mark.parametrize('row_multiple', [1, 4])
@pytest.mark.parametrize('count', [1, 7, 1000])
def test_each_row_is_in_one_batch(row_multiple, count):
  lengths = RNG.geometric(0.05, count).clip(max=120)
  made = buckets.buckets(
      lengths, 512, max_shapes=4, multiple=4, row_multiple=row_multiple
  )
  rows = np.concatenate([bucket.rows for bucket in made])
  np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(count))
  for bucket in made:
    there = bucket.rows[bucket.rows >= 0]
    assert there.size and (lengths[there] <= bucket.length).all()
    assert bucket.length * bucket.rows.size <= 512
    assert bucket.rows.size % row_multiple == 0
    assert bucket.length % 4 == 0
  assert len({(b.length, b.rows.size) for b in made}) <= 4


def test_last_batches_are_mostly_full():
  """Fewer empty rows than batches, however the numbers fall."""
  for count in (17, 33, 65, 100):
    made = buckets.buckets([10] * count, 160)
    empty = sum(int((b.rows < 0).sum()) for b in made)
    assert len(made) == -(-count // 16) and empty < len(made)


@pytest.mark.parametrize(
    'arguments,options,message',
    [
        (([], 9), {}, 'lengths must be .* at least one number'),
        (([1, 0], 9), {}, 'lengths must be .* at least 1, got'),
        (([10, 3], 9), {}, 'max_tokens must be .* at least 10, got 9'),
        (([9], 9), {'row_multiple': 2}, 'max_tokens must be .* at least 18'),
        (([9], 9), {'max_shapes': 0}, 'max_shapes must be .* got 0'),
        (([9], 9), {'multiple': 0}, 'multiple must be .* got 0'),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
  with pytest.raises(ValueError, match=message):
    buckets.buckets(*arguments, **options)
