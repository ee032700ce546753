"""How fast a run is, and how long it will still take."""

import time
from collections.abc import Callable, Mapping
from typing import Any


class Meter:
  """Measures the rate of training, without evaluation and saving."""

  def __init__(
      self,
      num_steps: int,
      tokens_per_step: int,
      *,
      flops_per_token: float | None,
      peak_flops: float | None,
  ):
    """Starts the clock.

    Args:
      num_steps: The length of the run.
      tokens_per_step: Tokens that one update reads, padding included.
      flops_per_token: FLOPs of training on one token; None where not known.
      peak_flops: FLOP/s of all devices together; None where it is not known.
    """
    self._num_steps = num_steps
    self._tokens_per_step = tokens_per_step
    self._flops_per_token = flops_per_token
    self._peak_flops = peak_flops
    self._step = None
    self._since = time.monotonic()
    self._rate = None  # steps per second

  def restart(self, step: int, flops_per_token: float | None = None) -> None:
    """Begins a new interval at `step`: what lies before is not counted."""
    self._step, self._since = step, time.monotonic()
    if flops_per_token is not None:
      self._flops_per_token = flops_per_token

  def read(self, step: int) -> dict[str, float]:
    """Gives the rates since the last call or restart; begins a new interval."""
    now = time.monotonic()
    if self._step is None or step <= self._step or now <= self._since:
      self.restart(step)
      return {}
    self._rate = (step - self._step) / (now - self._since)
    self.restart(step)
    tokens = self._rate * self._tokens_per_step
    rates = {'perf/tokens_per_second': tokens, 'perf/step_ms': 1e3 / self._rate}
    if self._peak_flops and self._flops_per_token:
      rates['perf/mfu'] = tokens * self._flops_per_token / self._peak_flops
    return rates

  def time_left(self, step: int) -> str:
    """Estimates the time to the end of the run at the last rate."""
    if self._rate is None:
      return '?'
    return clock((self._num_steps - step) / self._rate)


def clock(seconds: float) -> str:
  """Formats seconds as a person writes them.

  Example:
    >>> clock(75), clock(3725)
    ('1:15', '1:02:05')
  """
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02d}:{seconds:02d}'
  return f'{minutes}:{seconds:02d}'


def line(
    step: int, num_steps: int, values: Mapping[str, Any], left: str
) -> str:
  """Formats one line of progress: step, losses, phase, rate, time left."""
  parts = [f'step {step:>{len(str(num_steps))}}/{num_steps}']
  for name, label in (
      ('train/loss', 'loss'),
      ('train/cross_entropy', 'cross-entropy'),
      ('train/mbe', 'entropy'),
  ):
    if name in values:
      parts.append(f'{label} {float(values[name]):.4f}')
  if 'gapt/phase' in values:
    parts.append(f'phase {int(values["gapt/phase"])}')
  if 'perf/tokens_per_second' in values:
    parts.append(f'{values["perf/tokens_per_second"]:,.0f} tokens/s')
  parts.append(f'{left} left')
  return ' | '.join(parts)


def evaluation_line(step: int, name: str, values: Mapping[str, float]) -> str:
  """Formats one line about an evaluation set."""
  others = ''.join(
      f', {metric.split("/")[0]} accuracy {value:.1%}'
      for metric, value in values.items()
      if metric.endswith('/accuracy')
  )
  entropy = f', entropy {values["mbe"]:.3f} nats' if 'mbe' in values else ''
  return (
      f'  eval at step {step} on {name}: cross-entropy'
      f' {values["cross_entropy"]:.4f} nats, accuracy'
      f' {values["accuracy"]:.1%}{others}, exact match'
      f' {values["exact_match"]:.1%}{entropy}'
  )


def countdown(
    report: Callable[[str], None], what: str, seconds: float = 10.0
) -> Callable[[int, int], None]:
  """Makes a function of (done, total) that now and then reports the time left.

  Lines begin with `what` and are at least so many seconds apart; the clock
  starts now.
  """
  started = last = time.monotonic()

  def told(done, total):
    nonlocal last
    now = time.monotonic()
    if now - last > seconds and done < total:
      last = now
      left = (now - started) / done * (total - done)
      report(f'{what}: {done:,} of {total:,} | {clock(left)} left')

  return told
