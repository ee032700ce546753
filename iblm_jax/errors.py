"""How a run may end before its end; light to import."""


class RunFailed(RuntimeError):
  """The run cannot go on; the message says why and what is left."""


class Preempted(Exception):
  """The run was asked to stop; its state is saved."""
