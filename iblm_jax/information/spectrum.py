"""Spectra of representations, and the figures that are read off them."""

import jax
import jax.numpy as jnp

from iblm_jax.information import checks, gram, jacobi, renyi, spectral


def matrix_spectrum(
    z: jax.Array,
    *,
    mask: jax.Array | None = None,
    center: bool = False,
    normalize: bool = False,
) -> jax.Array:
  """Computes the eigenvalues of Z Zᵀ / tr(Z Zᵀ), largest first.

  The relative accuracy is near 1e-5 down to 1e-6 of the largest; below 1e-7 of
  it they are 0. The gradient is that of the eigenvalues, without eigenvector
  derivatives: where eigenvalues coincide it is right for every symmetric
  function of them.

  Args:
    z: [..., N, D] floating; rows are samples.
    mask: [..., N] bool, rows that count; None for all.
    center: Subtract the mean of the rows that count.
    normalize: Scale rows (after centring) to unit norm.

  Returns:
    [..., min(N, D)] float32 probabilities, descending; they sum to 1, or are
    all 0 where no row is left.

  Raises:
    ValueError: If `z` is not floating [..., N, D], or the mask not [..., N].

  Example:
    >>> z = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> print(matrix_spectrum(z))
    [0.8 0.2]
  """
  checks.rows(z, mask)
  return _spectrum(gram.prepare(z, mask, center=center, normalize=normalize))


def entropy_of_spectrum(
    p: jax.Array, *, alpha: float = 1.0, base: float | None = None
) -> jax.Array:
  """Computes the Rényi entropy of probabilities.

  Args:
    p: [..., n] floating, >= 0 with sum 1, as from `matrix_spectrum`; entries
      that are 0 do not count.
    alpha: Order, in [0, inf]; static.
    base: Base of the logarithm; None for nats, 2 for bits.

  Returns:
    [...] float32 in [0, log n]; NaN where an entry is.

  Raises:
    ValueError: If `alpha` or `base` is out of range.

  Example:
    >>> p = jnp.array([0.5, 0.25, 0.25])
    >>> float(entropy_of_spectrum(p, base=2))
    1.5
  """
  nats = checks.nats_per_unit(base)
  p = jnp.asarray(p, jnp.float32)
  s = renyi.entropy(p, checks.order(alpha)) / nats
  # Not every order adds all entries up: a bad one would be passed over.
  return jnp.where(jnp.any(jnp.isnan(p), axis=-1), jnp.nan, s)


def effective_rank(
    z: jax.Array,
    *,
    mask: jax.Array | None = None,
    center: bool = False,
    normalize: bool = False,
    singular_values: bool = False,
) -> jax.Array:
  """Computes the number of directions that the rows fill: exp of an entropy.

  It is exp(S_1) of the spectrum of Z Zᵀ. With `singular_values` the
  probabilities are the singular values over their sum, as in the paper that
  coined the name, not their squares; small directions then weigh more. (Roy,
  Vetterli, The effective rank, EUSIPCO 2007.)

  Args:
    z: As of `matrix_spectrum`, like the mask and the next two options.
    singular_values: Take singular values rather than their squares.

  Returns:
    [...] float32 in [1, min(N, D)]; 1 where no row is left.

  Raises:
    ValueError: As of `matrix_spectrum`.

  Example:
    >>> print(round(float(effective_rank(jnp.eye(5))), 4))
    5.0
  """
  p = matrix_spectrum(z, mask=mask, center=center, normalize=normalize)
  if singular_values:
    # A square root has no slope at 0; directions that are absent get none.
    p = jnp.where(p > 0, jnp.sqrt(jnp.where(p > 0, p, 1.0)), 0.0)
    total = jnp.sum(p, axis=-1, keepdims=True)
    p = p / jnp.where(total > 0, total, 1.0)
  return jnp.exp(entropy_of_spectrum(p))


@jax.custom_vjp
def _spectrum(z):
  return _spectrum_fwd(z)[0]


def _spectrum_fwd(z):
  k = gram.gram(z)
  trace = gram.trace(k)
  _, vectors = jacobi.eigh(spectral.unit_trace(k, trace))
  p = spectral.refine(vectors, z)
  order = jnp.argsort(-p, axis=-1)
  p = jnp.take_along_axis(p, order, axis=-1)
  p = jnp.where(jnp.isfinite(trace)[..., None], p, jnp.nan)
  vectors = jnp.take_along_axis(vectors, order[..., None, :], axis=-1)
  return p, (z, vectors, trace, p)


def _spectrum_bwd(saved, cotangent):
  z, vectors, trace, p = saved
  inner = jnp.sum(cotangent * p, axis=-1, keepdims=True)
  weights = jnp.where(p > 0, cotangent - inner, 0.0)
  weights *= spectral.slope_of_trace(trace)[..., None]
  return (spectral.pull_spectrum(z, vectors, weights, refined=True),)


_spectrum.defvjp(_spectrum_fwd, _spectrum_bwd)
