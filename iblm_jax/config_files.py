"""The configs that come with the package, by name; and anybody's, by path.

They lie in `configs/` of the source tree, and are installed as
`iblm_jax.configs`. Each is a file with `get_config(variant)`, and with
`VARIANTS`: what each variant is, by its name.
"""

import difflib
import importlib.util
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import ml_collections

_PACKAGE = pathlib.Path(__file__).parent


def folder() -> pathlib.Path:
  """Returns the folder of the configs, in a wheel or in a source tree."""
  installed = _PACKAGE / 'configs'
  return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


def names() -> list[str]:
  """Lists the names of the configs that come with the package.

  >>> 'multiplication' in names()
  True
  """
  return sorted(
      path.stem for path in folder().glob('*.py') if path.stem[0] != '_'
  )


def find(argument: str) -> str:
  """Turns `NAME[:variant]` or `PATH[:variant]` into a path with the variant.

  A path that is there is taken as it is. `configs/NAME.py` means the config of
  that name where there is no such file.

  Raises:
    ValueError: If there is no such name, with those that are near.
  """
  head, colon, variant = argument.partition(':')
  path = pathlib.Path(head)
  is_name = path.suffix != '.py' and len(path.parts) == 1
  named = is_name or path.parts == ('configs', path.name)
  if named and not path.is_file():
    if path.stem in names():
      return f'{folder() / path.stem}.py{colon}{variant}'
    if is_name:
      near = difflib.get_close_matches(head, names(), n=3, cutoff=0.5)
      raise ValueError(
          f'no config is called {head!r}; there are'
          f' {", ".join(near or names())}. Paths end in .py.'
      )
  return argument


def module(name: str) -> types.ModuleType:
  """Imports the config of a name.

  Raises:
    ValueError: As `find`.
  """
  path = find(name)
  spec = importlib.util.spec_from_file_location(f'configs_{name}', path)
  assert spec is not None and spec.loader is not None  # it ends in .py
  made = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(made)
  return made


def load(name: str, variant: str | None = None) -> ml_collections.ConfigDict:
  """Returns a config that comes with the package.

  Args:
    name: Its name.
    variant: One of its variants; None takes the default.

  Raises:
    ValueError: For a name or a variant that does not exist.

  >>> load('multiplication', 'ce').objective.method
  'ce'
  """
  get_config = module(name).get_config
  return get_config() if variant is None else get_config(variant)


def check_variant(variant: str, variants: Mapping[str, str]) -> None:
  """Raises ValueError unless a config has a variant."""
  if variant not in variants:
    raise ValueError(
        f'variant must be one of {tuple(variants)}, got {variant!r}.'
    )


def program_of(config: Mapping[str, Any]) -> str:
  """Names the program that takes a config, by its groups.

  >>> program_of(load('curriculum'))
  'iblm-curriculum'
  """
  if 'certificate' in config:
    return 'iblm-certify'
  return 'iblm-curriculum' if 'order' in config else 'iblm-train'


def listing() -> list[str]:
  """Describes every config: its program, its summary and its variants."""
  lines = []
  for name in names():
    made = module(name)
    summary = (made.__doc__ or '').partition('\n')[0]
    lines.append(f'{program_of(made.get_config())} --config={name}')
    lines.append(f'  {summary}')
    width = max(map(len, made.VARIANTS))
    lines += [
        f'    :{variant:{width}}  {text}'
        for variant, text in made.VARIANTS.items()
    ]
  return lines
