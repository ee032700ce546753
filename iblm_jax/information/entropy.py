"""Matrix-based (Rényi) entropy of representations, with a gradient that holds.

References:
  Sanchez Giraldo, Rao, Principe, Measures of entropy from data using
  infinitely divisible kernels (arXiv 1211.2459). Patched entropy as a training
  signal: IBLM and GAPT (arXiv 2505.08727).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.information import checks, gram, spectral


@dataclasses.dataclass(frozen=True)
class EntropyConfig:
  """Options of the entropy that layers are measured with.

  Attributes:
    alpha: Order of the Rényi entropy, in [0, inf].
    patch_size: Tokens in a window, at least 2.
    center: Subtract each window's mean first, so that an offset that all
      tokens share does not hide the rest.
    normalize: Scale token vectors to unit norm first.

  Raises:
    ValueError: If a value is outside its range.
  """

  alpha: float = 2.0
  patch_size: int = 8
  center: bool = False
  normalize: bool = False

  @property
  def uses_eigenvalues(self) -> bool:
    """Whether the order needs a spectrum, not only powers of a matrix."""
    return self.alpha not in spectral.POWERS

  def __post_init__(self):
    checks.order(self.alpha)
    checks.patch_size(self.patch_size)


class _Options(NamedTuple):
  """Static arguments of the custom derivatives below."""

  alpha: float
  center: bool
  normalize: bool


def matrix_entropy(
    z: jax.Array,
    *,
    alpha: float = 2.0,
    mask: jax.Array | None = None,
    center: bool = False,
    normalize: bool = False,
    base: float | None = None,
) -> jax.Array:
  """Computes the matrix-based entropy S_α of the rows of `z`.

  S_α = log(Σ p_i^α) / (1-α), with p_i the eigenvalues of Z Zᵀ / tr(Z Zᵀ);
  α = 1 is the von Neumann entropy -Σ p_i log p_i, α = 0 the log of the rank,
  α = inf is -log max p_i. It falls as α grows. Float32 throughout; orders 2 to
  8 that are integers need no eigenvalues. For α < 1 an eigenvalue below 1e-7
  of the largest counts as 0, and where the slope has a pole (an eigenvalue 0)
  the gradient leaves that direction out.

  Args:
    z: [..., N, D] floating; rows are samples, of any scale.
    alpha: Order, in [0, inf]; static.
    mask: [..., N] bool, rows that count; None for all.
    center: Subtract the mean of the rows that count.
    normalize: Scale rows (after centring) to unit norm; zero rows stay zero.
    base: Base of the logarithm; None for nats, 2 for bits.

  Returns:
    [...] float32 in [0, log min(N, D)]. If no row counts or all are zero: 0,
    with gradient 0.

  Raises:
    ValueError: If an option is out of range, `z` is not floating [..., N, D],
      or the mask not [..., N].

  Example:
    >>> float(matrix_entropy(jnp.eye(8), base=2))
    3.0

  References:
    arXiv 1211.2459.
  """
  nats = checks.nats_per_unit(base)
  options = _Options(checks.order(alpha), center, normalize)
  checks.rows(z, mask)
  return _matrix_entropy(options, z, mask) / nats


def patch_entropy(
    x: jax.Array,
    *,
    patch_size: int,
    alpha: float = 2.0,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    center: bool = False,
    normalize: bool = False,
    base: float | None = None,
) -> jax.Array:
  """Computes the mean entropy of non-overlapping windows along a sequence.

  The tail that fills no window, and windows with fewer than two valid tokens,
  are left out. A window that several documents share counts for the document
  with the most valid tokens in it (the earliest of equals); the other rows are
  dropped. The backward pass does no work where the cotangent is zero.

  Args:
    x: [B, L, D] floating, representations of L tokens. The root mean
      square of a window, for `normalize` of each row, is 0 or between 1e-15
      and 1e15, where float32 holds the squares: others give NaN.
    patch_size: Tokens in a window, 2 <= patch_size <= L; static.
    mask: [B, L] bool, valid tokens; None for all.
    segment_ids: [B, L] integer, the document that a token is from. Padding is
      marked by `mask`, not by an id.
    center: Subtract the mean of the window's valid tokens.

  Returns:
    Scalar float32 in [0, log min(patch_size, D)]; 0 without a valid window.

  Raises:
    ValueError: If an option is out of range, or the shape or dtype of an array
      does not fit.

  Example:
    >>> x = jnp.tile(jnp.eye(4), (1, 2, 1))  # B=1, L=8, D=4
    >>> round(float(patch_entropy(x, patch_size=4, base=2)), 6)
    2.0

  References:
    arXiv 2505.08727, section 3.
  """
  nats = checks.nats_per_unit(base)
  options = _Options(checks.order(alpha), center, normalize)
  keep = rows_that_count(x, patch_size, mask, segment_ids)
  return _patch_entropy(options, patch_size, x, keep) / nats


def rows_that_count(
    x: jax.Array | jax.ShapeDtypeStruct,
    patch_size: int,
    mask: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array | None:
  """Checks the arrays of `patch_entropy` and marks the rows to measure.

  Returns:
    [B, W, patch_size] bool, or None where all rows count.

  Raises:
    ValueError: If a shape, dtype or patch_size does not fit.
  """
  ok = x.ndim == 3 and 0 not in x.shape
  checks.shape('x', x, '[B, L, D], each >= 1', ok)
  checks.floating('x', x)
  checks.patch_size(patch_size, x.shape[1])
  checks.like_rows('mask', mask, x.shape[:2])
  checks.like_rows('segment_ids', segment_ids, x.shape[:2])
  keep = None
  if mask is not None:
    keep = windows(mask, patch_size).astype(bool)
  if segment_ids is not None:
    keep = _one_document(windows(segment_ids, patch_size), keep)
  return keep


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matrix_entropy(options, x, keep):
  z = _prepare(options, x, keep)
  return spectral.entropy(z, options.alpha)


def _matrix_entropy_fwd(options, x, keep):
  z = _prepare(options, x, keep)
  s, residuals = spectral.entropy_and_residuals(z, options.alpha)
  return s, (x, keep, residuals)


def _matrix_entropy_bwd(options, saved, cotangent):
  x, keep, residuals = saved
  return _pullback(options, x, keep, residuals, cotangent), None


_matrix_entropy.defvjp(_matrix_entropy_fwd, _matrix_entropy_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _patch_entropy(options, patch_size, x, keep):
  rows = windows(x, patch_size)
  z = _prepare(options, rows, keep, rescale=False)
  s = spectral.entropy(z, options.alpha, gram.few_entries(rows, keep))
  return jnp.sum(s * window_weights(s, keep))


def _patch_entropy_fwd(options, patch_size, x, keep):
  rows = windows(x, patch_size)
  z = _prepare(options, rows, keep, rescale=False)
  s, residuals = spectral.entropy_and_residuals(
      z, options.alpha, gram.few_entries(rows, keep)
  )
  weights = window_weights(s, keep)
  return jnp.sum(s * weights), (x, keep, residuals, weights)


def _patch_entropy_bwd(options, patch_size, saved, cotangent):
  x, keep, residuals, weights = saved

  def pull(cotangent):
    rows = windows(x, patch_size)
    dx = _pullback(
        options, rows, keep, residuals, cotangent * weights, rescale=False
    )
    dx = dx.reshape(x.shape[0], -1, x.shape[2])
    return jnp.pad(dx, ((0, 0), (0, x.shape[1] - dx.shape[1]), (0, 0)))

  # The gate multiplies the cotangent by 0 through a whole phase. The branch
  # is taken on a replicated scalar, so it costs no communication.
  dx = jax.lax.cond(
      cotangent != 0, pull, lambda _: jnp.zeros_like(x), cotangent
  )
  return dx, None


_patch_entropy.defvjp(_patch_entropy_fwd, _patch_entropy_bwd)


def _prepare(options, x, keep, rescale=True):
  return gram.prepare(
      x,
      keep,
      center=options.center,
      normalize=options.normalize,
      rescale=rescale,
  )


def _pullback(options, x, keep, residuals, cotangent, rescale=True):
  """Returns the gradient by `x` through the preparation of the rows."""
  z, through = jax.vjp(lambda x: _prepare(options, x, keep, rescale), x)
  dz = spectral.pullback(z, residuals, cotangent, options.alpha)
  return through(dz)[0]


def windows(x: jax.Array, patch_size: int) -> jax.Array:
  """Cuts [B, L, ...] into windows [B, W, patch_size, ...], without the tail.

  Batch and window axes are not merged, so a sharded batch stays where it is.
  """
  batch, length = x.shape[:2]
  count = length // patch_size
  x = x[:, :count * patch_size]
  return x.reshape(batch, count, patch_size, *x.shape[2:])


def _one_document(segment_ids, keep):
  """Marks the rows [B, W, P] of each window's best represented document."""
  same = segment_ids[..., :, None] == segment_ids[..., None, :]
  if keep is not None:
    same &= keep[..., :, None] & keep[..., None, :]
  count = jnp.sum(same, axis=-1)
  first = jnp.argmax(count, axis=-1, keepdims=True)
  return jnp.take_along_axis(same, first[..., None], axis=-2)[..., 0, :]


def window_weights(s: jax.Array, keep: jax.Array | None) -> jax.Array:
  """Returns weights [B, W] of a mean over windows with 2 valid tokens."""
  if keep is None:
    return jnp.full_like(s, 1 / s.size)
  valid = jnp.sum(keep, axis=-1) >= 2
  count = jnp.sum(valid, dtype=s.dtype)
  return valid.astype(s.dtype) / jnp.maximum(count, 1)
