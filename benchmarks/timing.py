"""Fair timing of alternatives on a machine that others may share."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def interleaved(
    functions: dict[str, Callable],
    repeats: int,
    *,
    wait: Callable[[Any], Any] | None = None,
) -> dict[str, list[float]]:
  """Times functions without arguments in turn, one call each a round.

  A slow spell of the machine then falls on all of them alike. Each is called
  once before, so compilation is not timed.

  Args:
    functions: name to function; what it returns is waited for.
    repeats: rounds, at least 1.
    wait: called with a function's result, returns when it is computed; by
      default `jax.block_until_ready`.

  Returns:
    Name to seconds per call, in the order of the rounds.
  """
  if repeats < 1:
    raise ValueError(f'repeats must be at least 1, got {repeats=}.')
  if wait is None:
    import jax  # Here, since PyTorch is timed where there is no jax.

    wait = jax.block_until_ready
  for function in functions.values():
    wait(function())
  seconds = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      wait(function())
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
  return (
      statistics.median(ratios),
      *_interval(
          statistics.median(draw(ratios, k=len(ratios)))
          for _ in range(resamples)
      ),
  )


def ratio_of_medians(
    a: Sequence[float],
    b: Sequence[float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
  """Median of a over median of b, timed apart, with a 95 % interval.

  Args:
    a: seconds per call.
    b: seconds per call, of another process, say.
    resamples: bootstrap samples, of a and of b independently.
    seed: of the resampling.

  Returns:
    (ratio, low, high).
  """
  if not a or not b:
    raise ValueError(f'a and b must have calls, got {len(a)} and {len(b)}.')
  draw, median = random.Random(seed).choices, statistics.median
  return (
      median(a) / median(b),
      *_interval(
          median(draw(a, k=len(a))) / median(draw(b, k=len(b)))
          for _ in range(resamples)
      ),
  )


def _interval(samples) -> tuple[float, float]:
  ordered = sorted(samples)
  return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered))]
