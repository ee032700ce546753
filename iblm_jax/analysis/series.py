"""What in a series of numbers is more than noise: null models, agreement.

Made for cosines between two gradients at consecutive steps, whose sign
pattern may be batch noise; nothing in here depends on that.
"""

import functools
import math
import statistics
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Kind = Literal['phase', 'permutation']
Alternative = Literal['two-sided', 'greater', 'less']

# Float32 rounding of a mean; a spread below it is none.
_ROUNDING = 16 * float(jnp.finfo(jnp.float32).eps)


class SurrogateTest(NamedTuple):
  """What `surrogate_test` returns."""

  observed: jax.Array  # shape=[], the statistic of the series
  null: jax.Array  # shape=[num], the statistic of the surrogates
  p_value: jax.Array  # shape=[], in [1 / (num + 1), 1]


class DominantPeriod(NamedTuple):
  """What `dominant_period` returns."""

  period: jax.Array  # shape=[], in steps; inf for a straight line
  share: jax.Array  # shape=[], of the variance at that period, in [0, 1]
  p_value: jax.Array  # shape=[], in [1 / (num + 1), 1]


class Reliability(NamedTuple):
  """What `reliability` returns: float32 scalars."""

  correlation: jax.Array  # of the two halves, in [-1, 1]
  low: jax.Array  # its interval
  high: jax.Array
  corrected: jax.Array  # of two whole batches, in [-1, 1]
  corrected_low: jax.Array  # its interval
  corrected_high: jax.Array
  effective_size: jax.Array  # steps that are as good as independent, <= T


def surrogates(
    key: jax.Array,
    series_T: jax.typing.ArrayLike,
    *,
    kind: Kind = 'phase',
    num: int,
) -> jax.Array:
  """Random series that share some of a series' properties, not the rest.

  Args:
    key: a PRNG key.
    series_T: [T] real, T >= 4.
    kind: 'permutation' keeps the values and forgets their order: the null
      model is white noise. 'phase' keeps the mean and the periodogram, so the
      (circular) autocorrelation too, and draws the phases anew: the null model
      is a linear Gaussian process. Where T is even the Nyquist frequency, whose
      coefficient is real, gets a random sign.
    num: how many, >= 1.

  Returns:
    float32 [num, T].

  Raises:
    ValueError: the series has another shape, or `kind` or `num` is out of
      range.

  Example:
    >>> x = [0.0, 1.0, 0.0, 3.0]
    >>> y = surrogates(jax.random.key(0), x, kind='permutation', num=2)
    >>> print(jnp.sort(y))
    [[0. 0. 1. 3.]
     [0. 0. 1. 3.]]

  References:
    Theiler, Eubank, Longtin, Galdrikian, Farmer, Testing for nonlinearity in
    time series: the method of surrogate data, Physica D 58, 1992.
  """
  x_T = _series('series_T', series_T, 4)
  _positive('num', num)
  if kind not in ('phase', 'permutation'):
    raise ValueError(f"kind must be 'phase' or 'permutation', got {kind!r}.")
  return _surrogates(key, x_T, kind, num)


def surrogate_test(
    key: jax.Array,
    series_T: jax.typing.ArrayLike,
    statistic: Callable[[jax.Array], jax.Array],
    *,
    kind: Kind = 'phase',
    num: int = 999,
    alternative: Alternative = 'two-sided',
) -> SurrogateTest:
  """Whether a statistic of a series is unusual among its surrogates.

  Ranks decide, so the result does not depend on the statistic's scale, and the
  p-value is exact under the null model of the surrogates, whatever `num`: the
  probability of a value <= p is at most p. A statistic that the surrogates
  preserve (the mean; the periodogram with 'phase') cannot be tested.

  Args:
    key: a PRNG key.
    series_T: [T] real, T >= 4.
    statistic: maps float32 [T] to a real scalar; traced under vmap, and
      compiled once for a function object.
    kind: see `surrogates`.
    num: surrogates, >= 1.
    alternative: what counts as extreme: 'greater', 'less', or both ends.

  Returns:
    `SurrogateTest`; p = (1 + number of surrogates at least as extreme as the
    series) / (num + 1). NaN if a statistic is NaN.

  Raises:
    ValueError: as `surrogates`; a bad `alternative`; the statistic is not a
      scalar.

  Example:
    >>> square = jnp.tile(jnp.repeat(jnp.array([1.0, -1.0]), 8), 8)
    >>> changes = lambda x: jnp.sum(jnp.sign(x[1:]) != jnp.sign(x[:-1]))
    >>> result = surrogate_test(
    ...     jax.random.key(0), square, changes, kind='permutation', num=99)
    >>> print(result.observed, jnp.min(result.null) > 30, result.p_value)
    15.0 True 0.02

  References:
    Theiler et al., Physica D 58, 1992; the p-value: Phipson, Smyth,
    Permutation p-values should never be zero, 2010 (arXiv 1603.05766).
  """
  if alternative not in ('two-sided', 'greater', 'less'):
    raise ValueError(
        "alternative must be 'two-sided', 'greater' or 'less', got"
        f' {alternative!r}.'
    )
  x_T = _series('series_T', series_T, 4)
  return _surrogate_test(key, x_T, statistic, kind, num, alternative)


