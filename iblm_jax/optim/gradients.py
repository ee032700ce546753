"""The gradients of two losses from one forward pass, and their use."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def value_and_grads(
    main_and_aux: Callable[..., Any],
    params: Any,
    *args: Any,
    has_aux: bool = False,
) -> tuple[Any, tuple[Any, Any]]:
  """Computes two losses and the gradient of each, from one forward pass.

  The forward pass is traced and run once. What it keeps serves two backward
  passes, each of which does the work of its own loss only. It works under
  `jax.jit`, `jax.vmap` and `jax.lax.scan`.

  Args:
    main_and_aux: function from `params` and `args` to the two losses,
      floating scalars, for example the cross-entropy and the entropy. With
      `has_aux` it returns ((main, aux), more).
    params: what to differentiate by, a tree of floating arrays.
    *args: further arguments, by which nothing is differentiated.
    has_aux: whether `main_and_aux` returns something beside the two losses.

  Returns:
    ((main, aux), (grads, aux_grads)), the gradients being trees like `params`;
    (((main, aux), more), (grads, aux_grads)) with `has_aux`.

  Raises:
    ValueError: `main_and_aux` does not return a pair of floating scalars.

  Examples:
    >>> losses = lambda w, x: (jnp.sum(w * x), jnp.sum(w**2))
    >>> (main, aux), (grads, aux_grads) = value_and_grads(
    ...     losses, jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    >>> print(main, aux, grads, aux_grads)
    11.0 5.0 [3. 4.] [2. 4.]
  """
  fun = lambda params: main_and_aux(params, *args)
  more = ()
  if has_aux:
    losses, push_forward, more = jax.linearize(fun, params, has_aux=True)
  else:
    losses, push_forward = jax.linearize(fun, params)
  leaves = jax.tree.leaves(losses)
  is_pair = isinstance(losses, tuple | list) and len(losses) == len(leaves) == 2
  if not is_pair or not all(map(_is_floating_scalar, leaves)):
    raise ValueError(
        'main_and_aux must return a pair of floating scalars, or that pair'
        ' and something else with has_aux=True, got'
        f' {jax.tree.map(jax.typeof, losses)}.'
    )

  def gradient(index):
    # `jax.vjp` with a cotangent of zeros for the other loss would run that
    # loss's backward pass as well, which XLA does not remove.
    pull_back = jax.linear_transpose(lambda t: push_forward(t)[index], params)
    return pull_back(jnp.ones_like(losses[index]))[0]

  value = (*losses,)
  return (value, more) if has_aux else value, (gradient(0), gradient(1))


def apply_gradients(state: Any, grads: Any, **losses: Any) -> Any:
  """Updates a `TrainState`, and gives the optimizer the losses as well.

  `flax.training.train_state.TrainState.apply_gradients` keeps them from it.

  Args:
    state: has `tx`, `opt_state`, `params`, `step` and `replace`, as the
      TrainState of Flax has.
    grads: gradients, a tree like `state.params`.
    **losses: passed on to `state.tx.update`: `value`, `aux_value` and
      `aux_updates` for `with_gapt`.

  Returns:
    The state after the update, `step` one larger.

  Examples:
    >>> from flax.training import train_state
    >>> state = train_state.TrainState.create(
    ...     apply_fn=None, params=jnp.ones(2), tx=optax.sgd(0.5))
    >>> print(apply_gradients(state, jnp.ones(2), value=3.0).params)
    [0.5 0.5]
  """
  updates, opt_state = optax.with_extra_args_support(state.tx).update(
      grads, state.opt_state, state.params, **losses
  )
  params = optax.apply_updates(state.params, updates)
  return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


def _is_floating_scalar(x):
  return jnp.shape(x) == () and jnp.issubdtype(jnp.result_type(x), jnp.floating)
