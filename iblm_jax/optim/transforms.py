"""The gate as optax transformations: `with_gapt`, `gapt` and `phase_gate`.

The state of each is one `GateState`, wherever it ends up in the state of an
optimizer: it is checkpointed, sharded and restored like any optimizer state,
and `iblm_jax.optim.inspection` finds it there.
"""

import functools
from typing import Any, Literal

import jax
import optax

from iblm_jax.optim import _checks, _from_losses, gate


def with_gapt(
    tx: optax.GradientTransformation | optax.MultiSteps,
    config: gate.GateConfig,
    *,
    weight: jax.typing.ArrayLike = 1.0,
    projection: Literal['pcgrad'] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Puts GAPT around a finished optimizer.

  The optimizer is given the gradient of the main loss, plus `weight` times the
  gradient of the auxiliary loss in a step of the compression phase. Clipping,
  Adam and the change of sign therefore act on both. Around `optax.MultiSteps`
  each micro-batch is one step of the gate: multiply the patience by the number
  of micro-batches.

  Args:
    tx: the optimizer, for example `optax.adamw(1e-3)`.
    config: options of the gate.
    weight: λ, finite and >= 0; a number or a scalar array. For a schedule use
      `optax.inject_hyperparams(with_gapt)(tx, config, weight=schedule)`.
    projection: 'pcgrad' removes from the auxiliary gradient what opposes the
      main one, see `gapt`.

  Returns:
    A transformation whose `update` takes three keyword arguments: `value`, the
    scalar main loss; `aux_value`, the scalar auxiliary loss without its weight;
    `aux_updates`, the gradient of the auxiliary loss, a tree like the
    gradient. It passes them and any other on to `tx`. Its state is the pair
    of a `GateState` and the state of `tx`; `phase` finds the phase in it.

  Raises:
    ValueError: `tx` is no optimizer, or `weight` or `projection` is out of
      range. From `update`: an argument is missing, `aux_updates` is not like
      the gradient, or the transformation is not the first in `optax.chain` or
      is inside `optax.MultiSteps`. Inside `optax.masked` or `optax.partition`
      their argument `mask_compatible_extra_args=True` must be given.

  Examples:
    >>> import jax.numpy as jnp
    >>> config = gate.GateConfig(patience_main=1)
    >>> tx = with_gapt(optax.sgd(1.0), config, weight=2.0)
    >>> params = {'w': jnp.zeros(2)}
    >>> updates, _ = tx.update(
    ...     {'w': jnp.ones(2)}, tx.init(params), params,
    ...     value=2.0, aux_value=1.0, aux_updates={'w': jnp.full(2, 0.5)})
    >>> print(updates['w'])
    [-2. -2.]

  References:
    GAPT: arXiv 2505.08727; PCGrad: arXiv 2001.06782.
  """
  if isinstance(tx, optax.MultiSteps):
    # As a transformation that takes extra arguments, which `chain` passes on.
    update: Any = tx.update
    tx = optax.GradientTransformationExtraArgs(tx.init, update)
  if not isinstance(tx, optax.GradientTransformation):
    raise ValueError(
        'tx must be an optax.GradientTransformation or optax.MultiSteps, got'
        f' {tx!r}.'
    )
  return optax.chain(_gapt('with_gapt', config, weight, projection), tx)


def gapt(
    config: gate.GateConfig,
    *,
    weight: jax.typing.ArrayLike = 1.0,
    projection: Literal['pcgrad'] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Adds the auxiliary gradient to the updates while the gate compresses.

  This is the part that `with_gapt` puts before an optimizer. Prefer
  `with_gapt`; use this one first in a chain of your own. With g1 the updates
  and g2 the auxiliary gradient, the result is `g1` in the memorisation phase
  and `g1 + weight · g2` in the compression phase, the phase being the one after
  this step's losses. Nothing is added in a step with a loss that is not finite.

  Args:
    config: options of the gate.
    weight: λ, as for `with_gapt`.
    projection: 'pcgrad' removes from g2 what opposes g1, where their dot
      product over the whole tree is negative: `g2 - (g1·g2)/‖g1‖² g1`.

  Returns:
    A transformation whose `update` takes `value`, `aux_value` and
    `aux_updates`, as for `with_gapt`. The result has the dtypes of the updates;
    sums are formed in float32. Its state is a `GateState`.

  Raises:
    ValueError: as `with_gapt` does.

  Examples:
    >>> import jax.numpy as jnp
    >>> tx = optax.chain(gapt(gate.GateConfig(patience_main=1)), optax.sgd(1.0))
    >>> params = {'w': jnp.zeros(2)}
    >>> updates, _ = tx.update(
    ...     {'w': jnp.ones(2)}, tx.init(params), params,
    ...     value=2.0, aux_value=1.0, aux_updates={'w': jnp.full(2, 0.5)})
    >>> print(updates['w'])
    [-1.5 -1.5]

  References:
    GAPT: arXiv 2505.08727; Yu et al., Gradient surgery for multi-task learning,
    arXiv 2001.06782.
  """
  return _gapt('gapt', config, weight, projection)


def phase_gate(
    config: gate.GateConfig,
) -> optax.GradientTransformationExtraArgs:
  """Runs the gate inside an optimizer and passes the updates through.

  It is for loops that compute the weighted gradient themselves, with the phase
  from `gate_step` on the same losses before this update, or from
  `phase(opt_state)` one step late.

  Args:
    config: options of the gate.

  Returns:
    A transformation whose `update` takes the keyword arguments `value`, the
    scalar main loss, and `aux_value`, the scalar auxiliary loss without weight
    or floor, and ignores other extra arguments. Its state is a `GateState`.

  Raises:
    ValueError: from `update`, when a loss is missing or not a scalar.

  .. warning::
    `optax.MultiSteps` shows an inner transformation the losses of the last
    micro-batch only. Accumulate outside and update once.

  Examples:
    >>> import jax.numpy as jnp
    >>> tx = optax.chain(phase_gate(gate.GateConfig()), optax.sgd(0.1))
    >>> params = {'w': jnp.ones(2)}
    >>> opt_state = tx.init(params)
    >>> grads = {'w': jnp.ones(2)}
    >>> _, opt_state = tx.update(grads, opt_state, value=2.0, aux_value=1.0)
    >>> print(opt_state[0].phase, opt_state[0].best_main)
    1 2.0

  References:
    GAPT: arXiv 2505.08727.
  """
  return _from_losses.transformation(
      'phase_gate',
      ('value', 'aux_value'),
      gate.gate_init,
      functools.partial(gate.gate_step, config=config),
  )


def _gapt(name, config, weight, projection):
  _from_losses.check_weight(weight)
  _checks.choice('projection', projection, (None, 'pcgrad'))
  return _from_losses.transformation(
      name,
      ('value', 'aux_value', 'aux_updates'),
      gate.gate_init,
      functools.partial(gate.gate_step, config=config),
      lambda state, *losses: (gate.is_compressing(state, *losses), weight),
      project=projection is not None,
  )
