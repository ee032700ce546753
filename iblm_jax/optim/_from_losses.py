"""The pattern of every transformation here: a state that the losses move.

Those that add the auxiliary gradient to the updates also check that they are
where this is right.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax


def _code(function: Any) -> Any:
  return getattr(function, '__code__', None)


# An optax transformation is not told what ran before it, but while an update is
# traced, the calls of what contains it are on the stack. If another version of
# optax has other functions here, the tests of the places fail.
_CHAINS = (
    _code(optax.chain(optax.identity()).update),
    _code(optax.named_chain(('identity', optax.identity())).update),
)
_MULTI_STEPS = _code(optax.MultiSteps.update)


def transformation(
    name: str,
    required: Sequence[str],
    init: Callable[[], Any],
    step: Callable[[Any, Any, Any], Any],
    weigh: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
    *,
    project: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Makes a transformation from functions of its state and the two losses.

  Args:
    name: the transformation's name, for messages.
    required: which of value, aux_value and aux_updates must be given.
    init: makes the first state.
    step: (state, value, aux_value) -> the next state.
    weigh: (next state, value, aux_value) -> whether, and with which factor, the
      auxiliary gradient is added; None never adds it.
    project: remove from the auxiliary gradient what opposes the updates.
  """

  def init_fn(params):
    del params
    return init()

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
    given = {
        'value': value, 'aux_value': aux_value, 'aux_updates': aux_updates
    }  # fmt: skip
    _require(name, {k: given[k] for k in required})
    if weigh is None:
      return updates, step(state, value, aux_value)
    _check_place(name)
    _check_same_tree(name, updates, aux_updates)
    state = step(state, value, aux_value)
    add, factor = weigh(state, value, aux_value)
    if project:
      along, shift = _conflict(updates, aux_updates)

    def combine(g1, g2):
      dtype = jnp.promote_types(g1.dtype, jnp.float32)
      x, y = g1.astype(dtype), g2.astype(dtype)
      if project:
        y = y - along * (x * shift)
      # A select, not a product: an inactive NaN must not reach the updates.
      return jnp.where(add, (x + factor * y).astype(g1.dtype), g1)

    return jax.tree.map(combine, updates, aux_updates), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _require(name, given):
  """Raises ValueError naming the arguments that are None."""
  missing = [k for k, v in given.items() if v is None]
  if missing:
    call = ', '.join(f'{k}=...' for k in given)
    raise ValueError(
        f'{name} needs {", ".join(missing)}: call'
        f' tx.update(updates, state, params, {call}). What calls tx.update for'
        ' you must pass them on: TrainState.apply_gradients of flax does not,'
        ' but optim.apply_gradients(state, grads, ...) does, or call'
        ' state.tx.update yourself.'
    )


def _check_place(name):
  """Raises ValueError unless the caller is given the gradients themselves.

  An auxiliary gradient that is added after Adam's change of sign is ascended,
  one that is added after clipping is not clipped, and `optax.MultiSteps` drops
  all but the last of several micro-batches.
  """
  frame = sys._getframe(1)
  while frame is not None:
    if frame.f_code is _MULTI_STEPS:
      raise ValueError(
          f'{name} must be outside optax.MultiSteps, which would show it the'
          ' losses and the auxiliary gradient of the last micro-batch only, got'
          f' MultiSteps(... {name} ...). Use with_gapt(optax.MultiSteps(tx,'
          ' every_k_schedule=k), config), or accumulate gradients and losses'
          ' yourself and update once.'
      )
    # `new_state` of a chain holds the states of what ran before.
    before = frame.f_code in _CHAINS and frame.f_locals.get('new_state')
    if before:
      raise ValueError(
          f'{name} must be first in optax.chain, since what comes before it'
          ' would not act on the auxiliary gradient (after the change of sign'
          ' of an optimizer, the auxiliary loss would be maximised), got'
          f' position {len(before)}. Use with_gapt(tx, config) around the whole'
          ' optimizer.'
      )
    frame = frame.f_back


def check_weight(weight: Any) -> None:
  """Raises ValueError unless the weight is a scalar, finite and >= 0."""
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
  if not isinstance(weight, jax.core.Tracer):  # which has no value yet
    if not (math.isfinite(weight) and weight >= 0):
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
  """(g1·g2)/‖g1‖² where the product is negative, else 0; float32 scalar.

  As two factors, of which the second is 1 unless the first would overflow or
  vanish. Of both trees the largest entry is brought near 1 before squares are
  formed, by powers of two, which change no digit.
  """
  exponent_1, exponent_2 = _exponent(updates), _exponent(aux_updates)
  dot = _dot(updates, aux_updates, exponent_1, exponent_2)
  norm2 = _dot(updates, updates, exponent_1, exponent_1)
  conflict = (dot < 0) & (norm2 > 0)
  along = jnp.where(conflict, dot / jnp.where(norm2 > 0, norm2, 1.0), 0.0)
  exponent = exponent_2 - exponent_1
  most = jnp.clip(exponent, -100, 100)
  return jnp.ldexp(along, most), jnp.ldexp(jnp.float32(1), exponent - most)


def _exponent(tree):
  """The power of two above the largest entry of a tree; int32 scalar."""
  leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
  largest = [jnp.max(jnp.abs(leaf)).astype(jnp.float32) for leaf in leaves]
  _, exponent = jnp.frexp(jnp.max(jnp.stack([jnp.float32(0), *largest])))
  return jnp.clip(exponent, -125, 125)


def _dot(a, b, exponent_a, exponent_b):
  scale = lambda exponent: jnp.ldexp(jnp.float32(1), -exponent)

  # Products and a sum, not jnp.vdot: a TPU would multiply in bfloat16.
  def leaf(x, y):
    x = x.astype(jnp.float32) * scale(exponent_a)
    y = y.astype(jnp.float32) * scale(exponent_b)
    return jnp.sum(x * y)

  zero = jnp.zeros([], jnp.float32)
  return sum(jax.tree.leaves(jax.tree.map(leaf, a, b)), start=zero)