def autocorrelation(
    series_T: jax.typing.ArrayLike, max_lag: int
) -> jax.Array:
  """Sample autocorrelation at the lags 0 .. max_lag.

  The estimator that divides every lag by T, not by its number of terms: its
  values are those of a positive definite sequence.

  Args:
    series_T: [T] real, T >= 2.
    max_lag: in [0, T - 1]; static.

  Returns:
    float32 [max_lag + 1] in [-1, 1], first entry 1; 0 at the other lags of a
    constant series.

  Raises:
    ValueError: the series has another shape, or `max_lag` is out of range.

  Example:
    >>> print(autocorrelation([1.0, -1.0, 1.0, -1.0], 2))
    [ 1.   -0.75  0.5 ]
  """
  x_T = _series('series_T', series_T, 2)
  if not 0 <= max_lag < x_T.size:
    raise ValueError(
        f'max_lag must be in [0, {x_T.size - 1}], got {max_lag!r}.'
    )
  return _autocorrelation(x_T, max_lag)


def dominant_period(
    key: jax.Array, series_T: jax.typing.ArrayLike, *, num: int = 999
) -> DominantPeriod:
  """The period at which a series varies most, and whether noise would.

  The largest peak of the periodogram after a straight line is taken off. Its
  p-value is that of white noise (the order of the detrended values permuted):
  a small one says that the series is not white, and a slow drift without any
  cycle suffices for that. A cycle shows as a peak at a period well below T.

  Args:
    key: a PRNG key.
    series_T: [T] real, T >= 4.
    num: permutations, >= 1.

  Returns:
    `DominantPeriod`; the period is T / k for a whole k in [1, T / 2].

  Raises:
    ValueError: the series has another shape, or `num` is out of range.

  Example:
    >>> wave = jnp.sin(2 * jnp.pi * jnp.arange(120) / 12)
    >>> found = dominant_period(jax.random.key(0), wave, num=99)
    >>> print(found.period, round(float(found.share), 2), found.p_value)
    12.0 0.99 0.01

  References:
    Fisher's test of the largest peak: Tests of significance in harmonic
    analysis, Proc. R. Soc. A 125, 1929, here with permutations for the
    distribution; Theiler et al., Physica D 58, 1992.
  """
  x_T = _detrended(_series('series_T', series_T, 4))
  shares_F = _variance_shares(x_T)
  peak = jnp.argmax(shares_F)
  test = surrogate_test(
      key,
      x_T,
      _peak_share,
      kind='permutation',
      num=num,
      alternative='greater',
  )
  flat = shares_F[peak] == 0
  period = jnp.where(flat, jnp.inf, x_T.size / (peak + 1))
  return DominantPeriod(period, shares_F[peak], test.p_value)


def sign_agreement(
    a_T: jax.typing.ArrayLike, b_T: jax.typing.ArrayLike
) -> jax.Array:
  """Share of the steps at which two series have the same sign.

  With cosines of two independent half batches at the same parameters: 1 if the
  sign belongs to the parameters, and q_a q_b + (1 - q_a)(1 - q_b), with q the
  shares of positive steps, if it is batch noise.

  Args:
    a_T: [T] real, T >= 1.
    b_T: [T] real.

  Returns:
    float32 scalar in [0, 1]; a zero agrees with a zero only.

  Raises:
    ValueError: the shapes differ or are not [T].

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
  """Split-half reliability: what two measurements of one series share.

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
    a_T: [T] real, T >= 5.
    b_T: [T] real.
    level: of the interval, in (0, 1).

  Returns:
    `Reliability`; correlation 0 if a series is constant.

  Raises:
    ValueError: the shapes differ or are not [T], or `level` is out of range.

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


@functools.partial(jax.jit, static_argnames=('kind', 'num'))
def _surrogates(key, x_T, kind, num):
  if kind == 'permutation':
    # One sort for all, where `jax.random.permutation` sorts several times.
    return x_T[jnp.argsort(jax.random.bits(key, (num, x_T.size)), axis=1)]
  length = x_T.size
  mean = jnp.mean(x_T)
  size_F = jnp.abs(jnp.fft.rfft(x_T - mean))
  turn = jax.random.uniform(key, (num, size_F.size))
  if length % 2 == 0:
    turn = turn.at[:, -1].set(jnp.where(turn[:, -1] < 0.5, 0.0, 0.5))
  wave = jnp.exp(2j * math.pi * turn)
  return mean + jnp.fft.irfft(size_F[None, :] * wave, n=length)


