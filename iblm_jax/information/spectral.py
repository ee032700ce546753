"""Entropy of the spectrum of Z Zᵀ, and its gradient without eigen-derivatives.

For a spectral function S(K) = Σ f(p_i) the derivative is V f'(Λ) Vᵀ: finite
where eigenvalues coincide, while the derivative of an eigenvector is not. With
p = λ / tr K it is  dS/dK = (G - <G, A> I) / tr K,  A = K / tr K, and
dS/dZ = 2 dS/dK Z.  <G, A> makes any constant added to f' drop out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.information import gram, jacobi, renyi

# Eigenvalues of a float32 Gram matrix carry an error of a few roundings of
# the largest one (measured up to N = 512): below that they are noise.
_GRAM_NOISE = 4 * gram.EPSILON
# Squared lengths of the rows' components along the eigenvectors are far more
# accurate (noise near 1e-13 of the largest).
_REFINED_NOISE = gram.EPSILON
# Orders whose Σ p^α is a trace of matrix products; beyond, the products cost
# as much as the eigenvalues.
POWERS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)


class Residuals(NamedTuple):
  """Numbers that the pull-back needs besides the rows; n x n a matrix."""

  trace: jax.Array  # [...], tr K
  matrix: jax.Array  # [..., n, n], A, or the eigenvectors in its columns
  total: jax.Array  # Σ p^α [...] for powers, else the spectrum p [..., n]


def entropy(
    z: jax.Array, alpha: float, few: jax.Array | None = None
) -> jax.Array:
  """Returns S_α [...] in nats of rows `z` [..., N, D] float32.

  Args:
    few: As of `gram.checked_trace`.
  """
  if alpha < 1:  # needs the eigenvectors
    return entropy_and_residuals(z, alpha, few)[0]
  k = gram.gram(z)
  return entropy_of_gram(k, gram.checked_trace(k, few), alpha)


def entropy_of_gram(
    k: jax.Array, trace: jax.Array, alpha: float
) -> jax.Array:
  """Returns S_α [...] in nats of Gram matrices `k` [..., n, n]."""
  a = unit_trace(k, trace)
  if alpha in POWERS:
    s = _log_of_sum(_trace_of_power(a, int(alpha)), alpha)
  else:
    s = renyi.entropy(spectrum_of_gram(k, trace), alpha)
  return _settle(s, trace)


def spectrum_of_gram(k: jax.Array, trace: jax.Array) -> jax.Array:
  """Returns the eigenvalues [..., n] of K / tr K that are no noise."""
  p = _significant(jacobi.eigvalsh(unit_trace(k, trace)), _GRAM_NOISE)
  return jnp.where(jnp.isfinite(trace)[..., None], p, jnp.nan)


def entropy_and_residuals(
    z: jax.Array, alpha: float, few: jax.Array | None = None
) -> tuple[jax.Array, Residuals]:
  """Returns `entropy` and what `pullback` needs."""
  k = gram.gram(z)
  trace = gram.checked_trace(k, few)
  a = unit_trace(k, trace)
  if alpha in POWERS:
    total = _trace_of_power(a, int(alpha))
    s = _log_of_sum(total, alpha)
    return _settle(s, trace), Residuals(trace, a, total)
  values, vectors = jacobi.eigh(a)
  if alpha < 1:
    p = refine(vectors, z)
  else:
    p = _significant(values, _GRAM_NOISE)
  s = renyi.entropy(p, alpha)
  return _settle(s, trace), Residuals(trace, vectors, p)


def pullback(
    z: jax.Array, residuals: Residuals, cotangent: jax.Array, alpha: float
) -> jax.Array:
  """Returns the gradient by `z` [..., N, D] of Σ cotangent · S_α."""
  trace, matrix, total = residuals
  scale = (cotangent * slope_of_trace(trace))[..., None]
  if alpha in POWERS:
    safe = jnp.where(total > 0, total, 1.0)[..., None, None]
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    eye = jnp.broadcast_to(eye, matrix.shape)
    m = _power(matrix, int(alpha) - 1) / safe - eye
    m *= (alpha / (1 - alpha) * scale)[..., None]
    return gram.multiply(m, z)
  return pull_spectrum(
      z, matrix, renyi.slope(total, alpha) * scale, refined=alpha < 1
  )


def pull_spectrum(
    z: jax.Array, vectors: jax.Array, weights: jax.Array, *, refined: bool
) -> jax.Array:
  """Returns V w Vᵀ Z, or Z V w Vᵀ where the Gram matrix is Zᵀ Z.

  Args:
    z: [..., N, D] rows.
    vectors: [..., n, n] eigenvectors in columns.
    weights: [..., n], one an eigenvector.
    refined: Project the rows first, then weigh. Slower; needed where large
      weights meet small components, which V w Vᵀ would drown in rounding.
  """
  transposed = jnp.swapaxes(vectors, -1, -2)
  if not refined:
    m = jnp.einsum(
        '...ik,...jk->...ij',
        vectors * weights[..., None, :], vectors, precision='highest',
    )
    return gram.multiply(m, z)
  if z.shape[-2] <= z.shape[-1]:
    components = gram.multiply(transposed, z, fuse=False)
    return gram.multiply(vectors, weights[..., :, None] * components)
  components = gram.multiply(vectors, z) * weights[..., None, :]
  return gram.multiply(transposed, components)


def refine(vectors: jax.Array, z: jax.Array) -> jax.Array:
  """Returns the spectrum p [..., n] from rows' components along eigenvectors.

  p_i ∝ |v_iᵀ Z|² is a Rayleigh quotient: the eigenvectors' error enters
  squared, and no Gram matrix rounds the small ones away.
  """
  if z.shape[-2] <= z.shape[-1]:
    transposed = jnp.swapaxes(vectors, -1, -2)
    components = gram.multiply(transposed, z, fuse=False)
    squares = jnp.sum(components * components, axis=-1)
  else:
    components = gram.multiply(vectors, z)
    squares = jnp.sum(components * components, axis=-2)
  return _significant(squares, _REFINED_NOISE)


def slope_of_trace(trace: jax.Array) -> jax.Array:
  """Returns 2 / tr K, a factor of all gradients by Z; 0 for trace 0."""
  return jnp.where(trace == 0, 0.0, 2 / jnp.where(trace == 0, 1.0, trace))


def _significant(values, noise):
  """Scales eigenvalues to sum 1; those at the noise level become 0."""
  largest = jnp.max(values, axis=-1, keepdims=True)
  kept = jnp.where(values > noise * largest, values, 0.0)
  total = jnp.sum(kept, axis=-1, keepdims=True)
  return kept / jnp.where(total > 0, total, 1.0)


def unit_trace(k: jax.Array, trace: jax.Array) -> jax.Array:
  """Returns A = K / tr K, or K where the trace is 0."""
  return k / jnp.where(trace == 0, 1.0, trace)[..., None, None]


def _settle(s, trace):
  """Cuts rounding below zero; no rows give 0, a bad input NaN."""
  s = jnp.where(trace == 0, 0.0, jnp.maximum(s, 0.0))
  return jnp.where(jnp.isfinite(trace), s, jnp.nan)


def _log_of_sum(total, alpha):
  return jnp.log(jnp.where(total > 0, total, 1.0)) / (1 - alpha)


def _trace_of_power(a, exponent):
  """Returns tr A^k as <A^⌊k/2⌋, A^⌈k/2⌉>: half the products."""
  low = _power(a, exponent // 2)
  high = low if exponent % 2 == 0 else _power(a, exponent - exponent // 2)
  return jnp.sum(low * high, axis=(-2, -1))


def _power(a, exponent):
  """Returns A^k by squaring; XLA shares what two exponents share."""
  if exponent == 1:
    return a
  half = _power(a, exponent // 2)
  square = _product(half, half)
  return square if exponent % 2 == 0 else _product(square, a)


def _product(a, b):
  return jnp.einsum('...ij,...jk->...ik', a, b, precision='highest')
