"""How far apart two groups of representations lie, and who tells them apart."""

import jax
import jax.numpy as jnp

from iblm_jax.information import checks, gram


def separation_ratio(a_NxD: jax.Array, b_MxD: jax.Array) -> jax.Array:
  """Measures the distance of two groups' means in units of their spread.

  ‖mean(a) - mean(b)‖ / sqrt((var(a) + var(b)) / 2), var being the mean squared
  distance of a group's rows to their mean. Translations, rotations and a
  common scale do not change it.

  Args:
    a_NxD: Floating, N >= 1; rows are samples, of any scale.
    b_MxD: Floating, M >= 1, of the same.

  Returns:
    Scalar float32 >= 0. If neither group has any spread: 0 where the means are
    equal, else inf.

  Raises:
    ValueError: If an array is no floating matrix, or the widths differ.

  Example:
    >>> a_NxD = jnp.array([[0.0, 1.0], [0.0, -1.0]])
    >>> print(separation_ratio(a_NxD, a_NxD + jnp.array([[3.0, 0.0]])))
    3.0

  References:
    The experiment on conflicting experience of arXiv 2505.08727.
  """
  checks.one_width(a_NxD=a_NxD, b_MxD=b_MxD)
  both = jnp.concatenate([a_NxD, b_MxD]).astype(jnp.float32)
  both = both * gram.to_unit(both, axis=None)
  mean_a_D, var_a = _moments(both[:a_NxD.shape[0]])
  mean_b_D, var_b = _moments(both[a_NxD.shape[0]:])
  # One square root of the ratio: no pole in the derivative where it is 0 / x.
  square = jnp.sum((mean_a_D - mean_b_D) ** 2)
  spread = (var_a + var_b) / 2
  ratio = square / jnp.where(spread > 0, spread, 1.0)
  positive = ratio > 0
  root = jnp.where(positive, jnp.sqrt(jnp.where(positive, ratio, 1.0)), 0.0)
  apart = jnp.where(square > 0, jnp.inf, 0.0)
  # `spread > 0` would hide NaN.
  return jnp.where(spread == 0, apart, jnp.where(ratio >= 0, root, jnp.nan))


def selectivity(a_NxD: jax.Array, b_MxD: jax.Array) -> jax.Array:
  """Returns which of two groups each neuron responds to: 1 only a, -1 only b.

  (m_a - m_b) / (m_a + m_b) with m the mean over a group's rows, as in the
  experiment on conflicting experience of arXiv 2505.08727.

  Args:
    a_NxD: Floating, N >= 1, activations >= 0, as after ReLU; values below 0
      are not checked for and give numbers outside the range.
    b_MxD: Floating, M >= 1, likewise.

  Returns:
    [D] float32 in [-1, 1]; 0 for a neuron that is silent on both.

  Raises:
    ValueError: If an array is no floating matrix, or the widths differ.

  Example:
    >>> a_NxD = jnp.array([[1.0, 3.0, 0.0]])
    >>> b_MxD = jnp.array([[0.0, 1.0, 0.0]])
    >>> print(selectivity(a_NxD, b_MxD))
    [1.  0.5 0. ]
  """
  checks.one_width(a_NxD=a_NxD, b_MxD=b_MxD)
  mean_a_D = jnp.mean(a_NxD.astype(jnp.float32), axis=0)
  mean_b_D = jnp.mean(b_MxD.astype(jnp.float32), axis=0)
  total_D = mean_a_D + mean_b_D
  silent_D = total_D == 0
  ratio_D = (mean_a_D - mean_b_D) / jnp.where(silent_D, 1.0, total_D)
  return jnp.where(silent_D, 0.0, ratio_D)


def specialised_share(
    a_NxD: jax.Array, b_MxD: jax.Array, *, threshold: float = 0.5
) -> jax.Array:
  """Returns the share of neurons with absolute selectivity over a threshold.

  Args:
    a_NxD: As of `selectivity`, like `b_MxD`.
    threshold: In [0, 1); static.

  Returns:
    Scalar float32 in [0, 1].

  Raises:
    ValueError: If the threshold is out of range, or as of `selectivity`.

  Example:
    >>> a_NxD = jnp.array([[1.0, 3.0, 0.0, 1.0]])
    >>> b_MxD = jnp.array([[0.0, 1.0, 0.0, 1.0]])
    >>> print(specialised_share(a_NxD, b_MxD))
    0.25
  """
  if not 0 <= threshold < 1:
    raise ValueError(f'threshold must lie in [0, 1), got {threshold!r}.')
  strong_D = jnp.abs(selectivity(a_NxD, b_MxD)) > threshold
  return jnp.mean(strong_D, dtype=jnp.float32)


def _moments(x_NxD):
  mean_D = jnp.mean(x_NxD, axis=0)
  return mean_D, jnp.mean(jnp.sum((x_NxD - mean_D[None]) ** 2, axis=-1))
