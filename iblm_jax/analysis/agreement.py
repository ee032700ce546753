"""Tells what two series of numbers share: signs, split-half reliability.

Made for cosines of two independent half batches at the same parameters, see
`series`. Series are real arrays of one shape [T]; other shapes raise
ValueError.
"""

import statistics
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.analysis import series


class Reliability(NamedTuple):
  """What `reliability` returns: float32 scalars."""

  correlation: jax.Array  # of the two halves, in [-1, 1]
  low: jax.Array  # its interval
  high: jax.Array
  corrected: jax.Array  # of two whole batches, in [-1, 1]
  corrected_low: jax.Array  # its interval
  corrected_high: jax.Array
  effective_size: jax.Array  # steps that are as good as independent, <= T


def sign_agreement(
    a_T: jax.typing.ArrayLike, b_T: jax.typing.ArrayLike
) -> jax.Array:
  """Computes the share of steps at which two series have the same sign.

  With cosines of two independent half batches at the same parameters: 1 if the
  sign belongs to the parameters, and q_a q_b + (1 - q_a)(1 - q_b), with q the
  shares of positive steps, if it is batch noise.

  Returns:
    float32 scalar in [0, 1]; a zero agrees with a zero only.

  Example:
    >>> print(sign_agreement([0.3, -0.1, 0.2, 0.1], [0.1, -0.2, -0.1, 0.4]))
    0.75
  """
  a_T, b_T = _pair(a_T, b_T, 1)
  return jnp.mean(jnp.sign(a_T) == jnp.sign(b_T))


def reliability(
    a_T: jax.typing.ArrayLike,
    b_T: jax.typing.ArrayLike,
    *,
    level: float = 0.95,
) -> Reliability:
  """Estimates what two measurements of a series share: split-half reliability.

  With cosines of two independent half batches at the same parameters, the
  correlation estimates the share of a half batch's variance that belongs to
  the parameters; the rest is batch noise. `corrected` extrapolates to the whole
  batch by Spearman and Brown, 2 r / (1 + r), for halves of equal noise.

  The interval is Fisher's, tanh(artanh r ± z / sqrt(n - 3)), with n not T but
  the effective size of two autocorrelated series,
  1 / n = 1 / T + 2 / T Σ_k (1 - k / T) ρ_a(k) ρ_b(k) over lags k up to T / 5,
  limited to n <= T; n <= 3 leaves [-1, 1]. The formula is that of independent
  series, so the interval is right for "is there any agreement" and rough far
  from 0. It knows nothing of a trend that both series share, which counts as
  agreement.

  Args:
    a_T: One series, T >= 5.
    b_T: The other, of the same length.
    level: The level of the interval, in (0, 1).

  Returns:
    `Reliability`; correlation 0 if a series is constant.

  Example:
    >>> a = jnp.sin(jnp.arange(50.0))
    >>> result = reliability(a, a + 0.5 * jnp.cos(7 * jnp.arange(50.0)))
    >>> bool(0.8 < result.correlation < result.corrected < 1)
    True

  References:
    Spearman; Brown, both in Br. J. Psychol. 3, 1910; Fisher, Metron 1, 1921;
    the effective size: Bartlett, J. R. Stat. Soc. 98, 1935, with the lags of
    Pyper, Peterman, Can. J. Fish. Aquat. Sci. 55, 1998.
  """
  if not 0 < level < 1:
    raise ValueError(f'level must be in (0, 1), got {level!r}.')
  z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
  return _reliability(*_pair(a_T, b_T, 5), z)


@jax.jit
def _reliability(a_T, b_T, z):
  length = a_T.size
  # Of unit norm, so that no product underflows.
  a_T, b_T = (
      series.unit(series.centred(x_T)) for x_T in (a_T, b_T)
  )
  r = jnp.clip(jnp.sum(a_T * b_T), -1.0, 1.0)

  max_lag = length // 5
  shrink = 1 - jnp.arange(1, max_lag + 1) / length
  rho_a, rho_b = (series.autocorrelation(x, max_lag)[1:] for x in (a_T, b_T))
  inverse = (1 + 2 * jnp.sum(shrink * rho_a * rho_b)) / length
  size = 1 / jnp.maximum(inverse, 1 / length)

  half = jnp.where(size > 3, z / jnp.sqrt(jnp.maximum(size - 3, 1e-6)), jnp.inf)
  # An exact ±1 has no interval of its own kind: artanh is infinite there.
  centre = jnp.arctanh(jnp.clip(r, -1 + 1e-6, 1 - 1e-6))
  low = jnp.minimum(jnp.tanh(centre - half), r)
  high = jnp.maximum(jnp.tanh(centre + half), r)
  return Reliability(
      r, low, high, _whole(r), _whole(low), _whole(high), size
  )


def _whole(r):
  """Spearman-Brown for twice the length; means nothing below -1/3."""
  return jnp.maximum(2 * r / jnp.maximum(1 + r, 1e-6), -1.0)


def _pair(a_T, b_T, minimum):
  a_T = series.checked('a_T', a_T, minimum)
  b_T = series.checked('b_T', b_T, minimum)
  if b_T.shape != a_T.shape:
    raise ValueError(
        f'b_T must have the shape of a_T, {a_T.shape}, got {b_T.shape}.'
    )
  return a_T, b_T
