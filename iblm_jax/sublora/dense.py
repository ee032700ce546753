"""The dense projector: normal entries with variance 1 / D. For tests only.

Its rows are drawn in blocks at each use; the D x d matrix is never held, and
its work is D d: the reference for small sizes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.sublora import layout as plan_lib
from iblm_jax.sublora import prng as draws

_ROWS = 128


def _rows(plan, key, block):
  numbers = block * _ROWS + jnp.arange(_ROWS, dtype=jnp.uint32)
  zeros = jnp.zeros_like(numbers)
  ids = jnp.stack([zeros, zeros, numbers], axis=-1)
  rows = draws.draw(key, ids, plan.size, 'normal')
  return rows * np.float32(1 / math.sqrt(plan.num_rows))


def _numbers(plan):
  return jnp.arange(-(-plan.num_rows // _ROWS), dtype=jnp.uint32)


def _apply(plan, key, w_d):
  def block(number):
    return jnp.matmul(_rows(plan, key, number), w_d, precision='highest')

  theta = jax.lax.map(block, _numbers(plan)).reshape(-1)
  return plan_lib.unflat(plan, theta[: plan.num_rows])


def _transpose(plan, key, leaves):
  numbers = _numbers(plan)
  g = plan_lib.flat(leaves)
  g = jnp.pad(g, (0, len(numbers) * _ROWS - plan.num_rows))

  def step(w_d, block):
    number, g = block
    rows = _rows(plan, key, number)
    return w_d + jnp.matmul(g, rows, precision='highest'), None

  zeros = jnp.zeros(plan.size, jnp.float32)
  return jax.lax.scan(step, zeros, (numbers, g.reshape(-1, _ROWS)))[0]


KIND = plan_lib.Kind(lambda plan, key: key, _apply, _transpose)
