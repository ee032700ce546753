"""The gate of GAPT, which decides from two losses when to compress.

It is a state machine of a few scalars, which runs inside `jax.jit`,
`jax.lax.scan` and `jax.vmap` and is saved with the optimizer. Nothing in here
knows about gradients; `iblm_jax.optim.transforms` wraps it for optax.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.optim import _checks

MEMORISE = 1
COMPRESS = 2

# A best loss this close to zero gives no meaningful relative gain.
_NO_GAIN_BELOW = 1e-9
_MIN_DENOMINATOR = 1e-6


@dataclasses.dataclass(frozen=True)
class GateConfig:
  """Holds the options of the gate; the defaults are the paper's public code's.

  Attributes:
    patience_main: number of updates in a row without a counted improvement of
      the main loss that ends the memorisation phase, >= 1 (the paper's p_m).
    patience_aux: the same number for the auxiliary loss and the compression
      phase, >= 1 (p_a).
    rtol_main: relative improvement of the main loss that counts, >= 0 (τ_m).
    rtol_aux: relative improvement of the auxiliary loss that counts, >= 0
      (τ_a).
    spike: relative worsening of the main loss that ends a compression phase at
      once, > 0 (τ_spike); inf switches the rule off.
    best: which losses later ones are compared with. 'every_step' is the paper's
      rule, the minimum over all steps: slow but steady progress then never
      counts as an improvement. 'on_improvement' is the plateau rule: the best
      loss moves only on a counted improvement, so that small ones add up.
    ema: decay of the moving average of both losses that the gate looks at, in
      [0, 1); 0 uses the raw losses. The noise of single batches easily exceeds
      `spike`, and a compression phase then lasts about one update. With 0.98
      the phases last longer.
    reset_aux_best: whether the best auxiliary loss is forgotten when a
      compression phase begins, so that each phase is measured against its own
      start.

  Raises:
    ValueError: an option is outside its range.
  """

  patience_main: int = 125
  patience_aux: int = 75
  rtol_main: float = 0.01
  rtol_aux: float = 0.01
  spike: float = 0.1
  best: Literal['every_step', 'on_improvement'] = 'every_step'
  ema: float = 0.0
  reset_aux_best: bool = False

  def __post_init__(self):
    """Checks the options."""
    _checks.integer('patience_main', self.patience_main, 1)
    _checks.integer('patience_aux', self.patience_aux, 1)
    _checks.number('rtol_main', self.rtol_main, 'finite and >= 0')
    _checks.number('rtol_aux', self.rtol_aux, 'finite and >= 0')
    _checks.number(
        'spike', self.spike, '> 0 (or inf)', low_open=True, high_open=False
    )
    _checks.choice('best', self.best, ('every_step', 'on_improvement'))
    _checks.number('ema', self.ema, 'in [0, 1)', high=1.0)
    _checks.choice('reset_aux_best', self.reset_aux_best, (False, True))


class GateState(NamedTuple):
  """Holds the state of the gate: scalars, which are replicated on any mesh.

  The last three fields count since the start, so that the share of compression
  steps and the mean length of the phases are exact however rarely they are
  read.
  """

  phase: jax.Array  # shape=(), int32; 1 memorise, 2 compress
  stall_main: jax.Array  # shape=(), int32; updates without main improvement
  stall_aux: jax.Array  # shape=(), int32; updates without aux improvement
  best_main: jax.Array  # shape=(), float32; best main loss, +inf: none yet
  best_aux: jax.Array  # shape=(), float32; best auxiliary loss, +inf: none yet
  ema_main: jax.Array  # shape=(), float32; smoothed main loss, +inf: none yet
  ema_aux: jax.Array  # shape=(), float32; smoothed aux loss, +inf: none yet
  num_steps: jax.Array  # shape=(), int32; updates with finite losses
  num_compression_steps: jax.Array  # shape=(), int32; those weighted by phase 2
  num_switches: jax.Array  # shape=(), int32; changes of phase


def gate_init() -> GateState:
  """Returns the state before the first update, in the memorisation phase."""
  zero = lambda: jnp.zeros([], jnp.int32)
  unseen = lambda: jnp.full([], jnp.inf, jnp.float32)
  return GateState(
      phase=jnp.full([], MEMORISE, jnp.int32),
      stall_main=zero(),
      stall_aux=zero(),
      best_main=unseen(),
      best_aux=unseen(),
      ema_main=unseen(),
      ema_aux=unseen(),
      num_steps=zero(),
      num_compression_steps=zero(),
      num_switches=zero(),
  )


def gate_step(
    state: GateState,
    value: jax.typing.ArrayLike,
    aux_value: jax.typing.ArrayLike,
    config: GateConfig,
) -> GateState:
  """Updates the gate with the losses of one optimizer update.

  Gains are relative to the best losses before this update. The main loss must
  improve by more than `rtol_main` at least once in `patience_main` updates, or
  else the phase changes to compression. There the auxiliary loss must do the
  same, and a main loss that is worse by more than `spike` ends the phase at
  once. The new phase is the one that weights the loss of this same step. With
  gradient accumulation, call this once per optimizer update, with the
  accumulated losses.

  Args:
    state: state before the update.
    value: main loss, such as the cross-entropy, a scalar in any unit.
    aux_value: auxiliary loss, a scalar without its weight λ and without a
      floor.
    config: options of the gate.

  Returns:
    The state after the update. It is `state` itself if a loss is not finite:
    its phase then does not apply to this step, see `is_compressing`.

  Raises:
    ValueError: a loss is not a scalar.

  Examples:
    >>> config = GateConfig(patience_main=2)
    >>> state = gate_init()
    >>> for loss in 3.0, 2.0, 2.0, 2.0:
    ...   state = gate_step(state, loss, 1.0, config)
    ...   print(int(state.phase), int(state.stall_main), state.best_main)
    1 1 3.0
    1 0 2.0
    1 1 2.0
    2 0 2.0

  References:
    GAPT: arXiv 2505.08727, the algorithm of the gate; the relative thresholds
    are those of its public code, the pseudo-code has absolute ones.
  """
  value = _scalar('value', value)
  aux_value = _scalar('aux_value', aux_value)
  main = _smooth(state.ema_main, value, config.ema)
  aux = _smooth(state.ema_aux, aux_value, config.ema)
  # Not finite if the loss is not, or if its distance to the average overflows.
  finite = jnp.isfinite(main) & jnp.isfinite(aux)
  gain_main = _gain(state.best_main, main)
  gain_aux = _gain(state.best_aux, aux)
  improved_main = gain_main > config.rtol_main
  improved_aux = gain_aux > config.rtol_aux

  memorising = state.phase == MEMORISE
  compressing = ~memorising
  stall_main = jnp.where(improved_main, 0, state.stall_main + 1)
  stall_main = jnp.where(memorising, stall_main, state.stall_main)
  start = memorising & (stall_main >= config.patience_main)

  spiked = compressing & (gain_main < -config.spike)
  stall_aux = jnp.where(improved_aux | spiked, 0, state.stall_aux + 1)
  stall_aux = jnp.where(compressing, stall_aux, state.stall_aux)
  stop = spiked | (compressing & (stall_aux >= config.patience_aux))

  phase = jnp.where(start, COMPRESS, jnp.where(stop, MEMORISE, state.phase))
  best_aux = _move_best(state.best_aux, aux, improved_aux, config)
  if config.reset_aux_best:
    best_aux = jnp.where(start, aux, best_aux)
  new_state = GateState(
      phase=phase,
      stall_main=jnp.where(start, 0, stall_main),
      stall_aux=jnp.where(stop, 0, stall_aux),
      best_main=_move_best(state.best_main, main, improved_main, config),
      best_aux=best_aux,
      ema_main=main,
      ema_aux=aux,
      num_steps=state.num_steps + 1,
      num_compression_steps=(
          state.num_compression_steps + (phase == COMPRESS).astype(jnp.int32)
      ),
      num_switches=state.num_switches + (start | stop).astype(jnp.int32),
  )
  return jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), new_state, state
  )


def is_compressing(
    state: GateState,
    value: jax.typing.ArrayLike,
    aux_value: jax.typing.ArrayLike,
) -> jax.Array:
  """Tells whether the auxiliary loss counts in the step that led to `state`.

  Args:
    state: what `gate_step` returned for `value` and `aux_value`.
    value: main loss of the step, a scalar.
    aux_value: auxiliary loss of the step, a scalar.

  Returns:
    A bool scalar: whether the phase is compression and both losses are finite.

  Raises:
    ValueError: a loss is not a scalar.
  """
  value = _scalar('value', value)
  aux_value = _scalar('aux_value', aux_value)
  finite = jnp.isfinite(value) & jnp.isfinite(aux_value)
  return finite & (state.phase == COMPRESS)


def _scalar(name, x):
  if jnp.shape(x) != ():
    raise ValueError(f'{name} must be a scalar, got shape {jnp.shape(x)}.')
  return jnp.asarray(x, jnp.float32)


def _smooth(ema, x, decay):
  if decay == 0:
    return x
  # As a step towards x: `decay * ema + (1 - decay) * x` rounds twice at full
  # size, so its result would depend on the compiler and drift with the weights.
  start = jnp.where(jnp.isinf(ema), x, ema)
  return start + (1 - decay) * (x - start)


def _has_gain(best):
  return jnp.isfinite(best) & (jnp.abs(best) >= _NO_GAIN_BELOW)


def _gain(best, x):
  has_gain = _has_gain(best)
  # inf - x is never formed, which would trip `jax_debug_infs`.
  safe = jnp.where(has_gain, best, 1.0)
  gain = (safe - x) / jnp.maximum(jnp.abs(safe), _MIN_DENOMINATOR)
  return jnp.where(has_gain, gain, 0.0)


def _move_best(best, x, improved, config):
  lowest = jnp.minimum(best, x)
  if config.best == 'every_step':
    return lowest
  return jnp.where(improved | ~_has_gain(best), lowest, best)
