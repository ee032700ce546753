"""The flag --config of the programs, and what they say about configs."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from iblm_jax import cli, config_files, field_listing, foreign

FLAGS = flags.FLAGS
# Dataclasses of the groups of a config, by path.
Layout = Callable[[ml_collections.ConfigDict], dict[str, type]]


class _Parser(config_flags.config_flags.ConfigFileFlagParser):
  """Reads a config by name or path; every field that it lacks is a flag too."""

  def __init__(self, layout: Layout):
    super().__init__('config', lock_config=False)
    self.layout = layout

  def parse(self, path: str) -> Any:
    found = config_files.find(path)
    file = found.partition(':')[0]
    if not os.path.isfile(file):
      what = 'no file' if os.path.lexists(file) else 'not there'
      raise ValueError(f'--config must be a name or a file: {file} is {what}.')
    try:
      config = super().parse(found)
    except (Exception, SystemExit) as error:  # it is code and may do anything
      # Some come wrapped, with their traceback for a text.
      own = error.__context__ if 'Traceback' in str(error) else error
      raise ValueError(f'{file}: {foreign.one_line(own or error)}') from error
    if not isinstance(config, ml_collections.ConfigDict | Mapping):
      raise ValueError(
          f'{file}: get_config must return a ConfigDict, got {config!r:.80}.'
      )
    if isinstance(config, ml_collections.ConfigDict):
      for group_path, cls in self.layout(config).items():
        group = config
        for name in group_path.split('.')[1:]:
          group = _group(group, name)
        _add_groups(group, cls, group_path)
    return config


def define(layout: Layout) -> None:
  """Defines --config, --list and --help_config.

  Args:
    layout: Which dataclass describes which group of a config; the config itself
      has the path 'config'.
  """
  config_flags.DEFINE_config_file(
      'config', None, 'Name or path of a config, with a variant: NAME:VARIANT.',
      lock_config=False, accept_new_attributes=True,
  )
  FLAGS['config'].parser = _Parser(layout)
  flags.DEFINE_bool('list', False, 'List the configs and their variants.')
  flags.DEFINE_bool('help_config', False, 'List every field of the config.')


def require(*names: str) -> None:
  """Requires flags, unless only something about configs is asked."""
  for name in names:
    flags.register_multi_flags_validator(
        [name, 'list', 'help_config'],
        lambda values, name=name: (
            values[name] is not None
            or values['list']
            or values['help_config']
        ),
        f'Flag --{name} must have a value.',
    )


def answered() -> bool:
  """Prints what was asked about configs; False if nothing was."""
  if FLAGS.list:
    lines = config_files.listing()
  elif FLAGS.help_config:
    config, parser = FLAGS.config, FLAGS['config'].parser
    assert isinstance(parser, _Parser)  # see `define`
    with cli.refusing():
      if config is None:
        raise ValueError('--help_config needs --config.')
      lines = [
          line
          for path, cls in parser.layout(config).items()
          for line in field_listing.lines(cls, _at(config, path), path)
      ]
  else:
    return False
  for line in lines:
    cli.report(line)
  return True


def _at(config: ml_collections.ConfigDict, path: str) -> dict[str, Any]:
  tree = config.to_dict()
  for name in path.split('.')[1:]:
    tree = tree[name]
  return tree


def _group(config: ml_collections.ConfigDict, name: str) -> Any:
  """A group of a config, empty where the config has none."""
  if config.get(name) is None:
    config[name] = ml_collections.ConfigDict()
  return config[name]


def _add_groups(
    config: ml_collections.ConfigDict, cls: type, path: str
) -> None:
  """Adds the groups that a config leaves to their defaults, as empty ones.

  One that is None by default is added where a flag sets a field of it.
  """
  tree = config.to_dict()
  for entry in field_listing.entries(cls, tree):
    kind, here = entry.group, f'{path}.{entry.name}'
    if entry.value is None and _is_set(here):
      kind = field_listing.group_of(entry.hint)
    if kind is not None and entry.value is not dataclasses.MISSING:
      group = _group(config, entry.name)
      if isinstance(group, ml_collections.ConfigDict):
        _add_groups(group, kind, here)


def _is_set(path: str) -> bool:
  """Whether a flag of the command line is of a field of a group."""
  # Where ml_collections finds them, too.
  return any(arg.lstrip('-').startswith(f'{path}.') for arg in sys.argv)
