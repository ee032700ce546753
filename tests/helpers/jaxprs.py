"""Counts in traced programs."""

import jax
import numpy as np


def dot_flops(function, *args):
  """FLOPs of all matrix products, loops multiplied by their trips."""
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr):
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contract, _), _ = eqn.params['dimension_numbers']
      inner = np.prod([eqn.invars[0].aval.shape[axis] for axis in contract])
      total += 2 * inner * np.prod(eqn.outvars[0].aval.shape)
    times = eqn.params.get('length', 1)
    for value in eqn.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += times * _count(inner)
  return int(total)
