"""Learning-rate schedules, made from a few options."""

import dataclasses
from typing import Literal

import optax

from iblm_jax.optim import _checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
  """Holds the options of a learning-rate schedule over optimizer updates.

  Attributes:
    total_steps: number of updates in the run, >= 1, after which the final
      learning rate is reached. It is None in the config of a run, which knows
      its length.
    name: 'cosine', 'wsd' (warm up, stay, decay: constant, then a linear
      cooldown) or 'constant'. All start with a linear warm-up from 0.
    peak: the largest learning rate, > 0.
    warmup_steps: number of updates in the warm-up, in [0, total_steps].
    final_fraction: the final learning rate divided by `peak`, in [0, 1]. It is
      not used by 'constant'.
    cooldown_fraction: share of `total_steps` that the cooldown of 'wsd' takes,
      in [0, 1], rounded to whole updates. It is not used by the others.

  Raises:
    ValueError: an option is outside its range, or the warm-up and the cooldown
      together are longer than the run.
  """

  total_steps: int | None = None
  name: Literal['cosine', 'wsd', 'constant'] = 'cosine'
  peak: float = 1e-3
  warmup_steps: int = 0
  final_fraction: float = 0.1
  cooldown_fraction: float = 0.4

  def __post_init__(self):
    """Checks the options."""
    _checks.choice('name', self.name, ('cosine', 'wsd', 'constant'))
    _checks.number('peak', self.peak, 'finite and > 0', low_open=True)
    _checks.integer('warmup_steps', self.warmup_steps, 0)
    for name in ('final_fraction', 'cooldown_fraction'):
      _checks.number(
          name, getattr(self, name), 'in [0, 1]', high=1.0, high_open=False
      )
    if self.total_steps is None:
      return
    _checks.integer('total_steps', self.total_steps, 1)
    cooldown = self.cooldown_steps if self.name == 'wsd' else 0
    longest = self.total_steps - cooldown
    if self.warmup_steps > longest:
      raise ValueError(
          f'warmup_steps must be at most {longest}, total_steps less the'
          f' {cooldown} steps of cooldown, got {self.warmup_steps}.'
      )

  @property
  def cooldown_steps(self) -> int:
    """Number of updates in the cooldown of 'wsd'."""
    return round(self.cooldown_fraction * self._length)

  @property
  def _length(self) -> int:
    if self.total_steps is None:
      raise ValueError('total_steps must be given, got None.')
    return self.total_steps


def make_schedule(config: ScheduleConfig) -> optax.Schedule:
  """Builds a schedule, a function from the step to the learning rate.

  The optimizers of `make_optimizer` use exactly `schedule(step)` in the update
  of that step, counted from 0, so a loop can report it without asking them.

  Returns:
    A function of an int step >= 0, traced or not, which is constant after
    `total_steps`.

  Raises:
    ValueError: `total_steps` is None.

  Examples:
    >>> schedule = make_schedule(ScheduleConfig(
    ...     name='wsd', peak=1.0, warmup_steps=2, total_steps=10))
    >>> [round(float(schedule(step)), 3) for step in range(0, 11, 2)]
    [0.0, 1.0, 1.0, 1.0, 0.55, 0.1]

  References:
    arXiv 2505.08727 trains with constant learning rates and a cooldown over
    the last 40 % to 10 %; cosine: arXiv 1608.03983, without restarts.
  """
  final = config.final_fraction * config.peak
  warmup, total_steps = config.warmup_steps, config._length
  pieces = []  # (first step, schedule of the steps since then)
  if warmup:
    pieces.append((0, optax.linear_schedule(0.0, config.peak, warmup)))
  if config.name == 'cosine' and warmup < total_steps:
    decay = optax.cosine_decay_schedule(
        config.peak, total_steps - warmup, alpha=config.final_fraction
    )
    pieces.append((warmup, decay))
  else:
    pieces.append((warmup, optax.constant_schedule(config.peak)))
  if config.name == 'wsd' and config.cooldown_steps:
    cooldown = optax.linear_schedule(config.peak, final, config.cooldown_steps)
    pieces.append((total_steps - config.cooldown_steps, cooldown))
  starts, schedules = zip(*pieces, strict=True)
  return optax.join_schedules(schedules, starts[1:])
