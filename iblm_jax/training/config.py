"""From a ConfigDict to frozen, validated options, and to JSON and back.

Field by field: an unknown name, a wrong type or a value outside its range is
one `ValueError` that gives the path of the field.
"""

import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from iblm_jax import files, tagged
from iblm_jax.data import kinds
from iblm_jax.models import families
from iblm_jax.training import manifest, options, published_start

RunConfig = options.RunConfig


def from_dict(tree: Mapping[str, Any]) -> RunConfig:
  """Builds the options of a run.

  Args:
    tree: A nested mapping with the fields of `RunConfig`; a field left out
      takes its default, and so does a group whose fields all have one. A
      `start` without a workdir or a published model is none. What the files of
      a published model say is filled in, see `published_start.complete`.

  Raises:
    ValueError: A field is bad; the message has its path, its value and what is
      allowed.

  >>> tree = {'model': {'vocab_size': 15}, 'data': {'batch_size': 8},
  ...         'optimizer': {'schedule': {'peak': 0.01}}}
  >>> cfg = from_dict(tree)
  >>> cfg.data.batch_size, from_dict(to_dict(cfg)) == cfg
  (8, True)
  """
  if isinstance(tree, ml_collections.ConfigDict):
    tree = tree.to_dict()
  tree = json.loads(json.dumps(tree, default=list))
  start = tree.get('start')
  if isinstance(start, dict):
    path = start.get('pretrained')
    if path is None and start.get('workdir', '') is None:
      tree['start'] = None  # a config file has its fields, so that flags have
    elif path is None and 'workdir' not in start:
      raise ValueError(
          'config.start.workdir must be given, or config.start.pretrained.'
      )
    elif path and isinstance(path, str) and start.get('sha256') is None:
      tree = published_start.complete(tree, to_dict)
  _add_group(tree.get('data'))
  return build(RunConfig, tree, 'config')


def _add_group(data: Any) -> None:
  """Adds the group of a kind whose options all have defaults."""
  name = data.get('kind') if isinstance(data, dict) else None
  if not isinstance(name, str) or name not in kinds.names():
    return
  if data.get(name) is not None:
    return
  kind = kinds.get(name)
  if kind.default is None and not any(
      field.default is field.default_factory is dataclasses.MISSING
      for field in dataclasses.fields(kind.options)
  ):
    data[name] = {}


def to_dict(cfg: Any) -> dict[str, Any]:
  """Turns options into JSON types, of which `from_dict` makes equal options."""
  return json.loads(json.dumps(_tree(cfg)))


def _tree(value: Any) -> Any:
  """Dataclasses in a value as mappings, with the tags of their classes."""
  if isinstance(value, tuple | list):
    return [_tree(item) for item in value]
  if isinstance(value, Mapping):
    return {name: _tree(item) for name, item in value.items()}
  if not dataclasses.is_dataclass(value):
    return value
  found = {}
  for field in dataclasses.fields(value):
    item, union = getattr(value, field.name), tagged.of(field)
    tree = _tree(item)
    if union is None or (item is None and not union.is_grouped):
      found[field.name] = tree
    elif union.is_grouped:
      found |= {name: _tree(one) for name, one in union.written().items()}
      if item is not None:
        found[union.name_of(item)] = tree
    else:
      name = union.name_of(item)
      if name != union.default and union.tag not in tree:
        tree = {union.tag: name, **tree}
      found[field.name] = tree
  return found


def read_run(workdir: epath.PathLike) -> RunConfig:
  """Reads the config of the run in a folder.

  Raises:
    ValueError: The folder holds no run, or its config cannot be read or has
      changed since the newest checkpoint was written.
  """
  path = epath.Path(workdir) / 'config.json'
  try:
    tree = files.read_object(path)
  except FileNotFoundError:
    raise ValueError(
        f'{workdir} holds no run: there is no {path}.'
    ) from None
  _check_registered(tree, path)
  manifest.check_config(epath.Path(workdir))
  try:
    return from_dict(tree)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _check_registered(tree: Mapping[str, Any], path: epath.Path) -> None:
  """Says what to type where a family or a kind of a run is somebody's own."""
  for group, tag, known in (
      ('model', 'family', families.registered()),
      ('data', 'kind', kinds.names()),
  ):
    options_ = tree.get(group)
    name = options_.get(tag) if isinstance(options_, dict) else None
    if isinstance(name, str) and name not in known:
      raise ValueError(
          f'{path}: {group}.{tag} {name!r} must be one of {tuple(known)}, or'
          ' registered by a module of yours: name it with --plugin=MODULE.'
      )


def check_workdir(cfg: RunConfig, workdir: epath.PathLike) -> None:
  """Makes sure that a workdir, which may be missing, holds this run or none.

  Raises:
    ValueError: It holds a run with another config; the message names what
      differs.
  """
  workdir = epath.Path(workdir)
  if _is_of_checkpoints(cfg, workdir):  # whatever became of config.json
    return
  if not (workdir / 'config.json').exists():
    if (workdir / 'checkpoints').exists():
      raise ValueError(
          f'{workdir} holds checkpoints without a config.json, so they may be'
          ' of another run. Use another workdir.'
      )
    return
  changed = differences(to_dict(read_run(workdir)), to_dict(cfg))
  if changed:
    listing = '; '.join(
        f'{name} is {old!r} there and {new!r} here'
        for name, old, new in changed
    )
    raise ValueError(
        f'{workdir} holds a run with another config: {listing}. Use another'
        ' workdir, or the config of that run to resume it.'
    )


