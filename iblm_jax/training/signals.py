"""A request to stop, polled between steps."""

import signal
import threading
import types


class StopOnSignal:
  """Turns SIGTERM and Ctrl-C into a flag while a `with` block lasts.

  A second Ctrl-C interrupts at once.

  For a single process. Under `jax.distributed` SIGTERM is JAX's: it agrees with
  the other processes on a step at which all of them stop, and orbax tells. A
  first Ctrl-C becomes a SIGTERM there.
  """

  def __init__(self, enabled: bool = True) -> None:
    """Args: enabled: False leaves SIGTERM alone."""
    self._enabled = enabled
    self._requested = threading.Event()
    self._previous = {}

  @property
  def requested(self) -> bool:
    """Whether a signal has come."""
    return self._requested.is_set()

  def __enter__(self) -> 'StopOnSignal':
    main_thread = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGINT] + [signal.SIGTERM] * self._enabled
    if main_thread:
      for number in numbers:
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    if self._enabled:
      self._requested.set()
    else:
      signal.raise_signal(signal.SIGTERM)
    if number == signal.SIGINT:
      signal.signal(number, self._previous[number])
