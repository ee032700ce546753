"""Eigendecomposition of symmetric matrices; many tiny ones at once.

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
  """Eigenvalues (in no particular order) and eigenvectors of `a`.

  Args:
    a: [..., n, n] float32, symmetric. Eigenvalues are within 2e-6 of the
      largest one. Vectors rebuild the matrix to 5e-6 of it, but for about one
      matrix in 400 with eigenvalues repeated many times, where it is 1e-4.

  Returns:
    Eigenvalues [..., n] and eigenvectors [..., n, n]; column i belongs to
    eigenvalue i.
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
  """Eigenvalues [..., n] of `a` [..., n, n] as in `eigh`, for less work."""
  n = a.shape[-1]
  if n > MAX_SIZE or math.prod(a.shape[:-2]) < MIN_BATCH:
    return eigh(a)[0]
  return jacobi_values(_batch_last(a)).T.reshape(a.shape[:-1])


@jax.jit  # compiled once a shape where the caller does not compile
def jacobi(a: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Cyclic Jacobi method on many symmetric matrices at once.

  Every round rotates n/2 disjoint pairs of rows and columns so that the
  entries that couple them vanish; n-1 rounds (a sweep) meet every pair, as in
  a round-robin tournament: partners sit face to face, and between rounds all
  but the first move one seat on. Convergence is quadratic, so the number of
  sweeps is fixed: no test for convergence, which on a sharded batch would be
  a collective.

  Args:
    a: [n, n, M] float32, M symmetric matrices, n <= 16.

  Returns:
    Eigenvalues [n, M] in no particular order, and eigenvectors [n, n, M]
    (row i belongs to eigenvalue i).

  Raises:
    ValueError: if n is not in [1, 16].

  References:
    Golub, Van Loan, Matrix Computations, 4th ed., section 8.5 (2013).
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
  """The eigenvalues of `jacobi` alone, for about two thirds of the work."""
  state = _sweeps(_quarters(_seated(a)))
  return jnp.concatenate(state[:2])[:a.shape[0]]


def _seated(a):
  """An even number of rows: for an odd one, a row of zeros has the bye.

  It is never rotated, and after a whole sweep it is last again.
  """
  n = a.shape[0]
  if not 1 <= n <= MAX_SIZE:
    raise ValueError(
        f'a must have shape [n, n, M] with n in [1, {MAX_SIZE}], got {a.shape}.'
    )
  return jnp.pad(a, ((0, 1), (0, 1), (0, 0))) if n % 2 else a


def _quarters(a):
  """The diagonal in two halves, and the three blocks that are kept."""
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
  """One round: rotates the pairs (i, i + n/2), then moves everyone a seat.

  The lower left block is the transpose of the upper right one and is not
  kept. The diagonal is kept apart: it is updated by small differences, more
  accurately than the blocks would.
  """
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
  """Round-robin seating: the first stays, the others go round the table."""
  n = top.shape[axis]
  if n == 1:
    return top, bottom
  part = lambda x, i, j: jax.lax.slice_in_dim(x, i, j, axis=axis)
  new_top = [part(top, 0, 1), part(bottom, 0, 1), part(top, 1, n - 1)]
  new_bottom = [part(bottom, 1, n), part(top, n - 1, n)]
  return jnp.concatenate(new_top, axis), jnp.concatenate(new_bottom, axis)


def _diagonal(a):
  """[n, n, M] -> [n, M]."""
  return jnp.moveaxis(jnp.diagonal(a), -1, 0)


def _transpose(a):
  return jnp.swapaxes(a, 0, 1)


def _batch_last(a):
  """[..., n, n] -> [n, n, M]; M in one axis fills whole vector registers."""
  n = a.shape[-1]
  return jnp.transpose(a.reshape(-1, n, n), (1, 2, 0))
