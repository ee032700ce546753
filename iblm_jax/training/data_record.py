"""What data a run began with, in its folder: it goes on with no others."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from iblm_jax import files
from iblm_jax.data import batches, identity, sources
from iblm_jax.training import manifest

_NAME = 'data.json'


def of_sources(splits: Mapping[str, batches.Source]) -> dict[str, Any]:
  """Describes those sources that can say what they are, by `identity`."""
  return {
      f'source {name!r}': known
      for name, split in splits.items()
      if (known := getattr(split, 'identity', None)) is not None
  }


def check(
    workdir: epath.PathLike, found: Mapping[str, Any], *, part: bool = False
) -> None:
  """Makes sure that data are those with which the run in a folder began.

  Args:
    workdir: The folder. Where it has no record, such as one of version 0.1,
      nothing is known.
    found: What the data are now, such as `sources.identity_of`.
    part: Whether `found` is only some of them.

  Raises:
    ValueError: They are others; the message names one that differs.
  """
  path = epath.Path(workdir) / _NAME
  bound = None if part else manifest.data_of(epath.Path(workdir))
  if bound is not None and bound == manifest.digest_of(found):
    return  # whatever became of the record
  if not path.exists():
    if bound is not None:
      raise ValueError(
          f'{workdir} holds a run that began with other data, and {path}, which'
          ' says with which, is missing. Put them back, or use another workdir.'
      )
    return
  began = files.read_json(path)
  if not isinstance(began, dict):
    raise ValueError(f'{path} must hold an object, got {began!r:.80}.')
  if part:
    began = {name: value for name, value in began.items() if name in found}
  differs = identity.difference(began, found)
  if differs is not None:
    raise ValueError(
        f'{workdir} holds a run that began with other data: {differs}. Put it'
        ' back as it was, or use another workdir.'
    )


def check_config(
    workdir: epath.PathLike,
    data: sources.DataConfig,
    *,
    tokenizer_only: bool = False,
) -> None:
  """Checks the data of a config, or what their tokens mean, see `check`."""
  workdir = epath.Path(workdir)
  if (workdir / _NAME).exists() or manifest.data_of(workdir):
    found = sources.identity_of(data, tokenizer_only=tokenizer_only)
    check(workdir, found, part=tokenizer_only)


def claim(workdir: epath.PathLike, found: Mapping[str, Any]) -> None:
  """Writes what the data are, unless it is written or nothing is known."""
  path, digest = epath.Path(workdir) / _NAME, manifest.digest_of(found)
  is_damaged = manifest.data_of(path.parent) == digest and (
      manifest.digest(path.parent, _NAME) != digest
  )
  if found and (is_damaged or not path.exists()):
    files.write_json(path, found)
