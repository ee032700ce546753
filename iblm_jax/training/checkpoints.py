"""Checkpoints: orbax for the arrays, a SHA-256 manifest for trust.

Orbax does not notice a flipped bit, so every checkpoint has a manifest of its
files. It is written where no reader looks for checkpoints, and data and
manifest get the name of their step at once. A checkpoint is restored only if
its manifest is there and every file agrees with it; damaged ones are moved
aside, never deleted.
"""

import contextlib
import logging
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
from iblm_jax.training import manifest

# Names of what is no checkpoint yet, and of what is none any more.
_SAVING, _DELETED = '.saving', '.deleted'
_ORBAX = '.orbax-checkpoint-tmp'
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
    """Opens a directory; the first save creates it where it is missing.

    Args:
      directory: The run's checkpoints; a folder per step.
      keep: How many of the newest checkpoints are kept.
      read_only: Nothing is created, moved or deleted.
      report: Takes what a person should know, such as a damaged checkpoint.
    """
    self._read_only = read_only
    self._directory = _absolute(directory)
    self._keep = keep
    self._report = report
    logging.getLogger('absl').addFilter(_is_news)
    self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    # Hashing and committing run beside training, as writing does.
    self._committer = futures.ThreadPoolExecutor(max_workers=1)
    self._saving: tuple[int, futures.Future] | None = None
    self._is_clean = False

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind, error, trace) -> None:
    if error is None:
      self.close()
      return
    try:  # what went wrong first is what the caller should hear of
      self.close()
    except CheckpointError as late:
      self._report(str(late))

  def close(self) -> None:
    """Waits for a save in progress and lets go of the directory."""
    try:
      self.wait()
    finally:
      self._committer.shutdown()
      self._orbax.close()
    # Threads of a save that has failed may still have something to say.
    logging.getLogger('absl').removeFilter(_is_news)

  def steps(self) -> list[int]:
    """Lists the steps that have a finished checkpoint, ascending."""
    return saved_steps(self._directory)

  def reached_preemption(self, step: int) -> bool:
    """Says whether the cluster has announced that it will stop this job."""
    return ocp.multihost.reached_preemption(step)

  def save(
      self, step: int, state: Any, data: dict[str, Any], metrics: str = ''
  ) -> None:
    """Starts to save; the arrays are copied before this returns.

    Args:
      step: How many updates were made.
      state: A tree of arrays.
      data: The state of the data iterator, JSON types.
      metrics: The lines of metrics.jsonl up to here, on process 0.

    Raises:
      CheckpointError: This save or the one before it failed, or there is a
        checkpoint of that step.
    """
    self.wait()
    final = self._directory / str(step)
    with self._naming(step):
      if manifest.is_there(final) or (final.exists() and not _is_remote(final)):
        raise FileExistsError(f'{final} is there already')
      if jax.process_index() == 0:
        self._clean()
      # An object store cannot rename: there the manifest, written last, makes
      # a checkpoint of the files.
      staged = final if _is_remote(final) else _with_suffix(final, _SAVING)
      self._orbax.save(
          staged,
          args=ocp.args.Composite(
              state=ocp.args.StandardSave(state),
              data=ocp.args.JsonSave(data),
          ),
          force=True,
      )
    future = self._committer.submit(self._finish, staged, final, metrics)
    self._saving = step, future

  def poll(self) -> None:
    """Returns at once, unless a save has failed meanwhile: see `wait`."""
    if self._saving is not None and self._saving[1].done():
      self.wait()

  def wait(self) -> None:
    """Waits until a save in progress has become a checkpoint on the disk.

    Raises:
      CheckpointError: It failed.
    """
    if self._saving is not None:
      (step, future), self._saving = self._saving, None
      with self._naming(step):
        future.result()

  @contextlib.contextmanager
  def _naming(self, step):
    """Says of what goes wrong inside which checkpoint it stopped."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      last = 'none kept'
      with contextlib.suppress(CheckpointError):  # no folder: it says that too
        kept = [s for s in intact_steps(self._directory) if s != step]
        last = f'the last good one is of step {kept[-1]}' if kept else last
      raise CheckpointError(
          f'could not save the checkpoint of step {step} in'
          f' {self._directory} ({last}): {" ".join(str(error).split()):.800}'
      ) from error

  def metrics(self, step: int) -> str | None:
    """Reads the lines that a checkpoint holds; one of version 0.1 has none."""
    return manifest.metrics(self._directory / str(step))

  def _finish(
      self, staged: epath.Path, final: epath.Path, metrics: str
  ) -> None:
    """Makes a checkpoint of what this process has just written."""
    self._orbax.wait_until_finished()
    if jax.process_index() != 0:
      return
    step = int(final.name)
    run = self._directory.parent
    data = manifest.digest(run, 'data.json')
    manifest.write(staged, step, manifest.digest(run), metrics, data)
    if staged != final:
      staged.rename(final)
      files.sync(self._directory)
    self._prune(step)

  def _prune(self, newest: int) -> None:
    """Deletes what is older than those to keep; leaves what is none of ours."""
    older = [
        step
        for step in saved_steps(self._directory)
        if step < newest and manifest.is_there(self._directory / str(step))
    ]
    for step in older[: max(0, len(older) + 1 - self._keep)]:
      folder = self._directory / str(step)
      if _is_remote(folder):
        (folder / manifest.NAME).unlink()
      else:
        folder = folder.rename(_with_suffix(folder, _DELETED))
      _delete(folder)

  def _clean(self) -> None:
    """Deletes what killed processes have left half-written."""
    if self._is_clean:
      return
    self._is_clean = True
    if not self._directory.exists():
      return
    for path in self._directory.iterdir():
      if path.name.endswith((_SAVING, _DELETED)) or _ORBAX in path.name:
        _delete(path)

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
    restored = self._orbax.restore(
        self._directory / str(step),
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state),
            data=ocp.args.JsonRestore(),
        ),
    )
    state, data = restored['state'], restored['data']
    found = int(getattr(state, 'step', step))
    if found != step:  # those of version 0.1 do not say of which step they are
      raise CheckpointError(
          f'{self._directory / str(step)} is the checkpoint of step {found}:'
          ' give it that name back. Nothing was changed.'
      )
    return step, state, data

  def _newest_intact(
      self, only: int | None
  ) -> tuple[int | None, dict[int, str]]:
    """Finds the newest intact step, and what is wrong with the newer ones."""
    steps, damaged = saved_steps(self._directory), {}
    config = manifest.digest(self._directory.parent)
    for step in reversed(steps if only is None else [only]):
      problem = find_damage(self._directory / str(step), config)
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


def _absolute(path: epath.PathLike) -> epath.Path:
  """Orbax takes absolute paths only; a URL is one already."""
  path = epath.Path(path)
  return path if _is_remote(path) else epath.Path(os.path.abspath(path))


def _is_remote(path: epath.Path) -> bool:
  return '://' in os.fspath(path)


def _with_suffix(path: epath.Path, suffix: str) -> epath.Path:
  return path.parent / f'{path.name}{suffix}'


def _is_news(record: logging.LogRecord) -> bool:
  """Hides tracebacks of orbax's threads, whose errors `wait` raises."""
  return not (record.exc_info and 'orbax' in record.pathname)


def _delete(folder: epath.Path) -> None:
  """What cannot be deleted now, such as files in use, is left for later."""
  with contextlib.suppress(OSError):
    folder.rmtree()


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
  """Lists the steps that have a finished checkpoint, ascending.

  Raises:
    CheckpointError: There is a file where the directory should be.
  """
  try:
    return manifest.steps(directory)
  except OSError as error:
    raise CheckpointError(str(error)) from error


def intact_steps(directory: epath.PathLike) -> list[int]:
  """Lists the steps whose checkpoint agrees with its manifest, ascending."""
  directory = epath.Path(directory)
  config = manifest.digest(directory.parent)
  return [
      step
      for step in saved_steps(directory)
      if find_damage(directory / str(step), config) is None
  ]


find_damage = manifest.find_damage
