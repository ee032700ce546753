"""Work for processes that are started, which import it by its name."""

import os


class Where:
  """Says on which cores a process may run, and what it was given."""

  def __init__(self, options):
    self.options = options

  def __call__(self, job):
    return sorted(os.sched_getaffinity(0)), os.getpid(), job + self.options
