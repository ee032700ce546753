"""Argument checks shared by the data package: one clear ValueError each."""

import numbers
from typing import Any


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
  """Returns `value` as an int if it is a whole number in `low..high`."""
  wanted = (
      f'an integer of at least {low}'
      if high is None
      else f'an integer between {low} and {high}'
  )
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise ValueError(f'{name} must be {wanted}, got {value!r}.')
  value = int(value)
  if value < low or (high is not None and value > high):
    raise ValueError(f'{name} must be {wanted}, got {value!r}.')
  return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
  """Returns `value` if it is one of `choices`."""
  if value not in choices:
    raise ValueError(f'{name} must be one of {choices}, got {value!r}.')
  return value


def check_path(name: str, value: Any, endings: tuple[str, ...]) -> str:
  """Returns `value` if it is a path with one of the endings."""
  if not isinstance(value, str) or not value:
    raise ValueError(f'{name} must name a file, got {value!r}.')
  if not value.endswith(endings):
    raise ValueError(
        f'{name} must end in {" or ".join(endings)}, got {value!r}.'
    )
  return value


def check_range(
    name: str, value: Any, low: int, high: int
) -> tuple[int, int]:
  """Returns `value` as a tuple if it is (first, last), `low..high`, ordered."""
  message = (
      f'{name} must be a pair (first, last) with {low} <= first <= last <='
      f' {high}, got {value!r}.'
  )
  if not isinstance(value, tuple | list) or len(value) != 2:
    raise ValueError(message)
  for end in value:
    if isinstance(end, bool) or not isinstance(end, numbers.Integral):
      raise ValueError(message)
  first, last = int(value[0]), int(value[1])
  if not low <= first <= last <= high:
    raise ValueError(message)
  return first, last
