"""The scheduler of jobs: in processes, one a core, each kept as it ends.

On a CPU two runs on a core each take less time than one after the other on two
cores, because small steps do not split. Several CPU devices in one process
share a pool of threads and were seen to wait for each other for ever; processes
share nothing.
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from iblm_jax import errors, files
from iblm_jax.experiments._harness import variants
from iblm_jax.training import config, data_record, options, progress, signals
from iblm_jax.training import run as run_lib

Report = Callable[[str], None]

# glibc gives buffers above 32 MB back to the kernel after every step, and the
# kernel clears them again for the next one: 1.4 times the time of a step.
_ENVIRONMENT = {
    'MALLOC_MMAP_THRESHOLD_': str(2**32),
    'MALLOC_TRIM_THRESHOLD_': str(2**33),
    'JAX_PLATFORMS': 'cpu',
}
_POLL_SECONDS = 0.2


def each(
    jobs: Sequence[Any],
    make_work: Callable[[Any], Callable[[Any], Any]],
    options: Any,
    processes: int,
) -> Iterator[tuple[Any, Any]]:
  """Runs every job and yields it with its result, as they end.

  Args:
    make_work: Called once in each process with `options`, before the first
      job; importable.
    processes: How many; with one, the jobs run in this process.

  Raises:
    errors.Preempted: This process was asked to stop; so were the others, and
      runs among their jobs have saved.
  """
  if processes > 1:
    yield from _each_apart(jobs, make_work, options, processes)
  elif jobs:
    work = make_work(options)
    yield from ((job, work(job)) for job in jobs)


def make_rows(
    runs: Sequence[Any],
    make: Callable[[Any, epath.Path, Report], dict[str, Any]],
    folder: epath.Path,
    *,
    key: Callable[[Any], tuple[str, int]],
    say: Callable[[Mapping[str, Any]], str],
    noun: str,
    report: Report,
    processes: int = 1,
    depth: Callable[[Any], int] = lambda run: 0,
) -> list[dict[str, Any]]:
  """Makes what is left of some runs, each of which is kept with its row.

  Args:
    make: From a run, its folder and a taker of lines, which go to its log, to
      its row; importable. It trains where that is left to do.
  """
  path = lambda run: folder / variants.run_name(*key(run)) / 'row.json'
  left = [run for run in runs if not path(run).exists()]
  if left and len(left) < len(runs):
    report(f'{len(runs) - len(left)} of {len(runs)} {noun} are there')
  started, done = time.monotonic(), 0
  for level in sorted({depth(run) for run in left}):
    jobs = [(make, run, path(run)) for run in left if depth(run) == level]
    made = each(jobs, _Keeper, folder, min(processes, len(jobs)))
    for (_, run, _), row in made:
      done += 1
      to_go = (time.monotonic() - started) / done * (len(left) - done)
      method, seed = key(run)
      report(
          f'{done}/{len(left)} {noun} | {method}, seed {seed}: {say(row)} |'
          f' {progress.clock(to_go)} left'
      )
  return [
      {'method': method, 'seed': seed} | files.read_object(path(run))
      for run in runs
      for method, seed in [key(run)]
  ]


def check(
    runs: Mapping[str, options.RunConfig], folder: epath.Path
) -> None:
  """Raises ValueError where the folder of a run holds another, or its data."""
  for name, cfg in runs.items():
    config.check_workdir(cfg, folder / name)
    data_record.check_config(folder / name, cfg.data)


def train(
    runs: Mapping[str, options.RunConfig],
    folder: epath.Path,
    *,
    side_by_side: bool | None = None,
    report: Report = print,
) -> None:
  """Trains all runs to their ends; resumes them, skips those that are done.

  Args:
    folder: The folder of all runs; see `check`.
    side_by_side: One process and one core for each, as many as there are cores;
      by default on a CPU with more than one run left. Otherwise one after the
      other, in this process, on all devices.

  Raises:
    errors.RunFailed: A run fails; the others were stopped and saved.
    errors.Preempted: It was asked to stop, and the runs have saved.
  """
  for name, cfg in runs.items():
    config.claim_workdir(cfg, folder / name)
  left = [
      name for name in runs if not (folder / name / 'summary.json').exists()
  ]
  if side_by_side is None:
    side_by_side = jax.default_backend() == 'cpu' and len(left) > 1
  if not side_by_side:
    compile_once(folder)
    for name in left:
      report(f'{name}:')
      _train(folder / name, report)
    return
  started = time.monotonic()
  trained = _each_apart(left, _Trainer, folder, min(len(left), len(_cores())))
  for done, (name, last) in enumerate(trained, 1):
    to_go = (time.monotonic() - started) / done * (len(left) - done)
    report(
        f'{done}/{len(left)} runs | {name}: {last} |'
        f' {progress.clock(to_go)} left'
    )


def count(alone: bool = False) -> int:
  """Counts processes: one for each core of a CPU, one on an accelerator.

  XLA's CPU backend has one thread in processes to come: others have the other
  cores, and products that are not divided among threads round alike however
  many processes there are. `alone`: there is too little to do for several.
  """
  if alone or jax.default_backend() != 'cpu':
    return 1
  flags = os.environ.get('XLA_FLAGS', '')
  os.environ['XLA_FLAGS'] = f'{flags} --xla_cpu_multi_thread_eigen=false'
  return len(_cores())


def compile_once(folder: epath.PathLike) -> None:
  """Keeps compiled programs in a folder, unless they are kept elsewhere.

  Runs that differ in their seeds alone then compile once, in whatever process.
  """
  if jax.config.jax_compilation_cache_dir is None:  # pyrefly: ignore
    compiled = os.path.join(folder, 'compiled')
    jax.config.update('jax_compilation_cache_dir', compiled)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def end_with_parent(parent: int) -> None:
  """Lets this process save and stop once its parent is gone.

  A killed parent cannot stop its runs; started again, it would meet them.
  """

  def watch():
    while os.getppid() == parent:
      time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=watch, daemon=True).start()


class _Keeper:
  """Makes a row and keeps it, with a log beside it."""

  def __init__(self, folder: epath.Path):
    compile_once(folder)

  def __call__(self, job):
    make, run, path = job
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / 'log.txt').open('a') as log:
      row = make(
          run, path.parent, lambda line: print(line, file=log, flush=True)
      )
    files.write_json(path, row, indent=None)
    return row


class _Trainer:
  """Trains the run of a folder's name; gives the last line of its log."""

  def __init__(self, folder: epath.Path):
    self._folder = folder
    compile_once(folder)

  def __call__(self, name: str) -> str:
    log_path = self._folder / name / 'log.txt'
    last = ''

    def report(line):
      nonlocal last
      last = line
      print(line, file=log, flush=True)

    with log_path.open('a') as log:
      try:
        _train(self._folder / name, report)
      except errors.Preempted:
        raise
      except Exception as error:
        report(f'{type(error).__name__}: {error}')
        raise errors.RunFailed(
            f'run {name} failed: {error} (see {log_path})'
        ) from error
    return last


