"""Many training runs, side by side where that is faster.

Every run has a folder of its own, is resumed where it stopped and skipped where
it is done. On a CPU each run has one core: two runs on a core each take less
time than one after the other on two cores, because small steps do not split.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from etils import epath

from iblm_jax import errors
from iblm_jax.experiments._harness import processes
from iblm_jax.training import config, loop, progress, signals

_POLL_SECONDS = 0.2


class _Worker(NamedTuple):
  """A run that goes on in a process of its own."""

  name: str
  core: int
  process: subprocess.Popen


def check(runs: Mapping[str, config.RunConfig], folder: epath.Path) -> None:
  """Makes sure that no folder holds another run.

  Args:
    runs: by the name of their folder.
    folder: of all runs.

  Raises:
    ValueError: naming the folder and what differs there.
  """
  for name, cfg in runs.items():
    config.check_workdir(cfg, folder / name)


def train(
    runs: Mapping[str, config.RunConfig],
    folder: epath.Path,
    *,
    side_by_side: bool | None = None,
    report: Callable[[str], None] = print,
) -> None:
  """Trains all runs to their ends.

  Args:
    runs: by the name of their folder.
    folder: of all runs; see `check`.
    side_by_side: one process and one core for each, as many as there are cores;
      by default on a CPU with more than one run left. Otherwise one after the
      other, in this process, on all devices.
    report: told what a person wants to read, a line at a time.

  Raises:
    errors.RunFailed: if a run fails; the others were stopped and saved.
    errors.Preempted: if asked to stop, after the runs have saved.
  """
  for name, cfg in runs.items():
    config.claim_workdir(cfg, folder / name)
  left = [
      name for name in runs if not (folder / name / 'summary.json').exists()
  ]
  if not left:
    return
  if side_by_side is None:
    side_by_side = jax.default_backend() == 'cpu' and len(left) > 1
  if side_by_side:
    _train_side_by_side(left, folder, report)
    return
  processes.compile_once(_compiled(folder))
  for name in left:
    report(f'{name}:')
    loop.train(loop.prepare(runs[name]), folder / name, report=report)


def _train_side_by_side(left, folder, report):
  names = iter(left)
  free = sorted(os.sched_getaffinity(0))
  workers: list[_Worker] = []
  finished, started = 0, time.monotonic()
  with signals.StopOnSignal() as stop, _stopping(workers):
    while True:
      for name in itertools.islice(names, len(free)):
        workers.append(_start(name, free.pop(0), folder))
      if not workers:
        return
      if stop.requested:
        raise errors.Preempted(
            'asked to stop: the runs have saved; the same command goes on from'
            ' there.'
        )
      time.sleep(_POLL_SECONDS)
      for worker in [w for w in workers if w.process.poll() is not None]:
        workers.remove(worker)
        free.append(worker.core)
        if worker.process.returncode:
          raise errors.RunFailed(_failure(worker, folder))
        finished += 1
        elapsed = time.monotonic() - started
        to_go = elapsed / finished * (len(left) - finished)
        report(
            f'{finished}/{len(left)} runs | {worker.name}:'
            f' {_last_line(folder / worker.name)} |'
            f' {progress.clock(to_go)} left'
        )


def _start(name, core, folder) -> _Worker:
  environment = {
      **os.environ,
      **processes.ALLOCATOR,
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': os.environ.get(
          'JAX_COMPILATION_CACHE_DIR', os.fspath(_compiled(folder))
      ),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
  }
  command = [
      sys.executable, '-m', 'iblm_jax.experiments._harness.train',
      f'--workdir={folder / name}', f'--core={core}', '--end_with_parent',
  ]
  with (folder / name / 'log.txt').open('a') as log:
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        # A keyboard interrupt is the parent's, which lets the run save.
        start_new_session=True,
    )
  return _Worker(name, core, process)


def _compiled(folder: epath.Path) -> epath.Path:
  """Where compiled programs are kept for the runs of a folder."""
  return folder / 'compiled'


@contextlib.contextmanager
def _stopping(workers):
  """Lets runs that are still there at the end save and stop."""
  try:
    yield
  finally:
    for worker in workers:
      worker.process.terminate()
    for worker in workers:
      worker.process.wait()


def _last_line(run: epath.Path) -> str:
  lines = (run / 'log.txt').read_text().strip().splitlines()
  return lines[-1] if lines else ''


def _failure(worker, folder) -> str:
  run = folder / worker.name
  return (
      f'run {worker.name} ended with status {worker.process.returncode}:'
      f' {_last_line(run)} (see {run}/log.txt)'
  )
