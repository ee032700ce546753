"""Counter-based random numbers: a 64-bit hash of what is to be drawn.

A draw is a function of the words that name it (seed, example, attempt, ...),
so that any example can be made alone, in any order and by any process. The
arithmetic is fixed here, hence the same in every NumPy release; streams of
`numpy.random.Generator` are not promised to be.
"""

import math

import numpy as np
import numpy.typing as npt

from iblm_jax.data import _checks

# SplitMix64: the increment is the odd integer nearest to 2**64 / golden ratio.
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)

# Rounds of the Feistel network; four make it look random, and the others are
# for domains of a few elements.
_ROUNDS = 6


def mix(x: npt.ArrayLike) -> np.ndarray:
  """Takes a step of SplitMix64: a bijection of words that looks random.

  Args:
    x: Whole numbers in 0..2**64-1, any shape.

  Returns:
    The number that a SplitMix64 generator in state `x` gives next, uint64.

  Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators
  (OOPSLA 2014), finaliser of section 5, David Stafford's variant 13.

  >>> int(mix(1234567))
  6457827717110365317
  """
  x = np.asarray(x, np.uint64)
  # Wrap-around is what is wanted; NumPy warns of it for scalars.
  with np.errstate(over='ignore'):
    x = x + _INCREMENT
    x ^= x >> np.uint64(30)
    x *= _MULTIPLIER_1
    x ^= x >> np.uint64(27)
    x *= _MULTIPLIER_2
    x ^= x >> np.uint64(31)
  return x


def fold(key: npt.ArrayLike, word: npt.ArrayLike) -> np.ndarray:
  """Returns the key of the draw called `word` among the draws of `key`.

  Both are whole numbers in 0..2**64-1 of shapes that broadcast; the result is
  uint64. For a fixed `key` different words give different results.

  >>> int(fold(0, 0)) != int(fold(0, 1)) != int(fold(1, 0))
  True
  """
  # The word, not the key, is mixed first: it is mostly the smaller array.
  return mix(np.asarray(key, np.uint64) ^ mix(word))


def below(key: npt.ArrayLike, n: npt.ArrayLike) -> np.ndarray:
  """Draws uniform whole numbers in 0..n-1, int64.

  The keys, uint64, and `n`, at least 1, broadcast. The probability of a value
  is off by at most a factor 1 + n / 2**64.

  >>> 0 <= int(below(mix(7), 10)) < 10
  True
  """
  drawn = np.asarray(key, np.uint64) % np.asarray(n, np.uint64)
  return drawn.astype(np.int64)


def permutation(key: npt.ArrayLike, n: int) -> np.ndarray:
  """Returns a random order of 0..n-1, int64 [n], for a scalar key.

  >>> sorted(permutation(3, 4).tolist())
  [0, 1, 2, 3]
  """
  return np.argsort(fold(key, np.arange(n, dtype=np.uint64)), kind='stable')


def shuffled(key: npt.ArrayLike, i: npt.ArrayLike, n: int) -> np.ndarray:
  """Returns elements of a random order of 0..n-1 that is never made whole.

  Time and memory do not grow with `n`, unlike those of `permutation`, which is
  another order.

  Args:
    key: The keys of the orders, whole numbers in 0..2**64-1, any shape.
    i: Places in the order, each in 0..n-1; broadcasts with `key`.
    n: How many elements, 1..2**62.

  Returns:
    int64. For a fixed `key`, the elements at the places 0..n-1 are 0..n-1, each
    once.

  Raises:
    ValueError: `n` or a place is out of its range.

  Source: Black and Rogaway, Ciphers with arbitrary finite domains (CT-RSA
  2002), generalised Feistel network with cycle walking.

  >>> sorted(shuffled(3, range(5), 5).tolist())
  [0, 1, 2, 3, 4]
  """
  n = _checks.check_int('n', n, 1, 2**62)
  key, x = np.broadcast_arrays(
      np.asarray(key, np.uint64), np.asarray(i, np.int64)
  )
  if ((x < 0) | (x >= n)).any():
    raise ValueError(f'i must be between 0 and {n - 1}, got {i!r}.')
  shape = x.shape
  key, x = key.ravel(), x.ravel().astype(np.uint64)
  # Pairs (left, right) of `rows` x `columns` elements: n and less than
  # sqrt(n) + 1 more, so that hardly an element has to walk on.
  rows = math.isqrt(n - 1) + 1
  sizes = np.uint64(rows), np.uint64(-(-n // rows))
  keys = fold(key, np.arange(_ROUNDS + 1, dtype=np.uint64)[:, None])
  turn, round_keys = keys[0], keys[1:]
  # The turn makes each element equally likely at each place for any n; rounds
  # on a domain of a few elements leave some bias.
  x = _feistel((x + turn % np.uint64(n)) % np.uint64(n), round_keys, *sizes)
  # Walking along a cycle of the larger permutation until it is back inside
  # gives a permutation of the elements inside.
  while (outside := np.flatnonzero(x >= n)).size:
    x[outside] = _feistel(x[outside], round_keys[:, outside], *sizes)
  return x.astype(np.int64).reshape(shape)


def _feistel(
    x: np.ndarray, round_keys: np.ndarray, rows: np.uint64, columns: np.uint64
) -> np.ndarray:
  """Permutes 0..rows*columns-1; `round_keys` is of shape [rounds, x.size]."""
  left, right = x // columns, x % columns
  for number, round_key in enumerate(round_keys):
    # Each half moves by an amount that depends on the other one only, so that
    # every round can be undone.
    if number % 2:
      right = (right + _scatter(left ^ round_key)) % columns
    else:
      left = (left + _scatter(right ^ round_key)) % rows
  return left * columns + right


def _scatter(x: np.ndarray) -> np.ndarray:
  """Words of 32 bits that look random: a shorter `mix`, for the rounds."""
  x = x * _MULTIPLIER_1
  x ^= x >> np.uint64(32)
  x *= _MULTIPLIER_2
  return x >> np.uint64(32)
