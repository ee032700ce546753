"""Rows to Gram matrix and back: masks, centring, scaling, products."""

import functools

import jax
import jax.numpy as jnp

EPSILON = 2.0**-23  # spacing of float32 numbers at 1
# Up to this many rows a product is a sum of scaled rows, which XLA fuses into
# one pass over the data (twice as fast on CPU as its batched product).
_UNROLL = 16
# Below this trace float32 has lost some of the squares that are added up.
_SMALLEST = 2.0**-106
# Columns that are looked at: one line of a processor's cache.
_FEW = 16


def prepare(
    x: jax.Array,
    keep: jax.Array | None,
    *,
    center: bool,
    normalize: bool,
    rescale: bool = True,
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
    rescale: Multiply each matrix, and for `normalize` each row, by a power of
      two, so that squares are in range; nothing that is measured depends on it.
      Without it rows are read fewer times, a row whose unit norm float32 cannot
      find becomes NaN, and matrices are for `checked_trace`.
  """
  z = x.astype(jnp.float32)
  if keep is not None:
    # A select, not a product: NaN in a padded row must not get through.
    z = jnp.where(keep[..., None], z, 0.0)
  if rescale:
    z = z * to_unit(z, axis=(-2, -1))
  if center:
    z = _center(z, None if keep is None else keep[..., None])
  if normalize:
    z = _unit_rows(z * to_unit(z, axis=-1) if rescale else z)
  return z


def to_unit(x: jax.Array, axis: int | tuple[int, ...] | None) -> jax.Array:
  """Returns powers of two that bring the largest entries into [0.5, 1).

  A product with one is exact, so results keep their bits wherever their squares
  did not overflow or vanish before.

  Args:
    x: Floating; the factors are constants to its gradient.
    axis: Axes, kept with size 1, over which one factor is for all entries.

  Returns:
    Float32, between 2^-125 and 2^125; 1 for entries that are 0 or not finite.
  """
  largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
  _, exponent = jnp.frexp(jax.lax.stop_gradient(largest).astype(jnp.float32))
  return jnp.ldexp(jnp.float32(1), -jnp.clip(exponent, -125, 125))


def few_entries(x: jax.Array, keep: jax.Array | None) -> jax.Array:
  """Returns the largest magnitude [...] in a few columns of the kept rows.

  It tells rows of zeros from rows whose squares vanish: these are not so small
  in other columns only. To look at all would take as long as to measure.
  """
  few = jnp.abs(x[..., :_FEW].astype(jnp.float32))
  if keep is not None:
    few = jnp.where(keep[..., None], few, 0.0)
  return jnp.max(few, axis=(-2, -1))


def checked_trace(k: jax.Array, few: jax.Array | None) -> jax.Array:
  """Returns the trace [...] of Gram matrices, NaN where squares vanished.

  Args:
    k: [..., n, n].
    few: [...] as from `few_entries`; None where all squares are in range.
  """
  found = trace(k)
  if few is None:
    return found
  tiny = (found > 0) | ((few > 0) & (few < _SMALLEST**0.5))
  return jnp.where((found < _SMALLEST) & tiny, jnp.nan, found)


@jax.custom_jvp
def _inverse_root(x):
  return jax.lax.rsqrt(x)


@_inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
  """As of `rsqrt`, but x^(-3/2) is not formed where it leaves the range."""
  (x,), (dx,) = primals, tangents
  root = _inverse_root(x)
  extreme = (x < 2.0**-80) | (x > 2.0**80)
  slope = -0.5 * (root / jnp.where(extreme, 1.0, x))
  stepwise = dx * root * root * root * -0.5
  return root, jnp.where(extreme, stepwise, dx * slope)


def _unit_rows(z):
  """Scales rows to unit norm; NaN where float32 does not hold the square."""
  square = jnp.sum(z * z, axis=-1, keepdims=True)
  few = jnp.max(jnp.abs(z[..., :_FEW]), axis=-1, keepdims=True)
  lost = jnp.isinf(square) | ((square < _SMALLEST) & (few > 0))
  # Compared with 0, not by its sign: a NaN must get through.
  inverse = _inverse_root(jnp.where(square == 0, 1.0, square))
  inverse = jnp.where(lost, jnp.nan, inverse)
  return jnp.where((square == 0) & ~lost, 0.0, z * inverse)


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
