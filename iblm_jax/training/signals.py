"""A request to stop, polled between steps."""

import signal
import threading
import types


class StopOnSignal:
  """Turns SIGTERM into a flag for as long as a `with` block lasts.

  For a single process. Under `jax.distributed` the signal is JAX's: it agrees
  with the other processes on a step at which all of them stop, and orbax tells.
  """

  def __init__(self, enabled: bool = True) -> None:
    """Args: enabled: False leaves the signal alone."""
    self._enabled = enabled
    self._requested = threading.Event()
    self._previous = None

  @property
  def requested(self) -> bool:
    """Whether a SIGTERM has come."""
    return self._requested.is_set()

  def __enter__(self) -> 'StopOnSignal':
    main_thread = threading.current_thread() is threading.main_thread()
    if self._enabled and main_thread:
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *exc) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del number, frame
    self._requested.set()
