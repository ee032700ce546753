"""Joining the other processes of a run."""

from collections.abc import Callable

import jax


def initialize(report: Callable[[str], None] = print) -> None:
  """Connects the processes of a cluster; on a single host it does nothing.

  Must run before anything touches a device.

  Args:
    report: told how many processes there are, if more than one.
  """
  try:
    jax.distributed.initialize()
  except ValueError:
    return  # No cluster was detected: this is the only process.
  report(f'process {jax.process_index()} of {jax.process_count()}')
