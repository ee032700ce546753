"""How far apart two groups of representations lie, and who tells them apart."""

import jax
import jax.numpy as jnp


def separation_ratio(a_NxD: jax.Array, b_MxD: jax.Array) -> jax.Array:
  """Distance between the means of two groups, in units of their spread.

  ‖mean(a) - mean(b)‖ / sqrt((var(a) + var(b)) / 2), var being the mean squared
  distance of a group's rows to their mean. Translations, rotations and a
  common scale leave it alone. Float32 throughout.

  Args:
    a_NxD: floating [N, D], N >= 1; rows are samples.
    b_MxD: floating [M, D], M >= 1.

  Returns:
    Scalar float32 >= 0. If neither group has any spread: 0 where the means are
    equal, else inf.

  Raises:
    ValueError: for arrays that are not floating matrices of one width.

  Example:
    >>> import jax.numpy as jnp
    >>> a_NxD = jnp.array([[0.0, 1.0], [0.0, -1.0]])
    >>> print(separation_ratio(a_NxD, a_NxD + jnp.array([[3.0, 0.0]])))
    3.0

  References:
    The experiment on conflicting experience of arXiv 2505.08727.
  """
  _check(a_NxD, b_MxD)
  mean_a_D, var_a = _moments(a_NxD)
  mean_b_D, var_b = _moments(b_MxD)
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
  """Which of two groups each neuron responds to, from mean activations.

  (m_a - m_b) / (m_a + m_b) with m the mean over a group's rows.

  Args:
    a_NxD: floating [N, D], N >= 1, activations >= 0, as after ReLU; values
      below 0 are not looked for and give numbers outside the range.
    b_MxD: floating [M, D], M >= 1.

  Returns:
    [D] float32 in [-1, 1]: 1 for a neuron that only `a` drives, -1 for one
    that only `b` does, 0 for one that is silent on both.

  Raises:
    ValueError: for arrays that are not floating matrices of one width.

  Example:
    >>> import jax.numpy as jnp
    >>> a_NxD = jnp.array([[1.0, 3.0, 0.0]])
    >>> b_MxD = jnp.array([[0.0, 1.0, 0.0]])
    >>> print(selectivity(a_NxD, b_MxD))
    [1.  0.5 0. ]

  References:
    The experiment on conflicting experience of arXiv 2505.08727.
  """
  _check(a_NxD, b_MxD)
  mean_a_D = jnp.mean(a_NxD.astype(jnp.float32), axis=0)
  mean_b_D = jnp.mean(b_MxD.astype(jnp.float32), axis=0)
  total_D = mean_a_D + mean_b_D
  silent_D = total_D == 0
  ratio_D = (mean_a_D - mean_b_D) / jnp.where(silent_D, 1.0, total_D)
  return jnp.where(silent_D, 0.0, ratio_D)


def specialised_share(
    a_NxD: jax.Array, b_MxD: jax.Array, *, threshold: float = 0.5
) -> jax.Array:
  """Share of the neurons whose |selectivity| exceeds a threshold.

  Args:
    a_NxD: as for `selectivity`.
    b_MxD: as for `selectivity`.
    threshold: in [0, 1); static.

  Returns:
    Scalar float32 in [0, 1].

  Raises:
    ValueError: for a threshold out of range, or what `selectivity` refuses.

  Example:
    >>> import jax.numpy as jnp
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
  x_NxD = x_NxD.astype(jnp.float32)
  mean_D = jnp.mean(x_NxD, axis=0)
  return mean_D, jnp.mean(jnp.sum((x_NxD - mean_D[None]) ** 2, axis=-1))


def _check(a_NxD, b_MxD):
  for name, x in (('a_NxD', a_NxD), ('b_MxD', b_MxD)):
    if x.ndim != 2 or 0 in x.shape:
      raise ValueError(
          f'{name} must have shape [N, D] with N, D >= 1, got {x.shape}.'
      )
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(f'{name} must be floating, got dtype {x.dtype}.')
  if a_NxD.shape[1] != b_MxD.shape[1]:
    raise ValueError(
        'a_NxD and b_MxD must have one width, got'
        f' {a_NxD.shape[1]} and {b_MxD.shape[1]}.'
    )
