"""Fields of options that carry their range, and the one check of them.

A dataclass of options says beside each field what it may hold, and checks all
of them at once:

  @dataclasses.dataclass(frozen=True)
  class LoopConfig:
    num_steps: int = fields.field(1000, low=1)

    def __post_init__(self):
      fields.check(self)

`--help_config` reads the same ranges. Needs nothing but Python.
"""

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable
from typing import Any

_KEY = 'range'


@dataclasses.dataclass(frozen=True)
class Range:
  """Values that a field may hold, beyond being of its type.

  None is allowed where the type allows it. In a tuple, the limits hold for each
  item.

  Attributes:
    low: The smallest value.
    high: The largest value.
    above: Values are larger than this.
    below: Values are smaller than this.
    choices: The only values.
    also: Values outside the limits that are allowed too.
    finite: Whether infinities are refused. NaN always is.
    distinct: Whether the items of a tuple differ from each other.
    least: The smallest number of items of a tuple.
    allowed: Says all of this in words of its own, for messages and lists.
  """

  low: float | None = None
  high: float | None = None
  above: float | None = None
  below: float | None = None
  choices: tuple[Any, ...] = ()
  also: tuple[Any, ...] = ()
  finite: bool = True
  distinct: bool = False
  least: int = 0
  allowed: str = ''

  def holds(self, value: Any) -> bool:
    """Whether the range holds a value of the field's type."""
    if value is None:
      return True
    if isinstance(value, tuple | list):
      if len(value) < self.least:
        return False
      if self.distinct and len(set(value)) < len(value):
        return False
      item = dataclasses.replace(self, distinct=False, least=0)
      return all(map(item.holds, value))
    if value in self.also:
      return True
    if self.choices:
      return value in self.choices
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
      return True
    value = value if isinstance(value, int) else float(value)
    return (
        not math.isnan(value)
        and not (self.finite and math.isinf(value))
        and (self.low is None or value >= self.low)
        and (self.high is None or value <= self.high)
        and (self.above is None or value > self.above)
        and (self.below is None or value < self.below)
    )

  def words(self, hint: Any = Any) -> str:
    """Describes the range to a person; empty if it says nothing.

    Args:
      hint: The type of the field.

    >>> Range(low=1, also=(-1,)).words(int)
    '>= 1, or -1'
    >>> Range(above=0).words(float | None)
    'finite and > 0'
    >>> Range(low=2, high=9, distinct=True).words(tuple[int, ...])
    'distinct, each between 2 and 9'
    """
    if self.allowed:
      return self.allowed
    text = self._limits()
    if not text and float in _leaves(hint):
      text = 'finite' if self.finite else 'a number'
    # An upper limit says that a number is finite; an integer always is.
    elif self.finite and float in _leaves(hint) and not self.choices:
      if self.high is None and self.below is None:
        text = f'finite and {text}'
    if self.also:
      text += f', or {" or ".join(map(repr, self.also))}'
    if any(typing.get_origin(kind) is tuple for kind in _members(hint)):
      text = ', '.join(
          part for part in (
              'distinct' if self.distinct else '',
              f'at least {self.least}' if self.least else '',
              f'each {text}' if text else '',
          ) if part
      )
    return text

  def _limits(self) -> str:
    if self.choices:
      return f'one of {self.choices}'
    if self.low is not None and self.high is not None:
      return f'between {self.low} and {self.high}'
    if self.above is not None and self.below is not None:
      return f'strictly between {self.above} and {self.below}'
    return ' and '.join(
        f'{sign} {limit}'
        for sign, limit in (
            ('>=', self.low), ('>', self.above),
            ('<=', self.high), ('<', self.below),
        )
        if limit is not None
    )


