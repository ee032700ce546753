"""Numbers of bits that a vector of symbols takes, without writing it.

They are for planning and comparison; a certificate is charged for the bytes
that `iblm_jax.bounds.coding` writes. Decoders know d, L and the scheme.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from iblm_jax.bounds import _checks, compositions

Scheme = Literal['table', 'enumerative', 'kt', 'laplace']
SCHEMES = ('table', 'enumerative', 'kt', 'laplace')
_FLOAT16_BITS = 16


def elias_gamma_bits(n: int) -> int:
  """Counts the bits of the Elias gamma code of n >= 1, 2 floor(log2 n) + 1.

  Example:
    >>> [elias_gamma_bits(n) for n in (1, 2, 1000, 150_000)]
    [1, 3, 19, 35]
  """
  return 2 * _checks.integer('n', n).bit_length() - 1


def elias_delta_bits(n: int) -> int:
  """Counts the bits of the Elias delta code of an integer n >= 1.

  It is the gamma code of the number of binary digits, then the digits but the
  first.

  Example:
    >>> [elias_delta_bits(n) for n in (1, 2, 1000, 150_000)]
    [1, 4, 16, 26]
  """
  digits = _checks.integer('n', n).bit_length()
  return digits - 1 + elias_gamma_bits(digits)


def prefix_bits(
    C: int, header: Literal['gamma', 'delta'] = 'gamma'
) -> int:
  """Counts the bits of a string of C >= 1 bits after an Elias code of C.

  No such string begins another, and 2^-length summed over all strings is
  exactly 1, for both headers: the mass of a prior. Which header is used must be
  fixed beforehand; 'delta' is the shorter one from 32 bits on (equal lengths
  aside), 'gamma' the one that published numbers use.

  Example:
    >>> prefix_bits(2000), prefix_bits(2000, 'delta')
    (2021, 2017)
  """
  C = _checks.integer('C', C)
  _checks.choice('header', header, ('gamma', 'delta'))
  lengths = {'gamma': elias_gamma_bits, 'delta': elias_delta_bits}
  return C + lengths[header](C)


def ideal_bits(symbols: np.ndarray, L: int, scheme: Scheme = 'table') -> float:
  """Computes -log2 of the probability that a scheme gives to the symbols.

  With counts c_j, j < L, that sum to d:

  * 'table': d times the empirical entropy; the counts come extra.
  * 'enumerative': log2 of the number of sequences with these counts; the counts
    come extra.
  * 'kt', 'laplace': the next symbol is j with probability (c_j + a)/(i + a L)
    after i symbols, a = 1/2 and a = 1; nothing comes extra.

  Args:
    symbols: [d] integers in 0..L-1.
    L: Number of levels, 2..4096.
    scheme: One of the above.

  Example:
    >>> symbols = [0, 1, 1, 2, 1, 0, 1, 1, 2, 1]
    >>> [round(ideal_bits(symbols, 3, scheme), 6) for scheme in SCHEMES]
    [13.709506, 10.299208, 17.165113, 16.343602]
  """
  bits, _ = _estimate(_counts(symbols, L, scheme), scheme)
  return bits


def payload_bits(
    symbols: np.ndarray,
    L: int,
    scheme: Scheme = 'table',
    codebook_bits: int | None = None,
) -> int:
  """Computes the bits of symbols, counts and codebook, an exact integer.

  * 'table': ceil(ideal) + 1 bits of symbols (arithmetic code) and L counts of
    ceil(log2(d+1)) bits.
  * 'enumerative': the index of the sequence among those with its counts and the
    index of the counts, each of ceil(log2(number)) bits.
  * 'kt', 'laplace': ceil(ideal) + 1 bits.

  Args:
    symbols, L, scheme: As for `ideal_bits`.
    codebook_bits: Bits of the whole codebook; None for L entries of float16. A
      uniform step takes 16.

  Returns:
    Bits. Rounding up is decided in integers where float64 leaves a doubt (for
    d > 2^20 a doubtful case is rounded up, never down).

  Example:
    >>> symbols = [0, 1, 1, 2, 1, 0, 1, 1, 2, 1]
    >>> [payload_bits(symbols, 3, scheme, 48) for scheme in SCHEMES]
    [75, 66, 67, 66]
  """
  counts = _counts(symbols, L, scheme)
  L, d = len(counts), sum(counts)
  if codebook_bits is None:
    codebook_bits = _FLOAT16_BITS * L
  bits = _checks.integer('codebook_bits', codebook_bits, 0)
  bits += _ceil_bits(counts, scheme)
  if scheme == 'enumerative':
    return bits + ceil_log2(compositions.number_of_counts(d, L))
  if scheme == 'table':
    bits += L * d.bit_length()
  return bits + 1


def ceil_log2(n: int) -> int:
  """Bits that suffice to number n >= 1 things.

  Example:
    >>> [ceil_log2(n) for n in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
  """
  return (n - 1).bit_length()


def _counts(symbols, L, scheme):
  L = _checks.levels(L)
  _checks.choice('scheme', scheme, SCHEMES)
  return np.bincount(_checks.symbols(symbols, L), minlength=L).tolist()


def _ceil_bits(counts, scheme):
  """Exact ceil of the ideal length."""
  bits, error = _estimate(counts, scheme)
  low, high = math.ceil(bits - error), math.ceil(bits + error)
  if low == high or sum(counts) > 1 << 20:
    return high
  return _ceil_log2_of_ratio(*_EXACT[scheme](counts))


def _estimate(counts, scheme):
  """Ideal bits and a bound on the rounding error."""
  d, L = sum(counts), len(counts)
  lgamma = math.lgamma
  if scheme == 'table':
    parts = [c * math.log(d / c) for c in counts if c]
  else:
    parts = [-lgamma(c + 1) for c in counts] + [lgamma(d + 1)]
    if scheme == 'laplace':
      parts += [lgamma(d + L), -lgamma(L), -lgamma(d + 1)]
    elif scheme == 'kt':
      parts = [lgamma(0.5) - lgamma(c + 0.5) for c in counts]
      parts += [lgamma(d + L / 2), -lgamma(L / 2)]
  error = 1e-14 * sum(map(abs, parts)) + 1e-300
  return max(math.fsum(parts), 0.0) / math.log(2), error / math.log(2)


def _table(counts):
  return sum(counts) ** sum(counts), math.prod(c**c for c in counts)


def _enumerative(counts):
  return math.factorial(sum(counts)), math.prod(map(math.factorial, counts))


def _laplace(counts):
  above, below = _enumerative(counts)
  numbers = compositions.number_of_counts(sum(counts), len(counts))
  return above * numbers, below


def _kt(counts):
  d, L = sum(counts), len(counts)
  odd = lambda c: math.factorial(2 * c) // (math.factorial(c) << c)
  return math.prod(range(L, L + 2 * d, 2)), math.prod(map(odd, counts))


_EXACT: dict[str, Callable[[list[int]], tuple[int, int]]] = {
    'table': _table,
    'enumerative': _enumerative,
    'laplace': _laplace,
    'kt': _kt,
}


def _ceil_log2_of_ratio(above, below):
  """Smallest k >= 0 with above <= below 2^k, for above >= below."""
  k = max(above.bit_length() - below.bit_length() - 1, 0)
  while above > below << k:
    k += 1
  return k
