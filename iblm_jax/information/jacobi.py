"""Eigendecomposition of symmetric matrices; fast for many tiny ones.

A LAPACK call per matrix is slow for a thousand 8 x 8 matrices: the calls cost
more than the arithmetic. Cyclic Jacobi rotations do the same work for all
matrices in lock step, as elementwise operations with the batch in the last
axis, which is what vector units on CPU, GPU and TPU are good at.
"""

import math

import jax
import jax.numpy as jnp

# Measured on 2 CPU cores (benchmarks/entropy.py): rotations win 4 to 1 at
# n = 8 and 3 to 2 at n = 16; at n = 32 LAPACK is level, and it wins beyond.
MAX_SIZE = 16
# For a few matrices the rounds' overhead outweighs the calls saved.
MIN_BATCH = 32


def eigh(a: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns eigenvalues [..., n], in no particular order, and eigenvectors.

  Eigenvalues are within 2e-6 of the largest one. Eigenvectors [..., n, n] stand
  in columns and rebuild the matrix to 5e-6 of it; for about one matrix in 400
  with eigenvalues repeated many times, to 1e-4.

  Args:
    a: [..., n, n] float32, symmetric.
  """
  n = a.shape[-1]
  if n > MAX_SIZE or math.prod(a.shape[:-2]) < MIN_BATCH:
    vectors, values = jax.lax.linalg.eigh(
        a, symmetrize_input=False, sort_eigenvalues=False
    )
    return values, vectors
  values, vectors = jacobi(_batch_last(a))
  batch = a.shape[:-2]
  return (
      values.T.reshape(*batch, n),
      jnp.transpose(vectors, (2, 1, 0)).reshape(*batch, n, n),
  )


def eigvalsh(a: jax.Array) -> jax.Array:
  """Returns the eigenvalues [..., n] of `eigh` alone, for less work."""
  n = a.shape[-1]
  if n > MAX_SIZE or math.prod(a.shape[:-2]) < MIN_BATCH:
    return eigh(a)[0]
  return jacobi_values(_batch_last(a)).T.reshape(a.shape[:-1])


@jax.jit  # compiled once a shape where the caller does not compile
def jacobi(a: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Decomposes many symmetric matrices at once by cyclic Jacobi rotations.

  Every round rotates n/2 disjoint pairs of rows and columns so that the
  entries that couple them vanish; n-1 rounds (a sweep) meet every pair, as in
  a round-robin tournament: partners sit face to face, and between rounds all
  but the first move one seat on. Convergence is quadratic, so the number of
  sweeps is fixed: a test for convergence would be a collective on a sharded
  batch. (Golub, Van Loan, Matrix Computations, 4th ed., section 8.5, 2013.)

  Args:
    a: [n, n, M] float32, M symmetric matrices, n <= 16.

  Returns:
    Eigenvalues [n, M] in no particular order, and eigenvectors [n, n, M]
    (row i belongs to eigenvalue i).

  Raises:
    ValueError: If n is not in [1, 16].
  """
  size = a.shape[0]
  a = _seated(a)
  half = a.shape[0] // 2
  eye = jnp.eye(2 * half, dtype=a.dtype)[:, :, None] + jnp.zeros_like(a)
  state = _sweeps([*_quarters(a), eye[:half], eye[half:]])
  values = jnp.concatenate(state[:2])[:size]
  return values, jnp.concatenate(state[5:])[:size, :size]


@jax.jit
def jacobi_values(a: jax.Array) -> jax.Array:
  """Returns the eigenvalues of `jacobi` for two thirds of the work."""
  state = _sweeps(_quarters(_seated(a)))
  return jnp.concatenate(state[:2])[:a.shape[0]]


def _seated(a):
  """Adds a row of zeros to an odd number; it is never rotated."""
  n = a.shape[0]
  if not 1 <= n <= MAX_SIZE:
    raise ValueError(
        f'a must have shape [n, n, M] with n in [1, {MAX_SIZE}], got {a.shape}.'
    )
  return jnp.pad(a, ((0, 1), (0, 1), (0, 0))) if n % 2 else a


def _quarters(a):
  """Returns both halves of the diagonal and the three blocks kept."""
  half = a.shape[0] // 2
  diagonal = _diagonal(a)
  return [
      diagonal[:half], diagonal[half:],
      a[:half, :half], a[:half, half:], a[half:, half:],
  ]


def _sweeps(state):
  n = 2 * state[0].shape[0]
  sweeps = 5 if n <= 4 else 6 if n <= 8 else 8
  return jax.lax.fori_loop(
      0, sweeps * (n - 1), lambda _, s: _round(s), state, unroll=n - 1
  )


def _round(state):
  """Rotates the pairs (i, i + n/2), then moves everyone a seat."""
  # The lower left block is the transpose of the upper right one and not kept.
  # The diagonal is kept apart: small differences update it more accurately.
  top, bottom, tl, tr, br, *vectors = state
  coupling = _diagonal(tr)
  gap = bottom - top
  # tan of the smaller rotation angle, written without a division by zero
  denominator = jnp.abs(gap) + jnp.sqrt(gap * gap + 4 * coupling * coupling)
  tan = jnp.where(gap >= 0, 2.0, -2.0) * coupling
  tan = jnp.where(
      denominator > 0, tan / jnp.where(denominator > 0, denominator, 1.0), 0.0
  )
  cos = jax.lax.rsqrt(1 + tan * tan)
  sin = tan * cos
  top, bottom = top - tan * coupling, bottom + tan * coupling

  c, s = cos[:, None], sin[:, None]
  bl = _transpose(tr)
  tl, bl = c * tl - s * bl, s * tl + c * bl
  tr, br = c * tr - s * br, s * tr + c * br
  if vectors:
    v_top, v_bottom = vectors
    vectors = _move(c * v_top - s * v_bottom, s * v_top + c * v_bottom)
  c, s = cos[None], sin[None]
  tl, tr, br = c * tl - s * tr, s * tl + c * tr, s * bl + c * br

  bl = _transpose(tr)
  tl, bl = _move(tl, bl)
  tr, br = _move(tr, br)
  tl, tr = _move(tl, tr, axis=1)
  _, br = _move(bl, br, axis=1)
  return [*_move(top, bottom), tl, tr, br, *vectors]


def _move(top, bottom, axis=0):
  """Moves everyone but the first one seat round the table."""
  n = top.shape[axis]
  if n == 1:
    return top, bottom
  part = lambda x, i, j: jax.lax.slice_in_dim(x, i, j, axis=axis)
  new_top = [part(top, 0, 1), part(bottom, 0, 1), part(top, 1, n - 1)]
  new_bottom = [part(bottom, 1, n), part(top, n - 1, n)]
  return jnp.concatenate(new_top, axis), jnp.concatenate(new_bottom, axis)


def _diagonal(a):
  return jnp.moveaxis(jnp.diagonal(a), -1, 0)


def _transpose(a):
  return jnp.swapaxes(a, 0, 1)


def _batch_last(a):
  """Moves the batch [..., n, n] to the last axis: [n, n, M]."""
  n = a.shape[-1]
  return jnp.transpose(a.reshape(-1, n, n), (1, 2, 0))
