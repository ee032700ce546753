"""Rényi entropy of a probability vector, and its slope, at any order."""

import math

import jax
import jax.numpy as jnp

from iblm_jax.information import gram

# Around order 1, 1/(1-α) magnifies the rounding of log Σ p^α; there the sum
# is written as 1 + Σ p (p^(α-1) - 1), whose small part keeps its digits.
_NEAR_ONE = 0.25


def entropy(p: jax.Array, alpha: float) -> jax.Array:
  """Returns the entropy [...] in nats of `p` [..., n] >= 0 that sums to 1.

  S_α = log(Σ p_i^α) / (1-α); entries that are exactly 0 do not count. If all
  entries are 0, so is the entropy.
  """
  positive = p > 0
  log_p = jnp.log(jnp.where(positive, p, 1.0))
  if alpha == 0:
    count = jnp.sum(positive, axis=-1, dtype=p.dtype)
    return jnp.log(jnp.maximum(count, 1))
  if alpha == 1:
    return -jnp.sum(p * log_p, axis=-1)
  if abs(alpha - 1) <= _NEAR_ONE:
    excess = jnp.sum(p * jnp.expm1((alpha - 1) * log_p), axis=-1)
    return jnp.log1p(excess) / (1 - alpha)
  # Relative to the largest entry, so that no power underflows to a log of 0.
  log_max = jnp.max(
      jnp.where(positive, log_p, -jnp.inf), axis=-1, keepdims=True
  )
  log_max = jnp.where(log_max > -jnp.inf, log_max, 0.0)
  if math.isinf(alpha):
    return -log_max[..., 0]
  power = jnp.exp(alpha * (log_p - log_max))
  total = jnp.sum(jnp.where(positive, power, 0.0), axis=-1)
  log_total = jnp.log(jnp.where(total > 0, total, 1.0))
  # α/(1-α) written so that it does not overflow for a huge order
  return log_max[..., 0] / (1 / alpha - 1) + log_total / (1 - alpha)


def slope(p: jax.Array, alpha: float) -> jax.Array:
  """Returns the derivative of `entropy` by `p` on the simplex, [..., n].

  It is defined up to a constant, which directions that keep the sum of `p` do
  not see. The constant makes the slope smooth at order 1 (-log p), and
  Σ p_i slope_i = 0. Entries that are 0 get slope 0: for α < 1 that drops the
  pole there. At order inf tied largest entries share the slope.
  """
  positive = p > 0
  log_p = jnp.log(jnp.where(positive, p, 1.0))
  if alpha == 0:
    return jnp.zeros_like(p)
  if abs(alpha - 1) <= _NEAR_ONE:
    if alpha == 1:
      g = -log_p
    else:
      tilt = jnp.expm1((alpha - 1) * log_p)
      total = 1 + jnp.sum(p * tilt, axis=-1, keepdims=True)
      g = alpha / (1 - alpha) * tilt / total
  else:
    largest = jnp.max(p, axis=-1, keepdims=True)
    largest = jnp.where(largest > 0, largest, 1.0)
    if math.isinf(alpha):
      tied = p >= largest * (1 - 8 * gram.EPSILON)
      ties = jnp.sum(tied, axis=-1, keepdims=True, dtype=p.dtype)
      g = -tied.astype(p.dtype) / (largest * jnp.maximum(ties, 1))
    else:
      log_ratio = log_p - jnp.log(largest)
      power = jnp.where(positive, jnp.exp((alpha - 1) * log_ratio), 0.0)
      total = jnp.sum(power * p, axis=-1, keepdims=True)
      g = power / jnp.where(total > 0, total, 1.0) / (1 / alpha - 1)
  return jnp.where(positive, g - jnp.sum(g * p, axis=-1, keepdims=True), 0.0)
