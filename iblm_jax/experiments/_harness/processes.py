"""Jobs side by side in processes, one a core.

Several CPU devices in one process share a pool of threads and were seen to wait
for each other for ever; processes share nothing.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

# glibc gives buffers above 32 MB back to the kernel after every step, and the
# kernel clears them again for the next one: 1.4 times the time of a step.
ALLOCATOR = {
    'MALLOC_MMAP_THRESHOLD_': str(2**32),
    'MALLOC_TRIM_THRESHOLD_': str(2**33),
}

_WORK: Any = None  # what this worker does with a job


def each(
    jobs: Sequence[Any],
    make_work: Callable[[Any], Callable[[Any], Any]],
    options: Any,
    processes: int,
) -> Iterator[tuple[Any, Any]]:
  """Runs every job; with one process in this one.

  Args:
    jobs: picklable.
    make_work: called once in each process with `options`, before the first
      job; importable.
    options: picklable.
    processes: how many; they end when this one does, however it ends.

  Yields:
    Jobs and their results, as they end.
  """
  if processes <= 1:
    if jobs:
      work = make_work(options)
      yield from ((job, work(job)) for job in jobs)
    return
  context = multiprocessing.get_context('spawn')
  cores = context.SimpleQueue()
  for _, core in zip(range(processes), itertools.cycle(_cores())):
    cores.put(core)
  with concurrent.futures.ProcessPoolExecutor(
      processes,
      mp_context=context,
      initializer=_start,
      initargs=(
          make_work, options, os.getpid(), logging.get_verbosity(), cores
      ),
  ) as pool:
    futures = {pool.submit(_run, job): job for job in jobs}
    for future in concurrent.futures.as_completed(futures):
      yield futures[future], future.result()


def count(alone: bool = False) -> int:
  """How many processes: one for each core of a CPU, one on an accelerator.

  Processes to come keep large buffers, and XLA's CPU backend has one thread in
  them: others have the other cores, and products that are not divided among
  threads round alike however many processes there are.

  Args:
    alone: whether there is too little to do for more than one.
  """
  if alone or jax.default_backend() != 'cpu':
    return 1
  os.environ.update(ALLOCATOR)
  flags = os.environ.get('XLA_FLAGS', '')
  os.environ['XLA_FLAGS'] = f'{flags} --xla_cpu_multi_thread_eigen=false'
  return len(_cores())


def compile_once(folder: epath.Path) -> None:
  """Keeps compiled programs in a folder, unless they are kept elsewhere.

  Runs that differ in their seeds alone then compile once, in whatever process.
  """
  if jax.config.jax_compilation_cache_dir is None:  # pyrefly: ignore
    jax.config.update('jax_compilation_cache_dir', os.fspath(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def _cores():
  """What this process may run on; [None] where the system does not say."""
  if not hasattr(os, 'sched_getaffinity'):
    return [None]
  return sorted(os.sched_getaffinity(0))


def _start(make_work, options, parent, verbosity, cores):
  global _WORK
  core = cores.get()
  if core is not None:
    # XLA starts a thread for every core that it may run on, whose waiting for
    # each other took another process half of its time. Before JAX's first use.
    os.sched_setaffinity(0, {core})
  logging.set_verbosity(verbosity)
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  _WORK = make_work(options)


def _run(job):
  return _WORK(job)


def _end_with(parent):
  """Ends this process once its parent is gone, which no queue tells it."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)
