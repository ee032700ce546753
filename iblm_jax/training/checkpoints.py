"""Checkpoints: orbax for the arrays, a SHA-256 manifest for trust.

Orbax does not notice a flipped bit, so every finished checkpoint gets a
manifest of its files. A checkpoint is restored only if its manifest is there
and every file agrees with it; damaged ones are moved aside, never deleted.
"""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from iblm_jax import errors, files

_MANIFEST = 'manifest.json'
# Damaged checkpoints that process 0 can tell the others about.
_MOST_DAMAGED = 64


class CheckpointError(errors.RunFailed):
  """A checkpoint could not be saved, or none that exists is intact."""


class Checkpoints:
  """Saves and restores the checkpoints of one run.

  Close it, or use it in a `with` statement.
  """

  def __init__(
      self,
      directory: epath.PathLike,
      *,
      keep: int = 3,
      read_only: bool = False,
      report: Callable[[str], None] = print,
  ):
    """Opens a directory, creating it where it is missing.

    Args:
      directory: The run's checkpoints; a folder per step.
      keep: How many of the newest checkpoints are kept.
      read_only: Nothing is created, moved or deleted.
      report: Takes what a person should know, such as a damaged checkpoint.
    """
    self._read_only = read_only
    self._directory = _absolute(directory)
    self._report = report
    self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        ),
    )
    # Hashing runs beside training, as saving does.
    self._sealer = futures.ThreadPoolExecutor(max_workers=1)
    self._unsealed = False

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def close(self) -> None:
    """Waits for a save in progress and lets go of the directory."""
    try:
      self._manager.close()
      if not self._read_only:
        self._seal()
    finally:
      self._sealer.shutdown()

  def steps(self) -> list[int]:
    """Lists the steps that have a finished checkpoint, ascending."""
    return saved_steps(self._directory)

  def reached_preemption(self, step: int) -> bool:
    """Says whether the cluster has announced that it will stop this job."""
    return self._manager.reached_preemption(step)

  def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
    """Starts to save; the arrays are copied before this returns.

    Args:
      step: How many updates were made.
      state: A tree of arrays.
      data: The state of the data iterator, JSON types.

    Raises:
      CheckpointError: This save or the one before it failed.
    """
    self.wait(step)
    self._unsealed = True
    self._guard(
        step,
        lambda: self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data),
            ),
            force=True,
        ),
    )

  def poll(self) -> None:
    """Seals a save that has finished meanwhile; returns at once."""
    if self._unsealed and not self._manager.is_saving_in_progress():
      self._unsealed = False
      self._sealer.submit(self._seal)

  def wait(self, step: int) -> None:
    """Waits until the save in progress, of `step`, is on disk and sealed.

    Raises:
      CheckpointError: It failed.
    """

    def finish():
      self._manager.wait_until_finished()
      self._sealer.submit(self._seal).result()

    if self._unsealed:
      self._guard(step, finish)
      self._unsealed = False

  def _guard(self, step, call):
    try:
      call()
    except (OSError, ValueError, RuntimeError) as error:
      kept = [s for s in intact_steps(self._directory) if s != step]
      last = f'the last good one is of step {kept[-1]}' if kept else 'none kept'
      raise CheckpointError(
          f'could not save the checkpoint of step {step} in'
          f' {self._directory} ({last}): {error}'
      ) from error

  def restore(
      self, abstract_state: Any, only: int | None = None
  ) -> tuple[int, Any, dict] | None:
    """Restores the newest intact checkpoint.

    Newer ones that are damaged are moved to a folder `damaged` beside the
    checkpoints, and reported.

    Args:
      abstract_state: A tree of ShapeDtypeStruct with shardings.
      only: The step of the one checkpoint to look at; None looks at all.

    Returns:
      (step, state, data), or None where there is no checkpoint at all.

    Raises:
      CheckpointError: There are checkpoints, and none is intact.
    """
    # One process looks, so that all go on from the same step.
    step, damaged = None, {}
    if jax.process_index() == 0:
      step, damaged = self._newest_intact(only)
    step, bad_steps = _agree(step, list(damaged))
    if step is None:
      if bad_steps:
        listing = '; '.join(
            f'step {s}: {damaged.get(s, "process 0 says why")}'
            for s in bad_steps
        )
        raise CheckpointError(
            f'no checkpoint in {self._directory} is intact ({listing}). Nothing'
            ' was changed; start a new run in another workdir.'
        )
      return None
    for bad, problem in damaged.items():
      message = (
          f'checkpoint of step {bad} is damaged ({problem}); falling back to'
          f' step {step}'
      )
      if not self._read_only:
        message += f'. The damaged one is kept in {self._move_aside(bad)}'
      self._report(f'{message}.')
    if bad_steps and not self._read_only:
      ocp.multihost.sync_global_processes('damaged_moved_aside')
      self._manager.reload()
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state),
            data=ocp.args.JsonRestore(),
        ),
    )
    return step, restored['state'], restored['data']

  def _newest_intact(
      self, only: int | None
  ) -> tuple[int | None, dict[int, str]]:
    """Finds the newest intact step, and what is wrong with the newer ones."""
    steps, damaged = saved_steps(self._directory), {}
    for step in reversed(steps if only is None else [only]):
      problem = find_damage(self._directory / str(step))
      if problem is None:
        return step, damaged
      damaged[step] = problem
    return None, damaged

  def _move_aside(self, step: int) -> epath.Path:
    aside = self._directory.parent / 'damaged'
    target, copy = aside / str(step), 1
    while target.exists():
      target, copy = aside / f'{step}-{copy}', copy + 1
    aside.mkdir(parents=True, exist_ok=True)
    (self._directory / str(step)).rename(target)
    return target

  def _seal(self) -> None:
    """Writes the manifest of every finished checkpoint without one."""
    if jax.process_index() != 0:
      return
    for step in saved_steps(self._directory):
      folder = self._directory / str(step)
      if not (folder / _MANIFEST).exists():
        write_manifest(folder)


