"""Tells what in a series of numbers is more than noise.

Made for cosines between two gradients at consecutive steps, whose sign
pattern may be batch noise; nothing in here depends on that. Series are real
arrays of shape [T]; another shape, a length that is too small or an option out
of its range raises ValueError.
"""

import functools
import math
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


def surrogates(
    key: jax.Array,
    series_T: jax.typing.ArrayLike,
    *,
    kind: Kind = 'phase',
    num: int,
) -> jax.Array:
  """Draws random series that share some of a series' properties, not the rest.

  Args:
    series_T: The series, T >= 4.
    kind: 'permutation' keeps the values and forgets their order: the null
      model is white noise. 'phase' keeps the mean and the periodogram, so the
      (circular) autocorrelation too, and draws the phases anew: the null model
      is a linear Gaussian process. Where T is even the Nyquist frequency, whose
      coefficient is real, gets a random sign.
    num: How many, >= 1.

  Returns:
    float32 [num, T].

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
  x_T = checked('series_T', series_T, 4)
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
  """Tests whether a statistic of a series is unusual among its surrogates.

  Ranks decide, so the result does not depend on the statistic's scale, and the
  p-value is exact under the null model of the surrogates, whatever `num`: the
  probability of a value <= p is at most p. A statistic that the surrogates
  preserve (the mean; the periodogram with 'phase') cannot be tested.

  Args:
    series_T: The series, T >= 4.
    statistic: Maps float32 [T] to a real scalar; traced under vmap, and
      compiled once for a function object.
    num: How many surrogates, >= 1.
    alternative: What counts as extreme: 'greater', 'less', or both ends.

  Returns:
    `SurrogateTest`; p = (1 + number of surrogates at least as extreme as the
    series) / (num + 1). NaN if a statistic is NaN.

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
  x_T = checked('series_T', series_T, 4)
  return _surrogate_test(key, x_T, statistic, kind, num, alternative)


def autocorrelation(
    series_T: jax.typing.ArrayLike, max_lag: int
) -> jax.Array:
  """Computes the sample autocorrelation at the lags 0 .. max_lag.

  The estimator divides every lag by T, not by its number of terms: its values
  are those of a positive definite sequence.

  Args:
    series_T: The series, T >= 2.
    max_lag: In [0, T - 1]; static.

  Returns:
    float32 [max_lag + 1] in [-1, 1], first entry 1; 0 at the other lags of a
    constant series.

  Example:
    >>> print(autocorrelation([1.0, -1.0, 1.0, -1.0], 2))
    [ 1.   -0.75  0.5 ]
  """
  x_T = checked('series_T', series_T, 2)
  if not 0 <= max_lag < x_T.size:
    raise ValueError(
        f'max_lag must be in [0, {x_T.size - 1}], got {max_lag!r}.'
    )
  return _autocorrelation(x_T, max_lag)


def dominant_period(
    key: jax.Array, series_T: jax.typing.ArrayLike, *, num: int = 999
) -> DominantPeriod:
  """Finds the period at which a series varies most, and whether noise would.

  It is the largest peak of the periodogram after a straight line is taken off.
  Its p-value is that of white noise (the order of the detrended values
  permuted): a small one says that the series is not white, and a slow drift
  without any cycle suffices for that. A cycle shows as a peak at a period well
  below T.

  Args:
    series_T: The series, T >= 4.
    num: How many permutations, >= 1.

  Returns:
    `DominantPeriod`; the period is T / k for a whole k in [1, T / 2].

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
  x_T = _detrended(checked('series_T', series_T, 4))
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
  """Ranks the first of some values that are exchangeable under the null."""
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
  x_T = unit(centred(x_T))
  spectrum = jnp.abs(jnp.fft.rfft(x_T, n=2 * x_T.size)) ** 2
  covariance = jnp.fft.irfft(spectrum, n=2 * x_T.size)[: max_lag + 1]
  return jnp.clip(covariance, -1.0, 1.0).at[0].set(1.0)


@jax.jit
def unit(x_T: jax.Array) -> jax.Array:
  """Scales a series to norm 1; zeros stay zeros."""
  # Scaled first: the squares of small numbers would underflow.
  peak = jnp.max(jnp.abs(x_T))
  x_T = x_T / jnp.where(peak > 0, peak, 1.0)
  norm = jnp.sqrt(jnp.sum(jnp.square(x_T)))
  return x_T / jnp.where(norm > 0, norm, 1.0)


@jax.jit
def centred(x_T: jax.Array) -> jax.Array:
  """Takes off the mean; exactly 0 where only rounding would be left."""
  rest_T = x_T - jnp.mean(x_T)
  return _without_rounding(rest_T, x_T)


@jax.jit
def _detrended(x_T):
  """Takes off the straight line of least squares."""
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
  power_F = jnp.abs(jnp.fft.rfft(unit(x_T))[1:]) ** 2
  if x_T.size % 2 == 0:
    power_F = power_F.at[-1].divide(2)  # the Nyquist frequency has no mirror
  total = jnp.sum(power_F)
  return power_F / jnp.where(total > 0, total, 1.0)


def checked(name: str, x: jax.typing.ArrayLike, minimum: int) -> jax.Array:
  """Makes float32 of a series, which must have at least so many steps."""
  x = jnp.asarray(x, jnp.float32)
  if x.ndim != 1 or x.size < minimum:
    raise ValueError(
        f'{name} must have shape [T] with T >= {minimum}, got {x.shape}.'
    )
  return x


def _positive(name, value):
  if not isinstance(value, int) or value < 1:
    raise ValueError(f'{name} must be an int >= 1, got {value!r}.')
