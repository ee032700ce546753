"""The gate as optax transformations: `phase_gate` and `gapt`.

The state of both is one `GateState`, wherever it ends up in the state of a
chain: it is checkpointed, sharded and restored like any optimizer state, and
`iblm_jax.optim.inspection` finds it there.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from iblm_jax.optim import _checks, gate


def phase_gate(
    config: gate.GateConfig,
) -> optax.GradientTransformationExtraArgs:
  """Runs the gate inside an optimizer; passes updates through.

  For loops that compute the weighted gradient themselves, with the phase from
  `gate_step` on the same losses before this update, or from `phase(opt_state)`
  one step late.

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

  def init_fn(params):
    del params
    return gate.gate_init()

  def update_fn(
      updates,
      state,
      params=None,
      *,
      value: Any = None,
      aux_value: Any = None,
      **extra_args,
  ):
    del params, extra_args
    _require('phase_gate', value=value, aux_value=aux_value)
    return updates, gate.gate_step(state, value, aux_value, config)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def gapt(
    config: gate.GateConfig,
    *,
    weight: jax.typing.ArrayLike = 1.0,
    projection: Literal['pcgrad'] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Adds the auxiliary gradient to the updates while the gate compresses.

  With g1 the updates and g2 the auxiliary gradient, the result is `g1` in the
  memorisation phase and `g1 + weight · g2` in the compression phase, the phase
  being that after this step's losses. Nothing is added in a step with a loss
  that is not finite. Goes first in a chain, before anything that changes g1.

  Args:
    config: options of the gate.
    weight: λ, finite and >= 0; a number or a scalar array, so that
      `optax.inject_hyperparams(gapt)(config, weight=schedule)` works.
    projection: 'pcgrad' removes from g2 what opposes g1, where their dot
      product over the whole tree is negative: `g2 - (g1·g2)/‖g1‖² g1`.

  Returns:
    A transformation whose `update` takes `value`, `aux_value` (as
    `phase_gate`), and `aux_updates`, the gradient of the auxiliary loss, a tree
    like the updates. The result has the dtypes of the updates; sums are formed
    in float32. Its state is a `GateState`.

  Raises:
    ValueError: `weight` or `projection` is out of range; from `update`, when an
      argument is missing or `aux_updates` is not like the updates. Inside
      `optax.masked` or `optax.partition` it must be masked as they are, with
      their argument `mask_compatible_extra_args=True`.

  .. warning::
    In `optax.MultiSteps` only the last micro-batch's auxiliary gradient and
    losses are seen. Accumulate outside and update once.

  Examples:
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
  _check_weight(weight)
  _checks.choice('projection', projection, (None, 'pcgrad'))

  def init_fn(params):
    del params
    return gate.gate_init()

  def update_fn(
      updates,
      state,
      params=None,
      *,
      value: Any = None,
      aux_value: Any = None,
      aux_updates: Any = None,
      **extra_args,
  ):
    del params, extra_args
    _require(
        'gapt', value=value, aux_value=aux_value, aux_updates=aux_updates
    )
    _check_same_tree('gapt', updates, aux_updates)
    state = gate.gate_step(state, value, aux_value, config)
    add = gate.is_compressing(state, value, aux_value)
    along = _conflict(updates, aux_updates) if projection else 0.0

    def combine(g1, g2):
      dtype = jnp.promote_types(g1.dtype, jnp.float32)
      x, y = g1.astype(dtype), g2.astype(dtype)
      if projection:
        y = y - along * x
      # A select, not a product: an inactive NaN must not reach the updates.
      return jnp.where(add, (x + weight * y).astype(g1.dtype), g1)

    return jax.tree.map(combine, updates, aux_updates), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _require(name, **kwargs):
  missing = [k for k, v in kwargs.items() if v is None]
  if missing:
    call = ', '.join(f'{k}=...' for k in kwargs)
    raise ValueError(
        f'{name} needs {", ".join(missing)}: call'
        f' tx.update(updates, state, params, {call}).'
    )


def _check_weight(weight):
  if callable(weight):
    raise ValueError(
        'weight must be a finite number >= 0 or a scalar array, got a'
        f' callable, {weight!r}. For a schedule use'
        ' optax.inject_hyperparams(gapt)(config, weight=schedule).'
    )
  if jnp.shape(weight) != ():
    raise ValueError(
        f'weight must be a scalar, got shape {jnp.shape(weight)}.'
    )
  # Arrays may be traced or still on their way: their values are not looked at.
  if not isinstance(weight, jax.Array):
    ok = math.isfinite(weight) and weight >= 0
    if not ok:
      raise ValueError(f'weight must be finite and >= 0, got {weight!r}.')


def _check_same_tree(name, updates, aux_updates):
  """Raises ValueError unless both trees have one structure and shapes."""
  if jax.tree.structure(updates) != jax.tree.structure(aux_updates):
    is_masked = lambda x: isinstance(x, optax.MaskedNode)
    if any(map(is_masked, jax.tree.leaves(updates, is_leaf=is_masked))):
      raise ValueError(
          f'{name} is inside optax.masked or optax.partition, which mask the'
          ' updates but not aux_updates: pass mask_compatible_extra_args=True'
          ' to optax.masked or optax.partition, and aux_updates with the'
          ' structure of the unmasked updates.'
      )
    raise ValueError(
        'aux_updates must have the tree structure of the updates,'
        f' {jax.tree.structure(updates)}, got'
        f' {jax.tree.structure(aux_updates)}.'
    )

  def check(path, g1, g2):
    if jnp.shape(g1) != jnp.shape(g2):
      raise ValueError(
          f'aux_updates{jax.tree_util.keystr(path)} must have shape'
          f' {jnp.shape(g1)}, got {jnp.shape(g2)}.'
      )

  jax.tree_util.tree_map_with_path(check, updates, aux_updates)


def _conflict(updates, aux_updates):
  """(g1·g2)/‖g1‖² where the product is negative, else 0; float32 scalar."""
  dot = _dot(updates, aux_updates)
  norm2 = _dot(updates, updates)
  conflict = (dot < 0) & (norm2 > 0)
  return jnp.where(conflict, dot / jnp.where(norm2 > 0, norm2, 1.0), 0.0)


def _dot(a, b):
  # Products and a sum, not jnp.vdot: a TPU would multiply in bfloat16.
  def leaf(x, y):
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32))

  zero = jnp.zeros([], jnp.float32)
  return sum(jax.tree.leaves(jax.tree.map(leaf, a, b)), start=zero)