def _absolute(path: epath.PathLike) -> epath.Path:
  """Orbax takes absolute paths only; a URL is one already."""
  path = epath.Path(path)
  return path if '://' in str(path) else epath.Path(os.path.abspath(path))


def _agree(
    step: int | None, bad_steps: list[int]
) -> tuple[int | None, list[int]]:
  """What process 0 found, on every process."""
  if jax.process_count() == 1:
    return step, bad_steps
  found = np.full(1 + _MOST_DAMAGED, -1, np.int32)
  found[0] = -1 if step is None else step
  found[1 : 1 + len(bad_steps)] = bad_steps[:_MOST_DAMAGED]
  found = multihost_utils.broadcast_one_to_all(found)
  step = None if found[0] < 0 else int(found[0])
  return step, [int(bad) for bad in found[1:] if bad >= 0]


def saved_steps(directory: epath.PathLike) -> list[int]:
  """Lists the steps that have a finished checkpoint, ascending."""
  directory = epath.Path(directory)
  if not directory.exists():
    return []
  return sorted(
      int(path.name) for path in directory.iterdir() if path.name.isdigit()
  )


def intact_steps(directory: epath.PathLike) -> list[int]:
  """Lists the steps whose checkpoint agrees with its manifest, ascending."""
  directory = epath.Path(directory)
  return [
      step
      for step in saved_steps(directory)
      if find_damage(directory / str(step)) is None
  ]


def write_manifest(folder: epath.Path) -> None:
  """Records size and SHA-256 of every file below a finished checkpoint."""
  text = json.dumps(_digests(folder), indent=1, sort_keys=True)
  files.write_text(folder / _MANIFEST, text)


def find_damage(folder: epath.Path) -> str | None:
  """Says what is wrong with a checkpoint, in words; None if it is intact."""
  manifest = folder / _MANIFEST
  if not manifest.exists():
    return 'it has no manifest, so its save was cut off'
  try:
    expected = json.loads(manifest.read_text())
  except (json.JSONDecodeError, UnicodeDecodeError):
    return f'{_MANIFEST} is not readable'
  found = _digests(folder)
  for name in sorted(expected.keys() | found.keys()):
    if name not in found:
      return f'file {name} is missing'
    if name not in expected:
      return f'file {name} does not belong to it'
    if found[name] != expected[name]:
      return f'file {name} has changed since it was written'
  return None


def _digests(folder: epath.Path) -> dict[str, str]:
  return {
      str(path.relative_to(folder)): _sha256(path)
      for path in sorted(_files(folder))
      if not path.name.startswith(_MANIFEST)
  }


def _files(folder: epath.Path):
  for path in folder.iterdir():
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _sha256(path: epath.Path) -> str:
  digest = hashlib.sha256()
  with path.open('rb') as file:
    while chunk := file.read(1 << 22):
      digest.update(chunk)
  return digest.hexdigest()
