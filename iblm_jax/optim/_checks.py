"""Argument checks shared by the options of this package."""

import math
from typing import Any


def integer(name: str, value: Any, minimum: int) -> None:
  """Raises ValueError unless `value` is an int of at least `minimum`."""
  is_int = isinstance(value, int) and not isinstance(value, bool)
  if not is_int or value < minimum:
    raise ValueError(f'{name} must be an int >= {minimum}, got {value!r}.')


def number(
    name: str,
    value: Any,
    allowed: str,
    *,
    low: float = 0.0,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = True,
) -> None:
  """Raises ValueError unless `value` is in the interval `allowed` names."""
  ok = isinstance(value, int | float) and not isinstance(value, bool)
  ok = ok and (value > low if low_open else value >= low)
  ok = ok and (value < high if high_open else value <= high)
  if not ok:
    raise ValueError(f'{name} must be {allowed}, got {value!r}.')


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    listed = ', '.join(repr(c) for c in choices)
    raise ValueError(f'{name} must be one of {listed}, got {value!r}.')
