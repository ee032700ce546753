"""The projector of blocks of random signs, permutations and Hadamard products.

Block b of d' = 2^k >= d rows is ε_b ⊙ H(G_b ⊙ Π_b H(B_b ⊙ w)), scaled by
√(d' / D); H is the orthonormal Walsh-Hadamard transform, ε and B are signs, G
is normal, Π a permutation, all of them the block's own. (With the uniform last
diagonal and the one permutation of the public code, columns do not have unit
norm and blocks are not independent.) Le, Sarlos, Smola, Fastfood (ICML 2013).
"""

import functools
import math

import einops
import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.sublora import layout as layout_lib
from iblm_jax.sublora import prng


@functools.cache
def _hadamard(log2_size: int) -> np.ndarray:
  matrix = np.ones((1, 1), np.float32)
  for _ in range(log2_size):
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  return matrix / np.float32(2 ** (log2_size / 2))


def hadamard_transform(x: jax.Array) -> jax.Array:
  """Computes the orthonormal Walsh-Hadamard transform of the last axis.

  Its order is natural and it is its own inverse. It costs two small matrix
  products, as H_{2^a} ⊗ H_{2^b}.

  Args:
    x: [..., 2^k] floating.

  Returns:
    [..., 2^k].

  Raises:
    ValueError: If the size of the last axis is no power of two.

  Example:
    >>> y = hadamard_transform(jnp.arange(1.0, 9.0)) * jnp.sqrt(8.0)
    >>> [round(v) for v in y.tolist()]
    [36, -4, -8, 0, -16, 0, 0, 0]
  """
  size = x.shape[-1]
  if size < 1 or size & (size - 1):
    raise ValueError(f'x must have 2^k entries in its last axis, got {size}.')
  k = size.bit_length() - 1
  left, right = _hadamard(k // 2), _hadamard(k - k // 2)
  y = einops.rearrange(x, '... (i j) -> ... i j', i=len(left))
  y = jnp.einsum('ai,...ij,jb->...ab', left, y, right, precision='highest')
  return einops.rearrange(y, '... a b -> ... (a b)')


def _block(layout) -> tuple[int, int]:
  """Returns the rows of a block and the number of blocks."""
  rows = 1 << (layout.size - 1).bit_length()
  return rows, -(-layout.num_rows // rows)


def _blocks(layout, key):
  rows, blocks = _block(layout)

  def one(block):
    number = jnp.arange(4, dtype=jnp.uint32)
    ids = jnp.stack(
        [jnp.zeros_like(number), jnp.full_like(number, block), number], axis=-1
    )
    signs = prng.draw(key, ids[:2], rows, 'sign')
    order = prng.draw(key, ids[2], rows, 'bits')
    permutation = jnp.argsort(order).astype(jnp.int32)
    return {
        'first': signs[0],
        'last': signs[1],
        'permutation': permutation,
        'inverse': jnp.argsort(permutation).astype(jnp.int32),
        'scale': prng.draw(key, ids[3], rows, 'normal'),
    }

  # One block at a time: the same numbers, and one block's work space.
  return jax.lax.map(one, jnp.arange(blocks, dtype=jnp.uint32))


def _scale(layout):
  return np.float32(math.sqrt(_block(layout)[0] / layout.num_rows))


def _apply(layout, factors, w_d):
  f = factors if layout.hold else _blocks(layout, factors)
  rows, _ = _block(layout)
  w = jnp.pad(w_d * _scale(layout), (0, rows - layout.size))[None]
  x = hadamard_transform(f['first'].astype(jnp.float32) * w)
  x = jnp.take_along_axis(x, f['permutation'], axis=1)
  x = f['last'].astype(jnp.float32) * hadamard_transform(f['scale'] * x)
  return x.reshape(-1)[: layout.num_rows]


def _transpose(layout, factors, g_D):
  f = factors if layout.hold else _blocks(layout, factors)
  rows, blocks = _block(layout)
  g = jnp.pad(g_D, (0, rows * blocks - layout.num_rows)).reshape(blocks, rows)
  g = f['scale'] * hadamard_transform(f['last'].astype(jnp.float32) * g)
  g = jnp.take_along_axis(g, f['inverse'], axis=1)
  g = f['first'].astype(jnp.float32) * hadamard_transform(g)
  return jnp.sum(g, axis=0)[: layout.size] * _scale(layout)


def _draw(layout, key):
  return prng.run_once(functools.partial(_blocks, layout), key)


KIND = layout_lib.flat_kind(_draw, _apply, _transpose)