@functools.partial(
    jax.jit, static_argnames=('statistic', 'kind', 'num', 'alternative')
)
def _surrogate_test(key, x_T, statistic, kind, num, alternative):
  random_SxT = surrogates(key, x_T, kind=kind, num=num)
  # One call for all: the series and its surrogates round alike.
  values = jax.vmap(statistic)(jnp.concatenate([x_T[None], random_SxT]))
  if values.ndim != 1:
    raise ValueError(
        f'statistic must return a scalar, got shape {values.shape[1:]}.'
    )
  values = values.astype(jnp.float32)
  return SurrogateTest(values[0], values[1:], _p_value(values, alternative))


def _p_value(values, alternative):
  """Of the first of some values that are exchangeable under the null."""
  ordered = jnp.sort(values)
  count = values.size
  at_most = jnp.searchsorted(ordered, values, side='right')
  at_least = count - jnp.searchsorted(ordered, values, side='left')
  tail = {
      'greater': at_least,
      'less': at_most,
      'two-sided': jnp.minimum(at_least, at_most),
  }[alternative]
  p_value = jnp.sum(tail <= tail[0]) / count
  return jnp.where(jnp.any(jnp.isnan(values)), jnp.nan, p_value)


@functools.partial(jax.jit, static_argnames='max_lag')
def _autocorrelation(x_T, max_lag):
  x_T = _unit(_centred(x_T))
  spectrum = jnp.abs(jnp.fft.rfft(x_T, n=2 * x_T.size)) ** 2
  covariance = jnp.fft.irfft(spectrum, n=2 * x_T.size)[: max_lag + 1]
  return jnp.clip(covariance, -1.0, 1.0).at[0].set(1.0)


@jax.jit
def _reliability(a_T, b_T, z):
  length = a_T.size
  # Of unit norm, so that no product underflows.
  a_T, b_T = _unit(_centred(a_T)), _unit(_centred(b_T))
  r = jnp.clip(jnp.sum(a_T * b_T), -1.0, 1.0)

  max_lag = length // 5
  shrink = 1 - jnp.arange(1, max_lag + 1) / length
  rho_a, rho_b = (autocorrelation(x, max_lag)[1:] for x in (a_T, b_T))
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


@jax.jit
def _unit(x_T):
  # Scaled first: the squares of small numbers would underflow.
  peak = jnp.max(jnp.abs(x_T))
  x_T = x_T / jnp.where(peak > 0, peak, 1.0)
  norm = jnp.sqrt(jnp.sum(jnp.square(x_T)))
  return x_T / jnp.where(norm > 0, norm, 1.0)


@jax.jit
def _centred(x_T):
  """Less the mean; exactly 0 where only rounding would be left."""
  rest_T = x_T - jnp.mean(x_T)
  return _without_rounding(rest_T, x_T)


@jax.jit
def _detrended(x_T):
  """Less the straight line of least squares."""
  time_T = jnp.arange(x_T.size) - (x_T.size - 1) / 2
  rest_T = x_T - jnp.mean(x_T)
  slope = jnp.sum(time_T * rest_T) / jnp.sum(jnp.square(time_T))
  return _without_rounding(rest_T - slope * time_T, x_T)


def _without_rounding(rest_T, x_T):
  some = jnp.max(jnp.abs(rest_T)) > _ROUNDING * jnp.max(jnp.abs(x_T))
  return jnp.where(some, rest_T, 0.0)


@jax.jit
def _peak_share(x_T):
  return jnp.max(_variance_shares(_detrended(x_T)))


@jax.jit
def _variance_shares(x_T):
  """Share of the variance at the frequencies k / T, k = 1 .. T / 2."""
  power_F = jnp.abs(jnp.fft.rfft(_unit(x_T))[1:]) ** 2
  if x_T.size % 2 == 0:
    power_F = power_F.at[-1].divide(2)  # the Nyquist frequency has no mirror
  total = jnp.sum(power_F)
  return power_F / jnp.where(total > 0, total, 1.0)


def _series(name, x, minimum):
  x = jnp.asarray(x, jnp.float32)
  if x.ndim != 1 or x.size < minimum:
    raise ValueError(
        f'{name} must have shape [T] with T >= {minimum}, got {x.shape}.'
    )
  return x


def _pair(a_T, b_T, minimum):
  a_T, b_T = (_series(n, x, minimum) for n, x in (('a_T', a_T), ('b_T', b_T)))
  if b_T.shape != a_T.shape:
    raise ValueError(
        f'b_T must have the shape of a_T, {a_T.shape}, got {b_T.shape}.'
    )
  return a_T, b_T


def _positive(name, value):
  if not isinstance(value, int) or value < 1:
    raise ValueError(f'{name} must be an int >= 1, got {value!r}.')
