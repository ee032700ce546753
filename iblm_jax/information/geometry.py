"""Shapes of clouds and paths of states: cosines, angles, dimensions."""

import jax
import jax.numpy as jnp

from iblm_jax.information import checks, gram


def mean_cosine(z: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
  """Computes the mean cosine of two different rows, a measure of anisotropy.

  Args:
    z: [..., N, D] floating, of any scale.
    mask: [..., N] bool, rows that count; None for all. Rows of zeros never do.

  Returns:
    [...] float32 in [-1 / (n - 1), 1]; NaN with fewer than two rows.

  Raises:
    ValueError: If `z` is not floating [..., N, D], or the mask not [..., N].

  Example:
    >>> print(mean_cosine(jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])))
    0.33333334

  References:
    Ethayarajh, How contextual are contextualized word representations?
    (arXiv 1909.00512).
  """
  checks.rows(z, mask)
  unit = gram.prepare(z, mask, center=False, normalize=True)
  square = jnp.sum(unit * unit, axis=(-2, -1))
  count = jnp.sum(jnp.any(unit != 0, axis=-1), axis=-1, dtype=jnp.float32)
  total = jnp.sum(unit, axis=-2)
  return cosine_of_sum(jnp.sum(total * total, axis=-1), square, count)


def cosine_of_sum(
    square_of_sum: jax.Array, sum_of_squares: jax.Array, count: jax.Array
) -> jax.Array:
  """Returns the mean cosine of `count` unit rows from their sums."""
  pairs = count * (count - 1)
  cosine = (square_of_sum - sum_of_squares) / jnp.maximum(pairs, 1)
  # Rounding may leave the range; NaN passes.
  return jnp.where(count > 1, jnp.clip(cosine, -1.0, 1.0), jnp.nan)


def curvature(z: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
  """Computes the mean angle between successive steps of a path of states.

  A step is the difference of a row and the row before it that counts; steps of
  length 0 have no direction, so their two angles are left out.

  Args:
    z: [..., L, D] floating, states along a prompt, of any scale.
    mask: [..., L] bool, rows that count; None for all.

  Returns:
    [...] float32 in [0, π], radians: 0 on a straight line, π / 2 on average
    where steps are independent in many dimensions. NaN where there is no angle.

  Raises:
    ValueError: If `z` is not floating [..., L, D], or the mask not [..., L].

  Example:
    >>> square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> print(round(float(curvature(square)), 4))
    1.5708

  References:
    arXiv 2502.02013; Hosseini and Fedorenko, Large language models implicitly
    learn to straighten neural sentence trajectories (arXiv 2311.04930).
  """
  checks.rows(z, mask)
  if z.shape[-2] < 3:
    return jnp.full(z.shape[:-2], jnp.nan, jnp.float32)
  z = gram.prepare(z, mask, center=False, normalize=False)
  if mask is None:
    mask = jnp.ones(z.shape[:-1], bool)
  # Rows that count come first, in their order: then neighbours are successive.
  order = jnp.argsort(~mask, axis=-1, stable=True)
  z = jnp.take_along_axis(z, order[..., None], axis=-2)
  keep = jnp.take_along_axis(mask, order, axis=-1)
  both = keep[..., 1:] & keep[..., :-1]
  step = gram.prepare(
      z[..., 1:, :] - z[..., :-1, :], both, center=False, normalize=True
  )
  first, second = step[..., :-1, :], step[..., 1:, :]
  length = lambda x: jnp.sqrt(jnp.sum(x * x, axis=-1))
  # The arc cosine loses half of the digits where steps are parallel.
  angle = 2 * jnp.arctan2(length(first - second), length(first + second))
  moves = jnp.any(step != 0, axis=-1)
  counts = moves[..., 1:] & moves[..., :-1]
  count = jnp.sum(counts, axis=-1, dtype=jnp.float32)
  total = jnp.sum(jnp.where(counts, angle, 0.0), axis=-1)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def intrinsic_dimension(
    z: jax.Array, *, mask: jax.Array | None = None, discard: float = 0.1
) -> jax.Array:
  """Estimates the dimension of the set that the rows lie on, by TwoNN.

  Of each row μ is the distance to its second nearest neighbour over that to
  its nearest. On a set of dimension d with a locally constant density
  -log(1 - F(μ)) = d log μ, and d is the slope of the line through 0 that fits
  the empirical F best. Rows that repeat another, up to rounding, are left out:
  they would have a nearest neighbour at distance 0. N x N distances are held.

  Args:
    z: [..., N, D] floating, of any scale.
    mask: [..., N] bool, rows that count; None for all.
    discard: Share of the largest μ that the fit leaves out, in [0, 1); static.

  Returns:
    [...] float32 > 0; inf where all distances are equal, as of orthonormal
    rows, and NaN with fewer than three different rows. Too low for sets of
    many dimensions, for which any number of rows is few.

  Raises:
    ValueError: If `discard` is out of range, `z` is not floating [..., N, D],
      or the mask not [..., N].

  Example:
    >>> angle = 6.2832 * jax.random.uniform(jax.random.key(0), [1000])
    >>> circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    >>> print(0.9 < float(intrinsic_dimension(circle)) < 1.1)
    True

  References:
    Facco, d'Errico, Rodriguez, Laio, Estimating the intrinsic dimension of
    datasets by a minimal neighborhood information (arXiv 1803.06992).
  """
  checks.rows(z, mask)
  if not 0 <= discard < 1:
    raise ValueError(f'discard must lie in [0, 1), got {discard!r}.')
  z = gram.prepare(z, mask, center=False, normalize=False)
  if mask is None:
    mask = jnp.ones(z.shape[:-1], bool)
  count = z.shape[-2]
  found = jax.vmap(lambda z, keep: _two_nn(z, keep, discard))(
      z.reshape(-1, count, z.shape[-1]), mask.reshape(-1, count)
  )
  return found.reshape(z.shape[:-2])


def _two_nn(z_NxD, keep_N, discard):
  # Differences, not a Gram matrix: near neighbours would lose their digits.
  square_NxN = jax.lax.map(
      lambda row_D: jnp.sum((z_NxD - row_D[None]) ** 2, axis=-1), z_NxD
  )
  index_N = jnp.arange(len(z_NxD))
  earlier_NxN = (index_N[None] < index_N[:, None]) & keep_N[None]
  floor_N = (4 * gram.EPSILON) ** 2 * jnp.sum(z_NxD * z_NxD, axis=-1)
  repeats_N = jnp.any(
      earlier_NxN & (square_NxN <= floor_N[:, None]), axis=-1
  )
  keep_N = keep_N & ~repeats_N
  other_NxN = keep_N[None] & (index_N[None] != index_N[:, None])
  distance_NxN = jnp.where(other_NxN, square_NxN, jnp.inf)
  first_N = jnp.min(distance_NxN, axis=-1)
  at_N = jnp.argmin(distance_NxN, axis=-1)
  distance_NxN = jnp.where(
      index_N[None] == at_N[:, None], jnp.inf, distance_NxN
  )
  second_N = jnp.min(distance_NxN, axis=-1)
  # Logarithms first: a ratio of squares may leave the range of float32.
  positive = lambda x_N: jnp.where(keep_N & jnp.isfinite(x_N), x_N, 1.0)
  log_mu_N = jnp.log(positive(second_N)) - jnp.log(positive(first_N))
  log_mu_N = jnp.sort(jnp.where(keep_N, log_mu_N / 2, jnp.inf))
  count = jnp.sum(keep_N, dtype=jnp.float32)
  used = jnp.minimum(jnp.floor(count * (1 - discard)), count - 1)
  rank_N = (index_N + 1).astype(jnp.float32)
  fits_N = rank_N <= used
  x_N = jnp.where(fits_N, log_mu_N, 0.0)
  y_N = -jnp.log1p(-jnp.where(fits_N, rank_N / jnp.maximum(count, 1), 0.0))
  slope = jnp.sum(x_N * y_N) / jnp.sum(x_N * x_N)
  slope = jnp.where(jnp.sum(x_N) > 0, slope, jnp.inf)
  bad = jnp.any(jnp.isnan(z_NxD)) | (count < 3)
  return jnp.where(bad, jnp.nan, slope)