def field(
    default: Any = dataclasses.MISSING,
    *,
    factory: Callable[[], Any] | Any = dataclasses.MISSING,
    hash: bool | None = None,
    **limits: Any,
) -> Any:
  """Makes a dataclass field with a range.

  Args:
    default: The default value; left out, the field must be given.
    factory: Makes the default where it is mutable.
    hash: As of `dataclasses.field`.
    **limits: The attributes of `Range`.

  Returns:
    What `dataclasses.field` returns.
  """
  return dataclasses.field(
      default=default,
      default_factory=factory,
      hash=hash,
      metadata={_KEY: Range(**limits)},
  )


def check(options: Any) -> None:
  """Checks type and range of every field of a dataclass instance.

  Raises:
    ValueError: For the first field that holds something else, with its name,
      its value and what is allowed.

  Example:
    >>> @dataclasses.dataclass
    ... class Options:
    ...   steps: int = field(10, low=1)
    ...   def __post_init__(self):
    ...     check(self)
    >>> Options(steps=0)
    Traceback (most recent call last):
    ValueError: steps must be >= 1, got 0.
    >>> Options(steps='many')
    Traceback (most recent call last):
    ValueError: steps must be of type int, got 'many'.
  """
  hints = type_hints(type(options))
  for one in dataclasses.fields(options):
    value, hint = getattr(options, one.name), hints[one.name]
    allowed = range_of(one)
    if not _fits(value):
      raise ValueError(f'{one.name} must fit into 64 bits, got {value!r:.80}.')
    if not _is_of(value, hint) and not allowed.allowed:
      raise ValueError(
          f'{one.name} must be of type {type_words(hint)}, got {value!r}.'
      )
    if not _is_of(value, hint) or not allowed.holds(value):
      raise ValueError(
          f'{one.name} must be {allowed.words(hint)}, got {value!r}.'
      )


def range_of(one: dataclasses.Field) -> Range:
  """Returns the range of a dataclass field: all values if it names none."""
  return one.metadata.get(_KEY, Range(finite=False))


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
  """Returns the types of a dataclass's fields by name."""
  return typing.get_type_hints(cls)


def type_words(hint: Any) -> str:
  """Names a type to a person.

  >>> type_words(tuple[int, ...] | None)
  'tuple of int or None'
  """
  members = _members(hint)
  if len(members) > 1:
    return ' or '.join(map(type_words, members))
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is type(None):
    return 'None'
  if origin is typing.Literal:
    return ' or '.join(map(repr, args))
  if origin in (tuple, list):
    inside = ', '.join(type_words(arg) for arg in args if arg is not ...)
    return f'{origin.__name__} of {inside}' if args else origin.__name__
  if origin is not None:
    return getattr(origin, '__name__', str(origin)).lower()
  return getattr(hint, '__name__', str(hint))


def _members(hint: Any) -> tuple[Any, ...]:
  """The types of a union, or the one type."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return typing.get_args(hint)
  return (hint,)


def _leaves(hint: Any) -> set[Any]:
  """The types that a hint is made of."""
  args = typing.get_args(hint)
  return set().union(*map(_leaves, args)) if args else {hint}


def _fits(value: Any) -> bool:
  """Whether integers are of 64 bits, signed."""
  if isinstance(value, tuple | list):
    return all(map(_fits, value))
  return not isinstance(value, int) or -(2**63) <= value < 2**63


_SCALARS = {int: numbers.Integral, float: numbers.Real}


def _is_of(value: Any, hint: Any) -> bool:
  """Whether a value is of a type; True where the type cannot be told."""
  members = _members(hint)
  if len(members) > 1:
    return any(_is_of(value, member) for member in members)
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint in _SCALARS:
    return not isinstance(value, bool) and isinstance(value, _SCALARS[hint])
  if origin is typing.Literal:
    return value in args
  if origin is tuple:
    if not isinstance(value, tuple | list):
      return False
    if len(args) == 2 and args[1] is ...:
      return all(_is_of(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(_is_of, value, args))
  kind = origin or hint
  if kind is Any or not isinstance(kind, type):
    return True
  return getattr(kind, '_is_protocol', False) or isinstance(value, kind)
