"""A request to stop, polled between steps."""

import signal
import threading
import types


class StopOnSignal:
  """Turns SIGTERM into a flag for as long as a `with` block lasts.

  Orbax notices preemption only under `jax.distributed`; a single process that
  a cluster or a person stops gets a SIGTERM and nothing else.
  """

  def __init__(self) -> None:
    self._requested = threading.Event()
    self._previous = None

  @property
  def requested(self) -> bool:
    """Whether a SIGTERM has come."""
    return self._requested.is_set()

  def __enter__(self) -> 'StopOnSignal':
    if threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *exc) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del number, frame
    self._requested.set()
