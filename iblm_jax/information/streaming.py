"""Matrix entropy of more rows than fit in memory, one batch at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.information import checks, gram, spectral


class SpectrumAccumulator(NamedTuple):
  """Moments of the rows seen so far.

  The Gram matrix is kept about the mean: an offset that all rows share then
  costs no digits, and two accumulators merge exactly. Float32: after k
  batches of similar size the relative error is at most about k roundings
  (6e-8 each, in practice nearer their root); a batch under 1e-7 of the rows
  already seen is lost, so merge small ones first. (Chan, Golub, LeVeque,
  Updating formulae for computing sample variances, 1979.)
  """

  count: jax.Array  # [] float32, rows
  mean: jax.Array  # [D] float32
  scatter: jax.Array  # [D, D] float32, Σ (z - mean)(z - mean)ᵀ


def accumulator_init(dim: int) -> SpectrumAccumulator:
  """Returns an accumulator that has seen no row of width `dim`.

  Raises:
    ValueError: If `dim` is less than 1.
  """
  if dim < 1:
    raise ValueError(f'dim must be at least 1, got {dim=}.')
  return SpectrumAccumulator(
      jnp.zeros([], jnp.float32),
      jnp.zeros([dim], jnp.float32),
      jnp.zeros([dim, dim], jnp.float32),
  )


def accumulate(
    state: SpectrumAccumulator, z: jax.Array, mask: jax.Array | None = None
) -> SpectrumAccumulator:
  """Adds the rows of `z`, which count where the mask says so.

  Args:
    state: The rows seen so far, of width D.
    z: [N, D] floating, of root mean square between 1e-15 and 1e15: moments
      cannot be scaled afterwards.
    mask: [N] bool; None for all.

  Returns:
    The accumulator of both.

  Raises:
    ValueError: If `z` is not [N, D], or `mask` not [N].

  Example:
    >>> state = accumulator_init(2)
    >>> state = accumulate(state, jnp.array([[1.0, 0.0]]))
    >>> state = accumulate(state, jnp.array([[0.0, 1.0]]))
    >>> float(accumulated_entropy(state, base=2))
    1.0
  """
  dim = state.mean.shape[0]
  checks.shape('z', z, f'[N, {dim}]', z.ndim == 2 and z.shape[1] == dim)
  checks.like_rows('mask', mask, z.shape[:1])
  if mask is None:
    mask = jnp.ones(z.shape[:1], bool)
  keep = mask[:, None]
  z = jnp.where(keep, z.astype(jnp.float32), 0.0)
  count = jnp.sum(mask, dtype=jnp.float32)
  mean = jnp.sum(z, axis=0) / jnp.maximum(count, 1)
  z = jnp.where(keep, z - mean[None], 0.0)
  scatter = jnp.einsum('nd,ne->de', z, z, precision='highest')
  return accumulator_merge(state, SpectrumAccumulator(count, mean, scatter))


def accumulator_merge(
    a: SpectrumAccumulator, b: SpectrumAccumulator
) -> SpectrumAccumulator:
  """Returns the accumulator of the rows of both, as from two hosts."""
  count = a.count + b.count
  share = b.count / jnp.maximum(count, 1)
  gap = b.mean - a.mean
  return SpectrumAccumulator(
      count,
      a.mean + share * gap,
      a.scatter + b.scatter + a.count * share * jnp.outer(gap, gap),
  )


def accumulated_entropy(
    state: SpectrumAccumulator,
    *,
    alpha: float = 2.0,
    center: bool = False,
    base: float | None = None,
) -> jax.Array:
  """Computes `matrix_entropy` of all rows without having kept them.

  From the Gram matrix alone small eigenvalues are known to about 1e-7 of the
  largest, and those below 5e-7 of it count as 0: for α < 1 this is coarser
  than `matrix_entropy`.

  Args:
    alpha: Order, in [0, inf]; static.
    center: Subtract the mean of all rows.
    base: Base of the logarithm; None for nats, 2 for bits.

  Returns:
    Scalar float32 in [0, log D]; 0 when no row was seen, NaN where the rows
    are of a scale that `accumulate` does not take.

  Raises:
    ValueError: If `alpha` or `base` is out of range.
  """
  nats = checks.nats_per_unit(base)
  alpha = checks.order(alpha)
  k, trace = _moments(state, center)
  return spectral.entropy_of_gram(k, trace, alpha) / nats


def accumulated_spectrum(
    state: SpectrumAccumulator, *, center: bool = False
) -> jax.Array:
  """Computes `matrix_spectrum` of all rows without having kept them.

  Args:
    center: Subtract the mean of all rows.

  Returns:
    [D] float32 probabilities, descending; all 0 when no row was seen. Those
    below 5e-7 of the largest are 0, see `accumulated_entropy`.

  Example:
    >>> state = accumulate(accumulator_init(2), jnp.diag(jnp.array([2.0, 1.0])))
    >>> print(accumulated_spectrum(state))
    [0.8 0.2]
  """
  p = spectral.spectrum_of_gram(*_moments(state, center))
  return -jnp.sort(-p)


def _moments(state, center):
  """The Gram matrix about 0 or the mean, and its trace."""
  k = state.scatter
  moment = gram.checked_trace(
      k + state.count * jnp.outer(state.mean, state.mean),
      jnp.max(jnp.abs(state.mean)),
  )
  if center:
    # As in `gram.prepare`: rows equal up to rounding have no spread at all.
    floor = (4 * gram.EPSILON) ** 2 * state.count * jnp.sum(state.mean**2)
    k = jnp.where(gram.trace(k) > floor, k, 0.0)
  else:
    k = k + state.count * jnp.outer(state.mean, state.mean)
  return k, jnp.where(jnp.isnan(moment), jnp.nan, gram.trace(k))
