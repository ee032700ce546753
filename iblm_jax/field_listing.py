"""Every field of options for a person: type, value, range and description."""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from iblm_jax import fields, tagged


class Entry(NamedTuple):
  """A name in a config tree.

  Attributes:
    name: The name.
    field: The dataclass field, None for a tag that a union adds.
    value: What the tree holds, or the default; `MISSING` where there is none.
    group: The dataclass of a group of fields, None for a single value.
    hint: The type of a single value.
    allowed: The range of a single value, in words.
  """

  name: str
  field: dataclasses.Field | None
  value: Any
  group: type | None = None
  hint: Any = str
  allowed: str = ''


def entries(cls: type, tree: Mapping[str, Any]) -> Iterator[Entry]:
  """Yields every name that a config tree of a dataclass may have.

  Args:
    cls: The dataclass.
    tree: The values that are not the defaults. It chooses among dataclasses. A
      group that is None by default is one only where the tree has it.

  Raises:
    ValueError: If the tree names a choice that does not exist.
  """
  tags = {
      union.tag: f'one of {tuple(union.choices())}'
      for union in map(tagged.of, dataclasses.fields(cls))
      if union is not None and union.is_grouped
  }
  for field in dataclasses.fields(cls):
    hint, default = fields.type_hints(cls)[field.name], field.default
    if field.default_factory is not dataclasses.MISSING:
      default = field.default_factory()
    union, name = tagged.of(field), field.name
    if union is None:
      value = tree.get(name, default)
      group = group_of(hint)
      if group is not None and value is not None:
        yield Entry(name, field, value, group)
      else:
        allowed = fields.range_of(field).words(hint) if field.metadata else ''
        yield Entry(name, field, value, None, hint, tags.get(name, allowed))
      continue
    choices = union.choices()
    holder = tree if union.is_grouped else _tree(tree.get(name, default))
    fallback = getattr(cls, union.tag, union.default)
    chosen = holder.get(union.tag, fallback)
    if chosen not in choices:
      raise ValueError(
          f'{union.tag} must be one of {tuple(choices)}, got {chosen!r}.'
      )
    if union.is_grouped:
      name = chosen
    else:
      said = f'one of {tuple(choices)}'
      yield Entry(f'{name}.{union.tag}', None, chosen, None, str, said)
    yield Entry(name, field, tree.get(name, {}), choices[chosen])


def group_of(hint: Any) -> Any:
  """Returns the dataclass that a type is, or is one of; None for none.

  >>> group_of(fields.Range | None).__name__
  'Range'
  """
  members = (hint, *typing.get_args(hint))
  return next(filter(dataclasses.is_dataclass, members), None)


def lines(cls: type, tree: Mapping[str, Any], path: str) -> list[str]:
  """Describes every field of a dataclass and of the groups inside it.

  Args:
    cls: The dataclass.
    tree: See `entries`.
    path: What the names of fields begin with.

  Returns:
    For each field `--NAME=VALUE  TYPE, RANGE`, and its description.

  Raises:
    ValueError: See `entries`.

  >>> @dataclasses.dataclass
  ... class Options:
  ...   '''Options of a walk.
  ...
  ...   Attributes:
  ...     steps: Its length.
  ...   '''
  ...   steps: int = fields.field(3, low=1)
  >>> lines(Options, {'steps': 5}, 'config')
  ['--config.steps=5  int, >= 1', '    Its length.']
  """
  found, texts = [], descriptions(cls)
  for entry in entries(cls, tree):
    name, value = f'{path}.{entry.name}', entry.value
    if entry.group is not None:
      found += lines(entry.group, _tree(value), name)
      continue
    shown = 'REQUIRED' if value is dataclasses.MISSING else repr(value)
    kind = fields.type_words(entry.hint)
    allowed = f', {entry.allowed}' if entry.allowed else ''
    found.append(f'--{name}={shown}  {kind}{allowed}')
    found += textwrap.wrap(
        texts.get(entry.name, ''),
        76,
        initial_indent='    ',
        subsequent_indent='    ',
    )
  return found


def descriptions(cls: type) -> dict[str, str]:
  """Reads the `Attributes:` of a dataclass's docstring, by name.

  >>> descriptions(Entry)['hint']
  'The type of a single value.'
  """
  text = inspect.cleandoc(cls.__doc__ or '')
  block = re.search(r'^Attributes:\n((?:  .*\n|\n)*)', f'{text}\n', re.M)
  found = re.findall(
      r'^  (\w+): (.*(?:\n    .*)*)', block[1] if block else '', re.M
  )
  return {name: ' '.join(said.split()) for name, said in found}


def _tree(value: Any) -> Mapping[str, Any]:
  """The fields of a group: a mapping, an instance, or none of them given."""
  if isinstance(value, Mapping):
    return value
  if not dataclasses.is_dataclass(value):
    return {}
  names = [one.name for one in dataclasses.fields(value)]
  return {name: getattr(value, name) for name in names}
