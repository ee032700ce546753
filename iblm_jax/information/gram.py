"""Rows to Gram matrix and back: masks, centring, scaling, products."""

import functools

import jax
import jax.numpy as jnp

EPSILON = 2.0**-23  # spacing of float32 numbers at 1
# Up to this many rows a product is a sum of scaled rows, which XLA fuses into
# one pass over the data (twice as fast on CPU as its batched product).
_UNROLL = 16


def prepare(
    x: jax.Array, keep: jax.Array | None, *, center: bool, normalize: bool
) -> jax.Array:
  """Returns the rows whose Gram matrix is measured, in float32.

  Dropped rows become zero: zero rows add zero eigenvalues only, so the entropy
  does not see them.

  Args:
    x: [..., N, D] floating.
    keep: [..., N] bool, rows that count; None for all.
    center: Subtract the mean of the kept rows. A row that equals the mean up
      to rounding becomes exactly zero, else rounding noise would be measured.
    normalize: Scale rows (after centring) to unit norm; zero rows stay zero.
  """
  z = x.astype(jnp.float32)
  if keep is not None:
    # A select, not a product: NaN in a padded row must not get through.
    z = jnp.where(keep[..., None], z, 0.0)
  if center:
    z = _center(z, None if keep is None else keep[..., None])
  if normalize:
    square = jnp.sum(z * z, axis=-1, keepdims=True)
    # Compared with 0, not by its sign: a NaN must get through.
    inverse = jax.lax.rsqrt(jnp.where(square == 0, 1.0, square))
    z = jnp.where(square == 0, 0.0, z * inverse)
  return z


def _center(z, keep):
  mean = lambda z: jnp.sum(z, axis=-2, keepdims=True) / count
  if keep is None:
    count = z.shape[-2]
  else:
    count = jnp.maximum(jnp.sum(keep, axis=-2, keepdims=True), 1)
  # The second pass removes what rounding left of the mean in the first.
  first = mean(z)
  z = z - first
  z = z if keep is None else jnp.where(keep, z, 0.0)
  z = z - mean(z)
  floor = (4 * EPSILON) ** 2 * jnp.sum(first * first, axis=-1, keepdims=True)
  apart = jnp.sum(z * z, axis=-1, keepdims=True) > floor
  # NaN compares false: say 'not small' rather than 'large' to let it through.
  small = ~apart & jnp.isfinite(floor)
  return jnp.where(small if keep is None else small | ~keep, 0.0, z)


def gram(z: jax.Array) -> jax.Array:
  """Returns Z Zᵀ or Zᵀ Z, whichever is smaller; their spectra are equal."""
  n, d = z.shape[-2:]
  equation = '...nd,...md->...nm' if n <= d else '...nd,...ne->...de'
  return jnp.einsum(equation, z, z, precision='highest')


def multiply(m: jax.Array, z: jax.Array, *, fuse: bool = True) -> jax.Array:
  """Multiplies a matrix on the Gram side of `z` with `z`: M Z or Z M.

  With `fuse` a product with few rows is written elementwise. Leave it out for a
  result that is reduced at once, which would be computed again for each use.
  """
  n, d = z.shape[-2:]
  if n > d:
    return jnp.einsum('...nd,...de->...ne', z, m, precision='highest')
  if n > _UNROLL or not fuse:
    return jnp.einsum('...nm,...md->...nd', m, z, precision='highest')
  rows = [m[..., :, i, None] * z[..., i, None, :] for i in range(n)]
  return functools.reduce(jnp.add, rows)


def trace(k: jax.Array) -> jax.Array:
  """Returns the trace [...] of matrices [..., n, n]."""
  eye = jnp.eye(k.shape[-1], dtype=bool)
  return jnp.sum(jnp.where(eye, k, 0.0), axis=(-2, -1))
