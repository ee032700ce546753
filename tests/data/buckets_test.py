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


@pytest.mark.parametrize('count', [3, 17, 300, 5000])
def test_rows_that_fill_no_batch_cost_little(count):
  """Less than a batch at each length, whatever is left over."""
  lengths = RNG.geometric(0.05, count).clip(max=60)
  made = buckets.buckets(lengths, 240, max_shapes=4)
  shapes = buckets.bucket_lengths(lengths, 4)
  least = padded(lengths, shapes)
  assert sum(b.length * b.rows.size for b in made) <= least + 240 * shapes.size
  one_shape = buckets.buckets([10] * count, 160)
  assert sum((b.rows < 0).sum() for b in one_shape) == -count % 16


def test_left_over_rows_take_the_cheaper_way():
  """Beside empty rows, or filled up to the next length."""
  get = lambda lengths: [
      (b.length, b.rows.tolist())
      for b in buckets.buckets(lengths, 12, like=[3, 12])
  ]
  # An empty row costs 3 tokens; three rows filled up 27 more.
  assert get([3, 3, 3]) == [(3, [0, 1, 2, -1])]
  assert get([12, 3, 3, 3, 3]) == [(3, [1, 2, 3, 4]), (12, [0])]
  get = lambda lengths: [
      (b.length, b.rows.tolist())
      for b in buckets.buckets(lengths, 12, like=[3, 4])
  ]
  # Three empty rows cost 9 tokens; a row filled up 1 more.
  assert get([3, 4, 4]) == [(4, [0, 1, 2])]


def test_samples_share_shapes():
  """Of rows that are like some others: any number, in any order."""
  like = RNG.geometric(0.05, 2000).clip(max=60)
  shapes = set()
  for seed, count in enumerate([5, 40, 300, 1999]):
    lengths = np.random.default_rng(seed).choice(like, count)
    made = buckets.buckets(lengths, 240, like=like, max_shapes=5)
    rows = np.concatenate([bucket.rows for bucket in made])
    np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(count))
    shapes |= {(b.length, b.rows.size) for b in made}
  wanted = buckets.bucket_lengths(like, 5).tolist()
  assert shapes == {(length, 240 // length) for length in wanted}


@pytest.mark.parametrize(
    'arguments,options,message',
    [
        (([], 9), {}, 'lengths must be .* at least one number'),
        (([1, 0], 9), {}, 'lengths must be .* at least 1, got'),
        (([10, 3], 9), {}, 'max_tokens must be .* at least 10, got 9'),
        (([9], 9), {'row_multiple': 2}, 'max_tokens must be .* at least 18'),
        (([9], 9), {'like': [8]}, 'like must have .* 9 tokens .* most 8'),
        (([9], 9), {'like': []}, 'like must be .* at least one number'),
        (([9], 9), {'max_shapes': 0}, 'max_shapes must be .* got 0'),
        (([9], 9), {'multiple': 0}, 'multiple must be .* got 0'),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
  with pytest.raises(ValueError, match=message):
    buckets.buckets(*arguments, **options)