def _train(workdir, report):
  run = run_lib.prepare(config.read_run(workdir), workdir)
  run_lib.complete(run, report=report)


def _cores():
  """What this process may run on; [None] where the system does not say."""
  if not hasattr(os, 'sched_getaffinity'):
    return [None]
  return sorted(os.sched_getaffinity(0))


def _each_apart(jobs, make_work, options, processes):
  """`each` in processes of their own, which end with this one."""
  context = multiprocessing.get_context('spawn')
  os.environ.update(_ENVIRONMENT)  # of those to come
  left, started, ends = iter(jobs), [], []
  busy: dict[Any, Any] = {}  # connections and what is done behind them

  def give(connection):
    job = next(left, None)
    connection.send(job)
    if job is not None:
      busy[connection] = job

  with signals.StopOnSignal() as stop:
    try:
      for core in itertools.islice(itertools.cycle(_cores()), processes):
        here, there = context.Pipe()
        process = context.Process(
            target=_serve,
            args=(there, make_work, options, core, logging.get_verbosity()),
        )
        process.start()
        there.close()
        started.append(process)
        ends.append(here)
        give(here)
      while busy:
        ready: list[Any] = multiprocessing.connection.wait(
            list(busy), _POLL_SECONDS
        )
        if stop.requested:
          raise errors.Preempted(
              'asked to stop: the runs have saved; the same command goes on'
              ' from there.'
          )
        for connection in ready:
          job = busy.pop(connection)
          try:
            result, error = connection.recv()
          except EOFError:
            raise errors.RunFailed(f'the process of {job} has ended.') from None
          if error is not None:
            raise error
          give(connection)
          yield job, result
    finally:
      for process, here in zip(started, ends, strict=True):
        process.terminate()
        here.close()  # what has saved is not to wait for another job
      for process in started:
        process.join()


def _serve(connection, make_work, options, core, verbosity):
  """Does jobs until there is none left: what a process is for."""
  os.setsid()  # a keyboard interrupt is the parent's, which lets runs save
  if core is not None:
    # XLA starts a thread for every core that it may run on, whose waiting for
    # each other took another process half of its time. Before JAX's first use.
    os.sched_setaffinity(0, {core})
  logging.set_verbosity(verbosity)
  end_with_parent(os.getppid())
  work = make_work(options)
  with contextlib.suppress(EOFError, OSError):  # nobody is there any more
    while (job := connection.recv()) is not None:
      try:
        result = work(job), None
      except Exception as error:
        result = None, error
      connection.send(result)
