"""How a run may end before its end; light to import."""


class RunFailed(RuntimeError):
  """The run cannot go on; the message says why and what is left."""


class BadData(RunFailed, ValueError):
  """A file of the data turns out to be bad while a run reads it."""


class Preempted(Exception):
  """The run was asked to stop; its state is saved."""
