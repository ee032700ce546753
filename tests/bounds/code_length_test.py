"""Lengths of codes against the published numbers and exact integers."""

import fractions
import itertools
import math

import numpy as np
import pytest

from iblm_jax import bounds
from iblm_jax.bounds import code_length, compositions

SHORT = [0, 1, 1, 2, 1, 0, 1, 1, 2, 1]


def of_counts(counts):
  return np.repeat(np.arange(len(counts)), counts)


def test_elias_codes():
  numbers = [1, 2, 4, 16, 1000, 150000]
  gamma = [bounds.elias_gamma_bits(n) for n in numbers]
  delta = [bounds.elias_delta_bits(n) for n in numbers]
  assert gamma == [1, 3, 5, 9, 19, 35]
  assert delta == [1, 4, 5, 9, 16, 26]


@pytest.mark.parametrize('header', ['gamma', 'delta'])
def test_the_prior_sums_to_one(header):
  # 2^C strings of each length C; lengths within an octave share a header, so
  # the sum up to 2^k - 1 has a closed form, here in exact fractions.
  total = fractions.Fraction(0)
  for octave in range(40):
    C = 1 << octave
    one = fractions.Fraction(1, 1 << (bounds.prefix_bits(C, header) - C))
    last = 2 * C - 1
    assert bounds.prefix_bits(last, header) - last == (
        bounds.prefix_bits(C, header) - C
    )
    total += C * one
  missing = {
      'gamma': fractions.Fraction(1, 1 << 40),
      # Octave k has mass 2^-gamma(k+1): what is missing are the k >= 40.
      'delta': 1 - sum(
          fractions.Fraction(1, 1 << (2 * (k + 1).bit_length() - 1))
          for k in range(40)
      ),
  }
  assert total == 1 - missing[header]
  if header == 'delta':
    assert missing['delta'] < fractions.Fraction(1, 31)


def test_ideal_lengths():
  expected = [13.709506, math.log2(1260), 17.165113, 16.343602]
  got = [bounds.ideal_bits(SHORT, 3, scheme) for scheme in bounds.SCHEMES]
  np.testing.assert_allclose(got, expected, atol=5e-7)
  symbols = of_counts([10, 20, 40, 20, 10])
  assert bounds.ideal_bits(symbols, 5) == pytest.approx(212.192809, abs=5e-7)


@pytest.mark.parametrize(
    'symbols, L, total',
    [
        (SHORT, 3, 75),
        (of_counts([10, 20, 40, 20, 10]), 5, 329),
        (np.ones(100, np.int32), 3, 70),
        (of_counts([2, 0, 4, 2, 2]), 5, 121),
    ],
)
def test_totals_of_the_table(symbols, L, total):
  assert bounds.payload_bits(symbols, L, 'table', 16 * L) == total
  assert bounds.payload_bits(symbols, L, 'table') == total
  assert bounds.payload_bits(symbols, L, 'table', 16) == total - 16 * (L - 1)


def test_enumerative_parts():
  assert bounds.payload_bits(SHORT, 3, 'enumerative', 0) == 11 + 7
  assert compositions.number_of_counts(10, 3) == 66
  assert bounds.payload_bits([1] * 100, 3, 'enumerative', 0) == (
      math.ceil(math.log2(math.comb(102, 2)))
  )


@pytest.mark.parametrize('scheme', bounds.SCHEMES)
@pytest.mark.parametrize('d, L', [(3, 3), (6, 2), (4, 4)])
def test_shannon_lengths_of_all_sequences_satisfy_kraft(scheme, d, L):
  # Exactly: what is decodable has a Kraft sum of at most 1.
  total = fractions.Fraction(0)
  for symbols in itertools.product(range(L), repeat=d):
    bits = bounds.payload_bits(np.array(symbols), L, scheme, 0)
    total += fractions.Fraction(1, 1 << bits)
  assert 0 < total <= 1


def exact_ceil(counts, scheme):
  """Smallest k with 1 <= probability 2^k, from the definition."""
  d, L = sum(counts), len(counts)
  a = {'kt': fractions.Fraction(1, 2), 'laplace': fractions.Fraction(1)}
  p, seen = fractions.Fraction(1), [0] * L
  for symbol in of_counts(counts).tolist():
    done = sum(seen)
    if scheme == 'table':
      p *= fractions.Fraction(counts[symbol], d)
    elif scheme == 'enumerative':
      p *= fractions.Fraction(counts[symbol] - seen[symbol], d - done)
    else:
      p *= (seen[symbol] + a[scheme]) / (done + a[scheme] * L)
    seen[symbol] += 1
  k = 0
  while p * (1 << k) < 1:
    k += 1
  return k


@pytest.mark.parametrize('scheme', bounds.SCHEMES)
def test_rounding_up_is_exact(scheme):
  rng = np.random.default_rng(0)
  # Whole lengths, where float64 cannot decide, and random ones.
  cases = [[4, 4], [8, 4, 2, 2], [1, 1], [16] * 4, [5, 0], [1, 0, 0], [2, 1]]
  for _ in range(40):
    cases.append(rng.integers(0, 30, rng.integers(2, 6)).tolist())
  for counts in filter(sum, cases):
    got = code_length._ceil_bits(counts, scheme)
    assert got == exact_ceil(counts, scheme), counts
    above, below = code_length._EXACT[scheme](counts)
    assert code_length._ceil_log2_of_ratio(above, below) == got


def test_large_vectors_are_exact_without_large_integers():
  counts = [8000, 8000, 4000]
  symbols = of_counts(counts)
  ways = math.factorial(20000) // math.prod(map(math.factorial, counts))
  expected = (ways - 1).bit_length() + (math.comb(20002, 2) - 1).bit_length()
  assert bounds.payload_bits(symbols, 3, 'enumerative', 0) == expected


def test_count_vectors_have_one_number_each():
  for d, L in [(5, 3), (1, 2), (4, 4), (0, 3)]:
    number = compositions.number_of_counts(d, L)
    vectors = [compositions.counts_of_rank(r, d, L) for r in range(number)]
    assert len({tuple(v) for v in vectors}) == number
    assert all(sum(v) == d and min(v) >= 0 for v in vectors)
    assert [compositions.rank_of_counts(v) for v in vectors] == [
        *range(number)
    ]
    for rank in (-1, number):
      with pytest.raises(ValueError, match='rank must be in'):
        compositions.counts_of_rank(rank, d, L)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: bounds.prefix_bits(0), 'C must be an integer >= 1, got 0'),
        (lambda: bounds.prefix_bits(9, 'x'), "header must be one of 'gamma'"),
        (lambda: bounds.elias_gamma_bits(1.5), 'n must be an integer'),
        (lambda: bounds.elias_delta_bits(True), 'n must be an integer'),
        (lambda: bounds.payload_bits([0, 3], 3), r'symbols must be in 0..2'),
        (lambda: bounds.payload_bits([], 3), 'symbols must be a vector'),
        (lambda: bounds.payload_bits([0.5], 3), 'symbols must be a vector'),
        (lambda: bounds.payload_bits([0], 1), 'L must be an integer >= 2'),
        (lambda: bounds.payload_bits([0], 5000), r'L must be .* \[2, 4096\]'),
        (lambda: bounds.ideal_bits([0], 2, 'zip'), 'scheme must be one of'),
        (
            lambda: bounds.payload_bits([0], 2, 'kt', -1),
            'codebook_bits must be an integer >= 0',
        ),
    ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()
