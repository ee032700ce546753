"""Entropies of representations, centred or not, in one call."""

import jax
import jax.numpy as jnp

from iblm_jax.information import entropy, gram, spectrum

_ORDERS = {'order_1': 1.0, 'order_2': 2.0, 'order_inf': float('inf')}


def compression_profile(
    x_BxLxD: jax.Array,
    *,
    patch_size: int,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Measures entropies of windows, and what may make them small.

  The matrix-based entropy of rows that share a large offset is close to 0
  whatever else they hold. So the entropy comes with its centred counterpart
  and with the share of the trace that the mean direction holds: where the
  first falls, the second stays and the third rises, nothing was compressed
  but the offset grew.

  Windows, and the rows in them that count, are those of `patch_entropy`; all
  values but 'rms' are means over the windows with at least two valid tokens.

  Args:
    x_BxLxD: Floating, representations of L tokens.
    patch_size: Tokens in a window, 2 <= patch_size <= L; static.
    mask: [B, L] bool, valid tokens; None for all.
    segment_ids: [B, L] integer, the document that a token is from.

  Returns:
    Float32 scalars; all 0 without a valid window ('rms': a valid token).

    * 'entropy/order_1', 'entropy/order_2', 'entropy/order_inf': S_α, nats, in
      [0, log min(patch_size, D)].
    * 'entropy_centered/order_1', '.../order_2', '.../order_inf': The same
      after the window's mean is subtracted.
    * 'entropy_normalized/order_2': S_2 of the rows scaled to unit norm, nats.
    * 'mean_share': n ‖mean‖² / Σ ‖row‖² of a window's n rows, in [0, 1].
    * 'longest_row': Share of the trace Σ ‖row‖² of the longest row, in
      [1 / patch_size, 1]: another way to a low entropy, centred or not.
    * 'effective_rank': exp S_1, in [1, min(patch_size, D)].
    * 'rms': Root mean square entry over valid tokens.

  Raises:
    ValueError: As of `patch_entropy`.

  References:
    arXiv 2505.08727, section 3 (windows); the centred ones are ours.

  Example:
    >>> x = jnp.tile(jnp.eye(4), (1, 2, 1))  # B=1, L=8, D=4
    >>> profile = compression_profile(x + 100.0, patch_size=4)
    >>> print(f"{profile['entropy/order_2']:.3f}")
    0.000
    >>> print(f"{profile['entropy_centered/order_2']:.3f}")  # log 3
    1.099
  """
  keep = entropy.rows_that_count(x_BxLxD, patch_size, mask, segment_ids)
  rows_BxWxPxD = entropy.windows(x_BxLxD, patch_size)
  prepare = lambda **options: gram.prepare(
      rows_BxWxPxD, keep, **{'center': False, 'normalize': False, **options}
  )
  rows = prepare()
  # As one batch, so that the eigenvalues are one compiled loop, not two.
  p_2xBxWxK = spectrum.matrix_spectrum(jnp.stack([rows, prepare(center=True)]))
  found = {}
  for order, alpha in _ORDERS.items():
    raw, centred = spectrum.entropy_of_spectrum(p_2xBxWxK, alpha=alpha)
    found[f'entropy/{order}'] = raw
    found[f'entropy_centered/{order}'] = centred
  found['entropy_normalized/order_2'] = entropy.matrix_entropy(
      prepare(normalize=True), alpha=2.0
  )
  found['mean_share'] = mean_share(rows, keep)
  found['longest_row'] = _longest_row(rows)
  found['effective_rank'] = jnp.exp(found['entropy/order_1'])
  weights_BxW = entropy.window_weights(found['mean_share'], keep)
  return {
      **{name: jnp.sum(s * weights_BxW) for name, s in found.items()},
      'rms': _root_mean_square(x_BxLxD, mask),
  }


def mean_share(z: jax.Array, keep: jax.Array | None = None) -> jax.Array:
  """Returns the share of the trace that the mean row's direction holds.

  Args:
    z: [..., N, D] floating, of any scale; rows that do not count are 0.
    keep: [..., N] bool, rows that count; None for all.

  Returns:
    [...] n ‖mean‖² / Σ ‖row‖² of the n rows that count, in [0, 1]; 0 without
    one.

  Example:
    >>> print(mean_share(jnp.array([[1.0, 1.0], [1.0, -1.0]])))
    0.5
  """
  z = z * gram.to_unit(z, axis=(-2, -1))
  total = jnp.sum(z, axis=-2)
  if keep is None:
    count = z.shape[-2]
  else:
    count = jnp.maximum(jnp.sum(keep, axis=-1), 1)
  along = jnp.sum(total * total, axis=-1) / count
  trace = jnp.sum(z * z, axis=(-2, -1))
  # Cauchy and Schwarz say at most 1; rounding does not know. NaN stays.
  return jnp.minimum(along / jnp.where(trace == 0, 1.0, trace), 1.0)


def _longest_row(z):
  square = jnp.sum(z * z, axis=-1)
  trace = jnp.sum(square, axis=-1)
  return jnp.max(square, axis=-1) / jnp.where(trace == 0, 1.0, trace)


def _root_mean_square(x_BxLxD, mask):
  x_BxLxD = x_BxLxD.astype(jnp.float32)
  if mask is not None:
    x_BxLxD = jnp.where(mask[..., None], x_BxLxD, 0.0)
  scale = gram.to_unit(x_BxLxD, axis=None)
  x_BxLxD = x_BxLxD * scale
  if mask is None:
    mean = jnp.mean(x_BxLxD * x_BxLxD)
  else:
    count = jnp.sum(mask, dtype=jnp.float32) * x_BxLxD.shape[-1]
    mean = jnp.sum(x_BxLxD * x_BxLxD) / jnp.maximum(count, 1)
  return jnp.sqrt(mean) / scale[0, 0, 0]
