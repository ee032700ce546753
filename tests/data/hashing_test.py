"""The hash agrees with its definition in plain integers, and looks random."""

import math

import numpy as np
import pytest
from scipy import stats

from iblm_jax.data import hashing

_WORD = 2**64


def mix_in_integers(x):
  """SplitMix64 written from its definition, with unbounded integers."""
  x = (x + 0x9E3779B97F4A7C15) % _WORD
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB % _WORD
  return x ^ (x >> 31)


def fold_in_integers(key, word):
  return mix_in_integers(key ^ mix_in_integers(word))


def test_mix_gives_the_published_sequence():
  # The first outputs of SplitMix64 seeded with 1234567.
  state = 1234567 + 0x9E3779B97F4A7C15 * np.arange(5, dtype=object)
  assert hashing.mix((state % _WORD).astype(np.uint64)).tolist() == [
      6457827717110365317,
      3203168211198807973,
      9817491932198370423,
      4593380528125082431,
      16408922859458223821,
  ]


@pytest.mark.parametrize('key', [0, 1, 2**63, 2**64 - 1])
def test_fold_agrees_with_integers(key):
  words = [0, 1, 77, 2**32, 2**64 - 1]
  wanted = [fold_in_integers(key, word) for word in words]
  assert hashing.fold(key, np.array(words, np.uint64)).tolist() == wanted
  assert int(hashing.fold(key, words[2])) == wanted[2]


def test_fold_depends_on_the_order_of_words():
  once = hashing.fold(hashing.fold(5, 1), 2)
  assert once != hashing.fold(hashing.fold(5, 2), 1)


@pytest.mark.parametrize('n', [2, 7, 10, 97])
def test_below_is_uniform(n):
  drawn = hashing.below(hashing.fold(3, np.arange(100_000)), n)
  assert drawn.dtype == np.int64
  counts = np.bincount(drawn, minlength=n)
  assert counts.size == n
  assert stats.chisquare(counts).pvalue > 1e-3


def test_neighbouring_words_are_independent():
  """Pairs of consecutive draws fill a 16 x 16 table evenly."""
  drawn = hashing.below(hashing.fold(0, np.arange(200_001)), 16)
  table = np.bincount(drawn[:-1] * 16 + drawn[1:], minlength=256)
  assert stats.chisquare(table).pvalue > 1e-3


def test_flipping_one_bit_flips_half_of_the_output():
  words = np.arange(2000, dtype=np.uint64)
  for bit in range(0, 64, 7):
    changed = words ^ (np.uint64(1) << np.uint64(bit))
    difference = hashing.fold(9, words) ^ hashing.fold(9, changed)
    share = np.unpackbits(difference.view(np.uint8)).mean()
    assert abs(share - 0.5) < 0.01


def test_permutation_sorts_the_hashes():
  key = 12
  wanted = sorted(range(50), key=lambda i: fold_in_integers(key, i))
  assert hashing.permutation(key, 50).tolist() == wanted
  assert hashing.permutation(key, 0).size == 0


def test_permutations_are_uniform():
  orders = [tuple(hashing.permutation(key, 4)) for key in range(4800)]
  _, counts = np.unique(orders, axis=0, return_counts=True)
  assert counts.size == 24
  assert stats.chisquare(counts).pvalue > 1e-3


def shuffled_in_integers(key, i, n):
  """The Feistel network written from its definition, one element at a time."""
  rows = math.isqrt(n - 1) + 1
  columns = math.ceil(n / rows)

  def scatter(x):
    x = x * 0xBF58476D1CE4E5B9 % _WORD
    x = (x ^ (x >> 32)) * 0x94D049BB133111EB % _WORD
    return x >> 32

  x = (i + fold_in_integers(key, 0) % n) % n
  while True:
    left, right = divmod(x, columns)
    for number in range(1, 7):
      round_key = fold_in_integers(key, number)
      if number % 2:
        left = (left + scatter(right ^ round_key)) % rows
      else:
        right = (right + scatter(left ^ round_key)) % columns
    x = left * columns + right
    if x < n:
      return x


@pytest.mark.parametrize('n', [1, 2, 3, 10, 1000, 10**7, 2**62])
def test_shuffled_agrees_with_integers(n):
  places = sorted({0, 1 % n, n // 3, n // 2, n - 1})
  for key in (0, 5, 2**64 - 1):
    wanted = [shuffled_in_integers(key, i, n) for i in places]
    assert hashing.shuffled(key, places, n).tolist() == wanted


@pytest.mark.parametrize('n', [*range(1, 66), 1000, 4096, 4097, 99_991])
def test_shuffled_is_a_bijection(n):
  order = hashing.shuffled(n, np.arange(n), n)
  assert order.dtype == np.int64
  np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize('n', [2, 5, 12, 97])
def test_shuffled_puts_every_element_everywhere(n):
  orders = hashing.shuffled(np.arange(20_000)[:, None], np.arange(n), n)
  for place in range(min(n, 5)):
    counts = np.bincount(orders[:, place], minlength=n)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_shuffled_neighbours_are_unrelated():
  n = 1000
  orders = hashing.shuffled(np.arange(400)[:, None], np.arange(n), n)
  steps = (orders[:, 1:] - orders[:, :-1]) % n
  counts = np.bincount(steps.ravel(), minlength=n)[1:]
  assert stats.chisquare(counts).pvalue > 1e-3
  # Keys give orders that have nothing in common.
  same = (orders[1:] == orders[:-1]).sum(axis=1)
  assert abs(same.mean() - 1) < 0.2


def test_shuffled_takes_a_key_for_each_place():
  keys, places = np.array([[1], [2]]), np.array([0, 4, 7])
  wanted = [[hashing.shuffled(k, i, 8) for i in places] for k in (1, 2)]
  np.testing.assert_array_equal(hashing.shuffled(keys, places, 8), wanted)


@pytest.mark.parametrize('i,n', [(5, 5), (-1, 5), ([0, 9], 9), (0, 0)])
def test_shuffled_refuses_what_is_out_of_range(i, n):
  with pytest.raises(ValueError, match='must be .* got'):
    hashing.shuffled(0, i, n)