def claim_workdir(cfg: RunConfig, workdir: epath.PathLike) -> bool:
  """Writes config.json, unless it is there and whole; says whether it did."""
  workdir = epath.Path(workdir)
  path = workdir / 'config.json'
  is_new = not path.exists()
  if _is_of_checkpoints(cfg, workdir):
    is_new = manifest.digest(workdir) != manifest.config_of(workdir)
  if is_new:
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_json(path, to_dict(cfg))
  return is_new


def _is_of_checkpoints(cfg: RunConfig, workdir: epath.Path) -> bool:
  """Whether the newest checkpoint there says that it is of this config."""
  return manifest.config_of(workdir) == manifest.digest_of(to_dict(cfg))


def disclaim_workdir(workdir: epath.PathLike) -> None:
  """Deletes what claims it, unless updates were made: nothing is to resume."""
  workdir = epath.Path(workdir)
  metrics = workdir / 'metrics.jsonl'
  lines = metrics.read_bytes().splitlines() if metrics.exists() else []
  if not (workdir / 'checkpoints').exists() and all(
      line.startswith(b'{"step": 0,') for line in lines
  ):
    for name in ('config.json', 'data.json', 'start.json'):
      (workdir / name).unlink(missing_ok=True)


def differences(
    old: Any, new: Any, path: str = 'config'
) -> list[tuple[str, Any, Any]]:
  """Fields that differ between two trees from `to_dict`: (path, old, new)."""
  if isinstance(old, dict) and isinstance(new, dict):
    found = []
    for name in sorted(old.keys() | new.keys()):
      found += differences(old.get(name), new.get(name), f'{path}.{name}')
    return found
  return [] if old == new else [(path, old, new)]


def build(cls: type, tree: Any, path: str) -> Any:
  """Builds options of a class from JSON; ValueError names path and value."""
  _check_group(tree, path)
  hints = _hints(cls)
  for name in tree:
    if name not in hints:
      raise ValueError(
          f'{path}.{name} is not a field; {path} has {", ".join(hints)}.'
      )
  values = {
      name: _convert(hints[name], value, f'{path}.{name}')
      for name, value in tree.items()
  }
  for field in dataclasses.fields(cls):
    union = tagged.of(field)
    if union is not None and union.is_grouped:
      groups = {name: values.pop(name, None) for name in union.choices()}
      chosen = values.get(union.tag, getattr(cls, union.tag, union.default))
      values[field.name] = groups.get(chosen)
  missing = [
      field.name
      for field in dataclasses.fields(cls)
      if field.name not in values
      and field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise ValueError(f'{path}.{missing[0]} must be given.')
  try:
    return cls(**values)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _check_group(tree: Any, path: str) -> None:
  if not isinstance(tree, Mapping):
    raise ValueError(f'{path} must be a group of fields, got {tree!r}.')


def _hints(cls: type) -> dict[str, Any]:
  """What each name in a tree of the class holds: a type or a union."""
  hints, found = typing.get_type_hints(cls), {}
  for field in dataclasses.fields(cls):
    union = tagged.of(field)
    if union is not None and union.is_grouped:
      found |= {name: kind | None for name, kind in union.choices().items()}
    else:
      found[field.name] = union or hints[field.name]
  return found


def _convert(hint: Any, value: Any, path: str) -> Any:
  """Checks a JSON value against a type and returns it as that type."""
  if isinstance(hint, tagged.Union):
    if value is None and hint.may_be_none:
      return None
    return _build_tagged(hint, value, path)
  if dataclasses.is_dataclass(hint):
    return build(hint, value, path)
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return _tuples(value)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in args:
      return None
    kinds = [arg for arg in args if arg is not type(None)]
    errors = []
    for kind in kinds:
      try:
        return _convert(kind, value, path)
      except ValueError as error:
        errors.append(error)
    raise errors[0]
  if origin is typing.Literal:
    if value not in args:
      raise ValueError(f'{path} must be one of {args}, got {value!r}.')
    return value
  if origin in (tuple, list) or hint is tuple:
    if isinstance(value, str):  # as flags give a list of names
      value = value.split(',')
    if not isinstance(value, list):
      raise ValueError(f'{path} must be a list, got {value!r}.')
    return _tuples(value)
  if origin is not None and issubclass(origin, Mapping):
    _check_group(value, path)
    return value
  return _scalar(hint, value, path)


def _build_tagged(union: tagged.Union, value: Any, path: str) -> Any:
  """The class of a union that the tag among the fields of a tree names."""
  _check_group(value, path)
  choices, name = union.choices(), value.get(union.tag, union.default)
  if not isinstance(name, str) or name not in choices:
    raise ValueError(
        f'{path}.{union.tag} must be one of {tuple(choices)}, got {name!r}.'
    )
  if union.tag not in _hints(choices[name]):
    value = {k: v for k, v in value.items() if k != union.tag}
  return build(choices[name], value, path)


def _scalar(hint: type, value: Any, path: str) -> Any:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if hint is float and is_number:
    with contextlib.suppress(OverflowError):  # an integer past all floats
      return float(value)
  if hint is int and is_number and value == value // 1:  # infinity is not
    return int(value)
  if hint in (bool, str) and isinstance(value, hint):
    return value
  raise ValueError(f'{path} must be of type {hint.__name__}, got {value!r}.')


def _tuples(value: Any) -> Any:
  if isinstance(value, list):
    return tuple(_tuples(item) for item in value)
  return value
