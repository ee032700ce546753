"""Dual ascent on λ, to find the least entropy at which the loss meets a target.

It solves `min S subject to CE <= c`, where GAPT alternates. With μ the
multiplier of the constraint, the Lagrangian S + μ (CE - c), divided by μ, is
CE - c + λ S with λ = 1/μ. The loss of every step is therefore CE + λ S, and λ
falls while the constraint is violated and rises while there is slack. As in
`iblm_jax.optim.gate`, the state is a few scalars and the functions are pure.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from iblm_jax.optim import _checks, _from_losses, gate


@dataclasses.dataclass(frozen=True)
class DualConfig:
  """Holds the options of dual ascent.

  Attributes:
    target: the largest main loss that is accepted, c, finite and > 0, in the
      unit of the loss (nats for a cross-entropy).
    rate: step size of log λ per update and unit of relative violation, finite
      and > 0. A loss that stays 10 % off its target changes λ by a factor e in
      10 / rate updates. If the model follows more slowly, λ oscillates about
      its limit.
    weight: λ before the first update, in [min_weight, max_weight].
    min_weight: the smallest λ, > 0. The lower it is, the longer λ takes to come
      back after the part of training in which the target is out of reach.
    max_weight: the largest λ, finite.
    ema: decay of the moving average of the main loss that is compared with the
      target, in [0, 1); 0 uses the raw losses. The average starts at the first
      loss.

  Raises:
    ValueError: an option is outside its range.
  """

  target: float
  rate: float = 0.01
  weight: float = 0.1
  min_weight: float = 1e-4
  max_weight: float = 10.0
  ema: float = 0.98

  def __post_init__(self):
    """Checks the options."""
    positive = 'finite and > 0'
    _checks.number('target', self.target, positive, low_open=True)
    _checks.number('rate', self.rate, positive, low_open=True)
    _checks.number('min_weight', self.min_weight, positive, low_open=True)
    _checks.number(
        'max_weight',
        self.max_weight,
        f'finite and >= min_weight = {self.min_weight!r}',
        low=self.min_weight,
    )
    _checks.number(
        'weight',
        self.weight,
        f'in [min_weight, max_weight] = [{self.min_weight!r},'
        f' {self.max_weight!r}]',
        low=self.min_weight,
        high=self.max_weight,
        high_open=False,
    )
    _checks.number('ema', self.ema, 'in [0, 1)', high=1.0)


class DualState(NamedTuple):
  """Holds the state of dual ascent: scalars, replicated on any mesh."""

  log_weight: jax.Array  # shape=(), float32; log λ
  ema_main: jax.Array  # shape=(), float32; smoothed main loss, +inf: none yet
  num_steps: jax.Array  # shape=(), int32; updates with a finite loss
  num_violations: jax.Array  # shape=(), int32; those above the target


def dual_init(config: DualConfig) -> DualState:
  """Returns the state before the first update, with λ at `config.weight`."""
  return DualState(
      log_weight=jnp.full([], math.log(config.weight), jnp.float32),
      ema_main=jnp.full([], jnp.inf, jnp.float32),
      num_steps=jnp.zeros([], jnp.int32),
      num_violations=jnp.zeros([], jnp.int32),
  )


def dual_step(
    state: DualState, value: jax.typing.ArrayLike, config: DualConfig
) -> DualState:
  """Updates λ with the main loss of one optimizer update.

  This is exponentiated-gradient ascent on the multiplier μ = 1/λ of the
  constraint: `log μ += rate (E - c) / c`, with E the smoothed loss, and λ kept
  within its limits. The new λ is the one that weights the loss of this same
  step. With gradient accumulation, call this once per optimizer update, with
  the accumulated loss.

  Args:
    state: state before the update.
    value: main loss, a scalar.
    config: options of dual ascent.

  Returns:
    The state after the update. It is `state` itself if the loss is not finite,
    see `applied_weight`.

  Raises:
    ValueError: the loss is not a scalar.

  Examples:
    >>> config = DualConfig(target=2.0, rate=0.5, weight=1.0, ema=0.0)
    >>> state = dual_init(config)
    >>> for loss in 4.0, 4.0, 2.0, 1.0:
    ...   state = dual_step(state, loss, config)
    ...   print(round(float(state.log_weight), 3), int(state.num_violations))
    -0.5 1
    -1.0 2
    -1.0 2
    -0.75 2

  References:
    The problem: arXiv 2505.08727, section 1, with a target c in place of the
    smallest cross-entropy. Dual ascent: Arrow, Hurwicz, Uzawa, Studies in
    linear and non-linear programming, 1958; its multiplicative form: Kivinen,
    Warmuth, Exponentiated gradient versus gradient descent for linear
    predictors, Information and Computation 132, 1997.
  """
  value = gate._scalar('value', value)
  main = gate._smooth(state.ema_main, value, config.ema)
  violation = (main - config.target) / config.target
  log_weight = jnp.clip(
      state.log_weight - config.rate * violation,
      math.log(config.min_weight),
      math.log(config.max_weight),
  )
  new_state = DualState(
      log_weight=log_weight,
      ema_main=main,
      num_steps=state.num_steps + 1,
      num_violations=state.num_violations + (violation > 0).astype(jnp.int32),
  )
  # Not finite if the loss is not, or if its distance to the target overflows.
  finite = jnp.isfinite(violation)
  return jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), new_state, state
  )


def weight(state: DualState) -> jax.Array:
  """Returns λ, a float32 scalar."""
  return jnp.exp(state.log_weight)


def applied_weight(
    state: DualState,
    value: jax.typing.ArrayLike,
    aux_value: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
  """Returns the weight of the auxiliary loss in the step that led to `state`.

  Args:
    state: what `dual_step` returned for `value`.
    value: main loss of the step, a scalar.
    aux_value: auxiliary loss of the step, a scalar.

  Returns:
    A float32 scalar: λ, or 0 if a loss is not finite.

  Raises:
    ValueError: a loss is not a scalar.
  """
  value = gate._scalar('value', value)
  aux_value = gate._scalar('aux_value', aux_value)
  finite = jnp.isfinite(value) & jnp.isfinite(aux_value)
  return jnp.where(finite, weight(state), 0.0)


def dual_weight(
    config: DualConfig,
) -> optax.GradientTransformationExtraArgs:
  """Runs dual ascent inside an optimizer and passes the updates through.

  It is for loops that compute the weighted gradient themselves, with λ from
  `dual_step` on the same loss before this update.

  Returns:
    A transformation whose `update` takes the keyword argument `value`, the
    scalar main loss, and ignores other extra arguments. Its state is a
    `DualState`.

  Raises:
    ValueError: from `update`, when the loss is missing or not a scalar.

  .. warning::
    `optax.MultiSteps` shows an inner transformation the loss of the last
    micro-batch only. Accumulate outside and update once.

  Examples:
    >>> config = DualConfig(target=2.0, rate=0.5, weight=1.0, ema=0.0)
    >>> tx = optax.chain(dual_weight(config), optax.sgd(0.1))
    >>> params = {'w': jnp.ones(2)}
    >>> _, state = tx.update(params, tx.init(params), value=4.0)
    >>> print(state[0].log_weight)
    -0.5
  """

  return _from_losses.transformation(
      'dual_weight',
      ('value',),
      lambda: dual_init(config),
      lambda state, value, _: dual_step(state, value, config),
  )


def dual_ascent(
    config: DualConfig,
) -> optax.GradientTransformationExtraArgs:
  """Adds λ times the auxiliary gradient to the updates, and adapts λ.

  With g1 the updates and g2 the auxiliary gradient, the result is `g1 + λ g2`,
  λ being the one after the loss of this step, or `g1` if a loss is not finite.
  It goes first in a chain, before anything that changes g1.

  Returns:
    A transformation whose `update` takes `value`, the scalar main loss,
    `aux_updates`, the gradient of the auxiliary loss, a tree like the updates,
    and optionally `aux_value`, the auxiliary loss: if it is not finite, its
    gradient is left out. The result has the dtypes of the updates; sums are
    formed in float32. Its state is a `DualState`.

  Raises:
    ValueError: from `update`, as `with_gapt` does.

  Examples:
    >>> config = DualConfig(target=1.0, weight=0.5)
    >>> tx = optax.chain(dual_ascent(config), optax.sgd(1.0))
    >>> params = {'w': jnp.zeros(2)}
    >>> updates, _ = tx.update(
    ...     {'w': jnp.ones(2)}, tx.init(params), params,
    ...     value=1.0, aux_updates={'w': jnp.ones(2)})
    >>> print(updates['w'])
    [-1.5 -1.5]

  References:
    See `dual_step`.
  """

  def weigh(state, value, aux_value):
    aux_value = 0.0 if aux_value is None else aux_value
    factor = applied_weight(state, value, aux_value)
    return factor > 0, factor

  return _from_losses.transformation(
      'dual_ascent',
      ('value', 'aux_updates'),
      lambda: dual_init(config),
      lambda state, value, _: dual_step(state, value, config),
      weigh,
  )
