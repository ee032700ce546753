"""The dense projector: normal entries with variance 1 / D. For tests only.

Its rows are drawn in blocks at each use; the D x d matrix is never held, and
its work is D d: the reference for small sizes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.sublora import layout as layout_lib
from iblm_jax.sublora import prng

_ROWS = 128


def _rows(layout, key, block):
  numbers = block * _ROWS + jnp.arange(_ROWS, dtype=jnp.uint32)
  zeros = jnp.zeros_like(numbers)
  ids = jnp.stack([zeros, zeros, numbers], axis=-1)
  rows = prng.draw(key, ids, layout.size, 'normal')
  return rows * np.float32(1 / math.sqrt(layout.num_rows))


def _numbers(layout):
  return jnp.arange(-(-layout.num_rows // _ROWS), dtype=jnp.uint32)


def _apply(layout, key, w_d):
  def block(number):
    return jnp.matmul(_rows(layout, key, number), w_d, precision='highest')

  return jax.lax.map(block, _numbers(layout)).reshape(-1)[: layout.num_rows]


def _transpose(layout, key, g_D):
  numbers = _numbers(layout)
  g_D = jnp.pad(g_D, (0, len(numbers) * _ROWS - layout.num_rows))

  def step(w_d, block):
    number, g = block
    rows = _rows(layout, key, number)
    return w_d + jnp.matmul(g, rows, precision='highest'), None

  zeros = jnp.zeros(layout.size, jnp.float32)
  return jax.lax.scan(step, zeros, (numbers, g_D.reshape(-1, _ROWS)))[0]


KIND = layout_lib.flat_kind(lambda layout, key: key, _apply, _transpose)
