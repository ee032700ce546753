"""What makes a folder a checkpoint: the hashes of its files, and its place.

`manifest.json` holds the SHA-256 of every file; one of the files, `run.json`,
says of which step and of which config the checkpoint is. Files that the
manifest does not name are other programs' leftovers, and are ignored.
"""

import contextlib
import hashlib
import json
import os
import re
from typing import Any

from etils import epath

from iblm_jax import files

NAME = 'manifest.json'
_PLACE = 'run.json'
_METRICS = 'metrics.jsonl'
# Steps whose folders have the one name that a save gives them, and fit int32.
_STEP = re.compile('0|[1-9][0-9]{0,8}')
_DIGEST = re.compile('[0-9a-f]{64}')


def steps(directory: epath.PathLike) -> list[int]:
  """Lists the steps that a directory of checkpoints has a name for, ascending.

  Raises:
    NotADirectoryError: It is there and is not a folder.
  """
  directory = epath.Path(directory)
  if not directory.is_dir():
    if '://' not in os.fspath(directory) and os.path.lexists(directory):
      raise NotADirectoryError(f'{directory} must be a folder.')
    return []
  names = (path.name for path in directory.iterdir())
  return sorted(int(name) for name in names if _STEP.fullmatch(name))


def is_there(folder: epath.Path) -> bool:
  """Whether a folder has a manifest, so that its save was completed."""
  return (folder / NAME).exists()


def write(
    folder: epath.Path,
    step: int,
    config: str | None,
    metrics: str,
    data: str | None = None,
) -> None:
  """Makes a checkpoint of the files in a folder, which is then on the disk.

  Args:
    folder: Holds all other files of the checkpoint.
    step: Its step.
    config: The `digest` of the run's config, None where it has none.
    metrics: What metrics.jsonl held then.
    data: The `digest` of the run's data.json, None where it has none.
  """
  (folder / _METRICS).write_text(metrics)
  place = {'step': step, 'config': config, 'data': data}
  files.write_json(folder / _PLACE, place)
  digests, folders = {}, [folder]
  for path in _below(folder):
    if path.is_dir():
      folders.append(path)
    else:
      digests[str(path.relative_to(folder))] = files.sha256(path)
      files.sync(path)
  for path in reversed(folders):
    files.sync(path)
  text = json.dumps(digests, indent=1, sort_keys=True)
  files.write_text(folder / NAME, text)


def find_damage(folder: epath.Path, config: str | None = None) -> str | None:
  """Says what is wrong with a checkpoint, in words; None if it is intact.

  Args:
    folder: The checkpoint; its name is its step.
    config: The `digest` of the run's config; None compares none. Checkpoints
      of version 0.1 do not say of which run they are.
  """
  try:
    return _find_damage(folder, config)
  except OSError as error:
    return f'it cannot be read: {error}'


def metrics(folder: epath.Path) -> str | None:
  """What metrics.jsonl held at a checkpoint; None where it does not say."""
  try:
    return files.read_bytes(folder / _METRICS, most=2**33).decode()
  except (OSError, ValueError):
    return None


def config_of(workdir: epath.Path) -> str | None:
  """The `digest` of the config of the newest checkpoint, if it says one."""
  return _newest(workdir)[1].get('config')


def data_of(workdir: epath.Path) -> str | None:
  """The `digest` of the data of the newest checkpoint, if it says one."""
  return _newest(workdir)[1].get('data')


def check_config(workdir: epath.Path) -> None:
  """Raises ValueError where config.json is not that of the checkpoints."""
  folder, place = _newest(workdir)
  if place.get('config') not in (None, digest(workdir)):
    raise ValueError(
        f'{workdir}/config.json has changed since {folder} was written.'
    )


def check_metrics(workdir: epath.Path) -> None:
  """Raises ValueError where metrics.jsonl is not that of the checkpoints."""
  folder, _ = _newest(workdir)
  path = workdir / _METRICS
  rows = folder and metrics(folder)
  if not rows or not path.exists():
    return
  if not files.read_bytes(path, most=2**33).startswith(rows.encode()):
    raise ValueError(
        f'{path} has changed since {folder} was written, which holds its lines'
        ' too: the command that made the run restores them.'
    )


def _newest(workdir: epath.Path) -> tuple[epath.Path | None, dict[str, Any]]:
  """The newest checkpoint that says of what it is; one can go meanwhile."""
  for step in reversed(steps(workdir / 'checkpoints')):
    folder = workdir / 'checkpoints' / str(step)
    with contextlib.suppress(OSError, ValueError):
      place = files.read_json(folder / _PLACE)
      if is_there(folder) and isinstance(place, dict):
        return folder, place
  return None, {}


def digest(workdir: epath.Path, name: str = 'config.json') -> str | None:
  """SHA-256 of what a JSON file of a run says; None where it has none."""
  try:
    tree = files.read_json(workdir / name)
  except (OSError, ValueError):
    return None
  return digest_of(tree)


def digest_of(tree: Any) -> str:
  """SHA-256 of a JSON tree, however it is written."""
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _find_damage(folder, config):
  if not folder.is_dir():
    return 'it is not a folder'
  try:
    expected = files.read_json(folder / NAME)
  except FileNotFoundError:
    return 'it has no manifest, so its save was cut off'
  except ValueError as error:
    return str(error)
  if not _is_manifest(expected):
    return f'{NAME} does not map files to hashes'
  for name, expected_digest in sorted(expected.items()):
    path = folder / name
    if not path.exists():
      return f'file {name} is missing'
    if not _is_file(path):  # to open a pipe would wait for ever
      return f'{name} is not a file'
    if files.sha256(path) != expected_digest:
      return f'file {name} has changed since it was written'
  for path in folder.glob('*/array_metadatas/process_*'):
    name = str(path.relative_to(folder))
    if name not in expected:  # orbax would read it
      return f'file {name} does not belong to it'
  if _PLACE not in expected:
    return None
  place = files.read_json(folder / _PLACE)
  if not isinstance(place, dict) or str(place.get('step')) != folder.name:
    return f'{_PLACE} says of it {place!r:.80}'
  if config and place.get('config') not in (None, config):
    return "it is of another run's config, or config.json has changed"
  return None


def _is_manifest(tree) -> bool:
  return (
      isinstance(tree, dict)
      and bool(tree)
      and all(
          isinstance(value, str)
          and _DIGEST.fullmatch(value)
          and not name.startswith('/')
          and '..' not in name.split('/')
          for name, value in tree.items()
      )
  )


def _is_file(path: epath.Path) -> bool:
  return '://' in os.fspath(path) or os.path.isfile(path)


def _below(folder: epath.Path):
  """Everything in a folder and its folders, these before what is in them.

  Names that begin with a dot are other programs' (`.DS_Store`, `.nfs0001`).
  """
  for path in sorted(folder.iterdir()):
    if path.name.startswith('.'):
      continue
    yield path
    if path.is_dir():
      yield from _below(path)
