"""Numbering of count vectors, so that counts take no more bits than they must.

The vectors of L counts >= 0 with sum d correspond to the choices of L-1 bars
among d+L-1 places (counts are the gaps between bars), and those are numbered by
the combinatorial number system.
"""

import math
from collections.abc import Sequence


def number_of_counts(d: int, L: int) -> int:
  """Counts the vectors of `L` counts that add up to `d`.

  Example:
    >>> number_of_counts(10, 3)
    66
  """
  return math.comb(d + L - 1, L - 1)


def rank_of_counts(counts: Sequence[int]) -> int:
  """Computes the number of a count vector, in 0..number_of_counts-1.

  Example:
    >>> rank_of_counts([2, 6, 2])
    38
  """
  rank, before = 0, 0
  for j, count in enumerate(counts[:-1]):
    before += int(count)
    rank += math.comb(before + j, j + 1)
  return rank


def counts_of_rank(rank: int, d: int, L: int) -> list[int]:
  """Computes the count vector that has this number, see `rank_of_counts`.

  Example:
    >>> counts_of_rank(38, 10, 3)
    [2, 6, 2]
  """
  if not 0 <= rank < number_of_counts(d, L):
    raise ValueError(
        f'rank must be in 0..{number_of_counts(d, L) - 1}, got {rank}.'
    )
  bars, top = [], d + L - 1
  for j in range(L - 2, -1, -1):
    # The highest bar that leaves a rank >= 0.
    low, high = j, top
    while high - low > 1:
      middle = (low + high) // 2
      if math.comb(middle, j + 1) <= rank:
        low = middle
      else:
        high = middle
    rank -= math.comb(low, j + 1)
    bars.append(low)
    top = low
  edges = [-1, *reversed(bars), d + L - 1]
  return [b - a - 1 for a, b in zip(edges, edges[1:], strict=False)]
