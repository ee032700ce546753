"""Fields that hold one of several dataclasses, named by a tag in config trees.

A tree says in one of two ways which class it means. For models the tag stands
among the fields of the class: `{'family': 'memory', 'length': 64, ...}`. For
data it stands beside a group of its own value: `{'kind': 'text', 'text':
{'paths': ...}}`. `iblm_jax.config` reads and writes both.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

_KEY = 'tagged'


@dataclasses.dataclass(frozen=True)
class Union:
  """The classes that a field may hold, and how a tree names them.

  Attributes:
    tag: Name of the field whose value names the class.
    choices: Returns the dataclass of every name. It is called whenever a tree
      is read or written, so that classes registered meanwhile are found.
    default: The name that a tree without the tag means, None where the class
      that holds the field has a default. A tag among the fields is written for
      the other names only.
    is_grouped: False where the tag stands among the fields of the class, True
      where it is a field beside the groups.
    may_be_none: Whether a tree may hold null instead, as where the default of
      the field is None.
    written: Returns the trees of the groups that are always written, by name,
      as they are where another one is chosen.
  """

  tag: str
  choices: Callable[[], Mapping[str, type]]
  default: str | None = None
  is_grouped: bool = False
  may_be_none: bool = False
  written: Callable[[], Mapping[str, Any]] = dict

  def name_of(self, value: Any) -> str:
    """Returns the name of the class of a value."""
    return next(k for k, cls in self.choices().items() if type(value) is cls)


def field(union: Union, **options: Any) -> Any:
  """Declares a field of a dataclass that holds one class of a union.

  The options are those of `dataclasses.field`.

  >>> union = Union('shape', lambda: {'any': Union})
  >>> @dataclasses.dataclass
  ... class Config:
  ...   part: object = field(union)
  >>> of(dataclasses.fields(Config)[0]) is union
  True
  """
  if options.get('default', ...) is None:
    union = dataclasses.replace(union, may_be_none=True)
  metadata = {**options.pop('metadata', {}), _KEY: union}
  return dataclasses.field(metadata=metadata, **options)


def of(field: dataclasses.Field) -> Union | None:
  """Returns the union of a field, None for a field of another type."""
  return field.metadata.get(_KEY)
