"""Mixing predictions with the uniform distribution, which bounds the loss.

p_α(x) = (1-α) p(x) + α/V makes -log2 p_α at most log2(V/α). What is certified
is then the smoothed model, and which tokens rank first does not change
(arXiv 2312.17173, section on prediction smoothing).

The functions of arrays take NumPy arrays, and compute in float64 on the host,
or JAX arrays, in their dtype and inside `jax.jit`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.bounds import _checks

# Of the paper's code. Reporting the best of the eight costs ln 8 nats.
ALPHAS = (1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.25, 0.5)

Array = jax.Array | np.ndarray


class SmoothRange(NamedTuple):
  """Values in bits that the loss of a token can take."""

  lo: float
  hi: float
  delta: float


def smooth_range(alpha: float, V: int) -> SmoothRange:
  """Computes the smallest and largest loss of a token after smoothing.

  lo = -log2(1-α+α/V), hi = log2(V/α), delta = log2(1 + (1-α)V/α); the mean over
  a document lies in the same interval however its tokens depend on each other.

  Args:
    alpha: Weight of the uniform distribution, in (0, 1).
    V: Size of the vocabulary, at least 2.

  Returns:
    (lo, hi, delta = hi - lo) in bits.

  Example:
    >>> [round(x, 6) for x in smooth_range(0.1, 256)]
    [0.151377, 11.321928, 11.170551]
  """
  alpha = _checks.probability('alpha', alpha)
  V = _checks.integer('V', V, 2)
  lo = -math.log1p(alpha / V - alpha) / math.log(2)
  hi = math.log2(V / alpha)
  return SmoothRange(lo, hi, math.log2(1 + (1 - alpha) * V / alpha))


def smoothed_nll_bits(logp: Array, alpha: float, V: int) -> Array:
  """Computes -log2 of the smoothed probability of tokens.

  Args:
    logp: [...] log-probabilities in nats, at most 0; -inf is allowed.
    alpha: Weight of the uniform distribution, in (0, 1); static.
    V: Size of the vocabulary, at least 2; static. Where the softmax runs over
      padding as well, V is still what the data uses: padding only wastes mass.

  Returns:
    [...] bits, in the interval of `smooth_range` up to rounding.

  Example:
    >>> import numpy as np
    >>> smoothed_nll_bits(np.log([0.5, 0.01]), 0.1, 4).round(4)
    array([1.074 , 4.8783])
  """
  alpha = _checks.probability('alpha', alpha)
  V = _checks.integer('V', V, 2)
  xp, logp = _floating('logp', logp)
  if xp is np:  # Ten times as fast as logaddexp, and as exact in float64.
    return -np.log2((1 - alpha) * np.exp(logp) + alpha / V)
  mixed = jnp.logaddexp(math.log1p(-alpha) + logp, math.log(alpha / V))
  return -mixed / math.log(2)


def doc_losses(
    logp: Array, mask: Array, alphas: Sequence[float], V: int
) -> Array:
  """Computes the mean smoothed loss of each document, for each α.

  Args:
    logp: [N, T] log-probabilities in nats of the tokens that came. Values where
      the mask is False are not looked at and may be NaN.
    mask: [N, T] bool, True for tokens that are scored.
    alphas: [A] weights of the uniform distribution, each in (0, 1); static.
    V: Size of the vocabulary, at least 2; static.

  Returns:
    [A, N] bits. A document without a scored token gets inf, which every bound
    refuses: leave such rows out, do not average them in as 0.

  Example:
    >>> import numpy as np
    >>> logp = np.log([[0.5, 0.25], [0.125, 1.0]])
    >>> mask = np.array([[True, True], [True, False]])
    >>> doc_losses(logp, mask, [1e-9], 4).round(6)
    array([[1.5, 3. ]])
  """
  alphas = [_checks.probability('alphas', alpha) for alpha in alphas]
  if not alphas:
    raise ValueError('alphas must hold at least one number, got none.')
  xp, logp = _floating('logp', logp)
  if logp.ndim != 2:
    raise ValueError(f'logp must have shape [N, T], got {logp.shape}.')
  mask = check_mask(mask, logp.shape)
  logp = xp.where(mask, logp, 0)
  return xp.stack([
      masked_mean(smoothed_nll_bits(logp, alpha, V), mask) for alpha in alphas
  ])


def masked_mean(x: Array, mask: Array) -> Array:
  """Means [N] of x [N, T] over the mask; inf where the mask is empty."""
  xp = namespace(x)
  count = mask.sum(-1)
  total = xp.where(mask, x, 0).sum(-1)
  return xp.where(count > 0, total / xp.maximum(count, 1), xp.inf)


def check_mask(mask: Array, shape: tuple[int, ...]) -> Array:
  """`mask` if it is bool and has `shape`; ValueError otherwise."""
  if mask.shape != shape or mask.dtype != bool:
    raise ValueError(
        f'mask must be bool of shape {shape}, got {mask.dtype} of shape'
        f' {mask.shape}.'
    )
  return mask


def namespace(x: Array) -> Any:
  """The module that computes with `x`: numpy or jax.numpy."""
  return np if isinstance(x, np.ndarray | np.generic) else jnp


def _floating(name: str, x: Array) -> tuple[Any, Array]:
  xp = namespace(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f'{name} must be floating, got dtype {x.dtype}.')
  # Half precision would cost more than the bounds gain; the host has float64.
  dtype = np.float64 if xp is np else jnp.promote_types(x.dtype, jnp.float32)
  return xp, x.astype(dtype)
