"""Top-k errors: losses in [0, 1] that need no smoothing."""

from collections.abc import Sequence

import jax.numpy as jnp

from iblm_jax.bounds import _checks, smoothing
from iblm_jax.bounds.smoothing import Array


def rank_of_target(logits: Array, y: Array) -> Array:
  """Counts the other tokens that score at least as high as the one that came.

  Ties count against the model, and so does NaN, so a model cannot gain by
  giving all tokens the same score. No sort: one comparison a token.

  Args:
    logits: [..., V] floating.
    y: [...] integers in 0..V-1, the tokens that came.

  Returns:
    [...] int32 in 0..V-1; 0 is the best rank.

  Example:
    >>> import numpy as np
    >>> logits = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    >>> rank_of_target(logits, np.array([2, 0]))
    array([1, 2], dtype=int32)
  """
  xp = smoothing.namespace(logits)
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(f'logits must be floating, got dtype {logits.dtype}.')
  if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != logits.shape[:-1]:
    raise ValueError(
        f'y must be integer of shape {logits.shape[:-1]}, got {y.dtype} of'
        f' shape {y.shape}.'
    )
  target = xp.take_along_axis(logits, y[..., None], axis=-1)
  # Not `logits >= target`: with NaN that is False, which would rank first.
  return (~(logits < target)).sum(-1, dtype=xp.int32) - 1


def top_k_errors(ranks: Array, mask: Array, ks: Sequence[int]) -> Array:
  """Computes the share of tokens that are not among the k best guesses.

  Args:
    ranks: [N, T] integers from `rank_of_target`.
    mask: [N, T] bool, True for tokens that are scored.
    ks: [K] numbers of guesses, each at least 1; static. Each is a loss of its
      own: to claim all K at once, or to report the best, give the bound
      `n_alpha=K`.

  Returns:
    [K, N] in [0, 1], float64 for NumPy and float32 for JAX; inf for a document
    without a scored token, which every bound refuses.

  Example:
    >>> import numpy as np
    >>> ranks = np.array([[0, 1, 7, 0]])
    >>> mask = np.array([[True, True, True, False]])
    >>> top_k_errors(ranks, mask, (1, 2)).round(3)
    array([[0.667],
           [0.333]])
  """
  ks = [_checks.integer('ks', k) for k in ks]
  if not ks:
    raise ValueError('ks must hold at least one number, got none.')
  if ranks.ndim != 2 or not jnp.issubdtype(ranks.dtype, jnp.integer):
    raise ValueError(
        f'ranks must be integer of shape [N, T], got {ranks.dtype} of shape'
        f' {ranks.shape}.'
    )
  mask = smoothing.check_mask(mask, ranks.shape)
  xp = smoothing.namespace(ranks)
  dtype = xp.float32 if xp is jnp else xp.float64
  return xp.stack([
      smoothing.masked_mean((ranks >= k).astype(dtype), mask) for k in ks
  ])
