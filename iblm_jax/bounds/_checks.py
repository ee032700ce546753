"""Argument checks of the bounds: one clear ValueError each."""

import math
import numbers
from typing import Any

import numpy as np


def integer(name: str, value: Any, low: int = 1) -> int:
  """`value` as an int if it is a whole number (1e5 is one) of at least `low`.

  NumPy's scalars count, bools do not.
  """
  ok = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not ok or not float(value).is_integer() or value < low:
    raise ValueError(f'{name} must be an integer >= {low}, got {value!r}.')
  # Integers of any size stay exact.
  return value if type(value) is int else int(float(value))


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_ends: bool = False,
) -> float:
  """`value` as a float if it is finite and in [low, high], or (low, high).

  Scalars of NumPy and JAX count; NaN, infinities and bools do not.
  """
  left, right = '()' if open_ends else '[]'
  message = (
      f'{name} must be a finite number in {left}{low:g}, {high:g}{right}, got'
      f' {value!r}.'
  )
  if isinstance(value, bool | str) or np.ndim(value) != 0:
    raise ValueError(message)
  try:
    x = float(value)
  except (TypeError, ValueError):
    raise ValueError(message) from None
  inside = low < x < high if open_ends else low <= x <= high
  if not math.isfinite(x) or not inside:
    raise ValueError(message)
  return x


def probability(name: str, value: Any) -> float:
  """`value` as a float if it lies strictly between 0 and 1."""
  return number(name, value, 0.0, 1.0, open_ends=True)


def positive(name: str, value: Any) -> float:
  """`value` as a float if it is finite and above 0."""
  return number(name, value, 0.0, open_ends=True)


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    listed = ', '.join(repr(c) for c in choices)
    raise ValueError(f'{name} must be one of {listed}, got {value!r}.')


def vector(name: str, values: Any) -> np.ndarray:
  """`values` as a NumPy array [n] of finite real numbers, n >= 1."""
  x = np.asarray(values)
  if x.ndim != 1 or x.size == 0 or x.dtype.kind not in 'fiu':
    raise ValueError(
        f'{name} must be a vector of numbers with at least one entry, got'
        f' shape {x.shape} and dtype {x.dtype}.'
    )
  if not np.isfinite(x).all():
    where = int(np.flatnonzero(~np.isfinite(x))[0])
    raise ValueError(f'{name} must be finite, got {x[where]} at index {where}.')
  return x


def grid(name: str, values: Any) -> np.ndarray:
  """`values` as float64 [S], distinct numbers strictly between 0 and 1."""
  x = vector(name, values).astype(np.float64)
  if not ((0 < x) & (x < 1)).all() or np.unique(x).size != x.size:
    raise ValueError(
        f'{name} must be distinct numbers strictly between 0 and 1, got'
        f' {values!r}.'
    )
  return x


def symbols(values: Any, num_levels: int) -> np.ndarray:
  """`values` as int64 [d], d >= 1, each in 0..num_levels-1."""
  x = np.asarray(values)
  if x.ndim != 1 or x.size == 0 or x.dtype.kind not in 'iu':
    raise ValueError(
        'symbols must be a vector of integers with at least one entry, got'
        f' shape {x.shape} and dtype {x.dtype}.'
    )
  x = x.astype(np.int64)
  if x.min() < 0 or x.max() >= num_levels:
    raise ValueError(
        f'symbols must be in 0..{num_levels - 1} (L={num_levels}), got values'
        f' from {x.min()} to {x.max()}.'
    )
  return x


def levels(value: Any) -> int:
  """L as an int, 2 <= L <= 4096."""
  num_levels = integer('L', value, 2)
  if num_levels > 4096:
    raise ValueError(f'L must be an integer in [2, 4096], got {value!r}.')
  return num_levels
