"""An optimizer that sees some of the parameters only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def train_only(
    tx: optax.GradientTransformation,
    is_trained: Callable[[Any], Any],
) -> optax.GradientTransformationExtraArgs:
  """Applies a transformation to some parameters; the others never change.

  Unlike inside `optax.masked`, the other parameters do not exist for the
  wrapped transformation: they have no state, count in no norm, are not decayed,
  and extra arguments of any form pass through.

  Args:
    tx: transformation of the trained parameters.
    is_trained: function from a tree of parameters to a tree of bools like it.

  Returns:
    A transformation whose updates of the other parameters are zero.

  Examples:
    >>> tx = train_only(optax.sgd(1.0), lambda p: {'a': True, 'b': False})
    >>> params = {'a': jnp.ones(2), 'b': jnp.ones(2)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates['a'].tolist(), updates['b'].tolist()
    ([-1.0, -1.0], [0.0, 0.0])
  """
  inner = optax.with_extra_args_support(tx)

  def prune(tree, like):
    keep = lambda trained, leaf: leaf if trained else None
    return jax.tree.map(keep, is_trained(like), tree)

  def init(params):
    return inner.init(prune(params, params))

  def update(updates, state, params=None, **extra):
    kept = None if params is None else prune(params, params)
    pruned = prune(updates, updates)
    made, state = inner.update(pruned, state, kept, **extra)
    trained = iter(jax.tree.leaves(made))

    def fill(trains, leaf):
      return next(trained) if trains else jnp.zeros_like(leaf)

    return jax.tree.map(fill, is_trained(updates), updates), state

  return optax.GradientTransformationExtraArgs(init, update)
