"""The hash agrees with its definition in plain integers, and looks random."""

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
