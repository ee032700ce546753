"""Fair timing of alternatives on a machine that others may share."""

import random
import statistics
import time
from collections.abc import Callable, Sequence

import jax


def interleaved(
    functions: dict[str, Callable], repeats: int
) -> dict[str, list[float]]:
  """Times functions without arguments in turn, one call each a round.

  A slow spell of the machine then falls on all of them alike. Each is called
  once before, so compilation is not timed.

  Args:
    functions: name to function; what it returns is waited for.
    repeats: rounds, at least 1.

  Returns:
    Name to seconds per call, in the order of the rounds.
  """
  if repeats < 1:
    raise ValueError(f'repeats must be at least 1, got {repeats=}.')
  for function in functions.values():
    jax.block_until_ready(function())
  seconds = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      seconds[name].append(time.perf_counter() - start)
  return seconds


def median_ratio(
    a: Sequence[float],
    b: Sequence[float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
  """Median of a_i / b_i over rounds, with a 95 % bootstrap interval.

  Args:
    a: seconds per round, from `interleaved`.
    b: seconds of the same rounds.
    resamples: bootstrap samples of the rounds.
    seed: of the resampling.

  Returns:
    (median, low, high).
  """
  if len(a) != len(b) or not a:
    raise ValueError(
        f'a and b must have the same rounds, got {len(a)} and {len(b)}.'
    )
  ratios = [x / y for x, y in zip(a, b, strict=True)]
  draw = random.Random(seed).choices
  medians = sorted(
      statistics.median(draw(ratios, k=len(ratios))) for _ in range(resamples)
  )
  low, high = medians[int(0.025 * resamples)], medians[int(0.975 * resamples)]
  return statistics.median(ratios), low, high
