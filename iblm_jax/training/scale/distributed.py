"""Joins the other processes of a run."""

import re
from collections.abc import Callable

import jax

from iblm_jax.training.scale import companions

# A process that is not heard of for so long counts as gone, and all others end.
_SILENCE_SECONDS = 60


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    report: Callable[[str], None] = print,
) -> None:
  """Connects the processes of a run; a single process is one too.

  It must run before anything touches a device. Without arguments a cluster that
  JAX knows (TPU pod, Slurm, Open MPI, Kubernetes) is found by itself, and where
  there is none, this is the only process.

  Args:
    coordinator_address: host:port of process 0, where JAX knows no cluster.
    num_processes: How many there are, at least 1.
    process_id: Which one this is, in 0..num_processes - 1.
    report: Is told how many processes there are, if more than one.

  Raises:
    ValueError: Some but not all of the three are given, or one is out of its
      range.
    RuntimeError: The others cannot be reached.
  """
  given = (coordinator_address, num_processes, process_id)
  if given == (None, None, None):
    try:
      jax.distributed.initialize(heartbeat_timeout_seconds=_SILENCE_SECONDS)
    except ValueError:
      return  # No cluster was detected: this is the only process.
    companions.listen()
  else:
    if coordinator_address is None or num_processes is None or (
        process_id is None
    ):
      raise ValueError(
          'coordinator_address, num_processes and process_id go together, got'
          f' {given}.'
      )
    if not re.fullmatch(r'.+:\d+', coordinator_address):
      raise ValueError(
          'coordinator_address must be host:port, got'
          f' {coordinator_address!r}.'
      )
    if not 0 <= process_id < num_processes:
      raise ValueError(
          f'process_id must be in 0..num_processes - 1, got {process_id} of'
          f' {num_processes}.'
      )
    companions.listen()  # the others may never come
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=_SILENCE_SECONDS,
    )
  report(f'process {jax.process_index()} of {jax.process_count()}')
