"""Null models and agreement of series: closed forms, NumPy, coverage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information
from iblm_jax.analysis import agreement
from iblm_jax.analysis import series as series_lib

KEY = jax.random.key(0)


def noise(*shape, seed=0):
  draws = np.random.default_rng(seed).standard_normal(shape)
  return draws.astype(np.float32)


def red_noise(*shape, memory, seed=0):
  """AR(1) along the last axis, started in its stationary state."""
  x = np.random.default_rng(seed).standard_normal(shape)
  x[..., 0] /= np.sqrt(1 - memory**2)
  for t in range(1, shape[-1]):
    x[..., t] += memory * x[..., t - 1]
  return x.astype(np.float32)


def periodogram(x):
  return np.abs(np.fft.rfft(np.asarray(x, np.float64), axis=-1)) ** 2


@pytest.mark.parametrize('length', [32, 33])
def test_phase_surrogates_keep_the_periodogram_only(length):
  x = noise(length) + 2 * np.sin(np.arange(length, dtype=np.float32)) + 5
  got = np.asarray(series_lib.surrogates(KEY, x, kind='phase', num=50))
  assert got.shape == (50, length) and got.dtype == jnp.float32
  want = np.broadcast_to(periodogram(x), (50, length // 2 + 1))
  np.testing.assert_allclose(periodogram(got), want, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(np.mean(got, axis=1), x.mean(), rtol=1e-5)
  # The values are new, and other in every surrogate.
  assert np.min(np.max(np.abs(got - x[None]), axis=1)) > 0.1
  assert np.min(np.std(got, axis=0)) > 0.1


def test_the_nyquist_coefficient_takes_both_signs():
  x = noise(32)
  got = series_lib.surrogates(KEY, x, num=50)
  alternating = (-1.0) ** np.arange(32)
  sign = np.sign(np.asarray(got) @ alternating)
  np.testing.assert_allclose(
      np.abs(got @ alternating), np.abs(x @ alternating), rtol=1e-3
  )
  assert 10 < np.sum(sign > 0) < 40


def test_phases_are_uniform():
  got = series_lib.surrogates(KEY, noise(16), num=2000)
  wave = np.fft.rfft(got, axis=1)[:, 1:-1]
  direction = wave / np.abs(wave)
  # Four standard errors of the mean of random unit vectors.
  assert np.max(np.abs(direction.mean(axis=0))) < 4 / np.sqrt(2000)
  assert np.max(np.abs((direction**2).mean(axis=0))) < 4 / np.sqrt(2000)


def test_permutations_keep_the_values():
  x = noise(31)
  got = np.asarray(
      series_lib.surrogates(KEY, x, kind='permutation', num=200)
  )
  want = np.broadcast_to(np.sort(x), got.shape)
  np.testing.assert_array_equal(np.sort(got, axis=1), want)
  # The first place holds every value now and then.
  assert len(np.unique(got[:, 0])) > 25
  assert len(np.unique(got, axis=0)) == 200


def p_by_hand(observed, null, alternative):
  values = np.concatenate([[observed], null])

  def tail(v):
    high, low = np.sum(values >= v), np.sum(values <= v)
    both = {'greater': high, 'less': low, 'two-sided': min(high, low)}
    return both[alternative]

  extreme = sum(tail(v) <= tail(observed) for v in null)
  return (1 + extreme) / (len(null) + 1)


@pytest.mark.parametrize('alternative', ['two-sided', 'greater', 'less'])
def test_p_values_equal_their_definition(alternative):
  # Rounded, so that some values tie.
  statistic = lambda x: jnp.round(x[0] + x[1] * x[2], 1)

  for seed in range(5):
    got = series_lib.surrogate_test(
        KEY,
        noise(64, seed=seed),
        statistic,
        kind='permutation',
        num=99,
        alternative=alternative,
    )
    want = p_by_hand(got.observed, np.asarray(got.null), alternative)
    np.testing.assert_allclose(got.p_value, want, rtol=1e-6)


@pytest.mark.parametrize('kind', ['permutation', 'phase'])
def test_p_values_of_the_null_model_are_uniform(kind):
  # White Gaussian noise is in both null models.
  def changes(x):
    return jnp.sum(x[1:] * x[:-1] * x[1:]) + x[3]  # continuous: no ties

  @jax.jit
  def p_values(series):
    keys = jax.random.split(KEY, len(series))
    test = functools.partial(
        series_lib.surrogate_test, statistic=changes, kind=kind, num=19
    )
    return jax.vmap(lambda k, x: test(k, x).p_value)(keys, series)

  got = np.asarray(p_values(noise(2000, 16)))
  # Two-sided ranks come in pairs: p is 0.1, 0.2, ... 1 with equal chances.
  for level in (0.1, 0.2, 0.5, 0.8):
    error = np.sqrt(level * (1 - level) / 2000)
    assert abs(np.mean(got <= level + 1e-6) - level) < 4 * error


def test_a_slow_square_wave_has_too_few_sign_changes_for_its_order():
  wave = np.tile(np.repeat(np.float32([1, -1]), 8), 4) + 0.1 * noise(64)

  def changes(x):
    return information.cycle_statistics(x)['sign_changes']

  shuffled = series_lib.surrogate_test(
      KEY, wave, changes, kind='permutation', num=99
  )
  assert shuffled.observed == 7
  assert shuffled.p_value == pytest.approx(2 / 100)
  # A linear process with this spectrum changes its sign about as often.
  phase = series_lib.surrogate_test(KEY, wave, changes, num=99)
  assert np.mean(phase.null) < 15
  assert phase.p_value > 0.02


def test_a_nan_statistic_gives_a_nan_p_value():
  got = series_lib.surrogate_test(
      KEY, noise(64), lambda x: jnp.log(x[0]), kind='permutation', num=99
  )
  assert np.isnan(got.p_value)


@pytest.mark.parametrize('length', [16, 17])
def test_autocorrelation_equals_numpy(length):
  x = noise(length) + 3
  y = np.float64(x) - np.mean(np.float64(x))
  want = [y[: length - k] @ y[k:] / (y @ y) for k in range(length)]
  got = series_lib.autocorrelation(x, length - 1)
  np.testing.assert_allclose(got, want, atol=1e-5)
  shifted = series_lib.autocorrelation(1e-8 * x, 3)
  np.testing.assert_allclose(shifted, want[:4], atol=1e-4)


def test_autocorrelation_of_a_constant():
  got = series_lib.autocorrelation(np.full(9, 0.1, np.float32), 2)
  np.testing.assert_array_equal(got, [1, 0, 0])


@pytest.mark.parametrize('period', [8, 16, 2])
def test_a_sine_has_its_period(period):
  length = 64
  time = np.arange(length)
  wave = np.cos(2 * np.pi * time / period + 0.3)
  got = series_lib.dominant_period(
      KEY, 3 * wave + 0.5 * time / length + 7, num=99
  )
  np.testing.assert_allclose(got.period, period, rtol=1e-6)
  assert got.share > 0.95
  assert got.p_value == pytest.approx(0.01)


@pytest.mark.parametrize('length', [20, 21])
def test_the_share_equals_a_least_squares_fit(length):
  # Truth without a Fourier transform: regression on a line, then on one sine.
  x = noise(length, seed=4)
  time = np.arange(length)
  line = np.stack([np.ones(length), time], axis=1)
  x64 = np.float64(x)
  rest = x64 - line @ np.linalg.lstsq(line, x64)[0]
  shares = []
  for k in range(1, length // 2 + 1):
    angle = 2 * np.pi * k * time / length
    basis = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    fit = basis @ np.linalg.lstsq(basis, rest)[0]
    shares.append(fit @ fit / (rest @ rest))
  got = series_lib.dominant_period(KEY, x, num=1)
  np.testing.assert_allclose(got.share, max(shares), rtol=1e-4)
  want = length / (1 + np.argmax(shares))
  np.testing.assert_allclose(got.period, want, rtol=1e-6)


def test_peaks_of_white_noise_are_seldom_significant():
  series = noise(1000, 24, seed=1) + np.arange(24, dtype=np.float32)[None]

  @jax.jit
  def p_values(series):
    keys = jax.random.split(KEY, len(series))
    f = functools.partial(series_lib.dominant_period, num=19)
    return jax.vmap(lambda k, x: f(k, x).p_value)(keys, series)

  got = np.asarray(p_values(series))
  for level in (0.05, 0.25, 0.5):
    error = np.sqrt(level * (1 - level) / 1000)
    assert abs(np.mean(got <= level + 1e-6) - level) < 4 * error


def test_a_straight_line_has_no_period():
  got = series_lib.dominant_period(KEY, np.full(64, 0.1), num=99)
  assert np.isinf(got.period) and got.share == 0 and got.p_value == 1


def test_sign_agreement():
  a, b = noise(100), noise(100, seed=1)
  want = np.mean((a > 0) == (b > 0))
  np.testing.assert_allclose(agreement.sign_agreement(a, b), want, rtol=1e-6)
  assert agreement.sign_agreement(a, 2 * a) == 1
  assert agreement.sign_agreement(a, -a) == 0
  assert agreement.sign_agreement([0.0, 0.0, 1.0], [0.0, 1.0, 0.0]) == (
      pytest.approx(1 / 3)
  )


def test_reliability_of_signal_and_noise():
  # Var 1 of signal against 1 of noise in a half: r = 1/2, corrected 2/3.
  signal = noise(20_000)
  a, b = (signal + noise(20_000, seed=s) for s in (1, 2))
  got = agreement.reliability(a, b)
  want = np.corrcoef(np.float64(a), np.float64(b))[0, 1]
  np.testing.assert_allclose(got.correlation, want, rtol=1e-5)
  np.testing.assert_allclose(got.corrected, 2 * want / (1 + want), rtol=1e-5)
  assert abs(got.correlation - 1 / 2) < 0.03
  assert abs(got.corrected - 2 / 3) < 0.03


def test_the_interval_is_fishers_at_the_effective_size():
  a, b = red_noise(2, 300, memory=0.9)
  got = agreement.reliability(a, b, level=0.9)
  y = [np.float64(x) - np.mean(np.float64(x)) for x in (a, b)]
  rho = [[v[: 300 - k] @ v[k:] / (v @ v) for k in range(1, 61)] for v in y]
  shrink = 1 - np.arange(1, 61) / 300
  size = 300 / (1 + 2 * np.sum(shrink * rho[0] * np.array(rho[1])))
  np.testing.assert_allclose(got.effective_size, size, rtol=1e-3)
  half = 1.6448536 / np.sqrt(size - 3)
  z = np.arctanh(np.corrcoef(y[0], y[1])[0, 1])
  interval = np.tanh([z - half, z + half])
  np.testing.assert_allclose([got.low, got.high], interval, atol=1e-3)
  np.testing.assert_allclose(
      [got.corrected_low, got.corrected_high],
      np.maximum(2 * interval / (1 + interval), -1),
      atol=1e-2,
  )


@pytest.mark.parametrize('memory', [0.0, 0.8])
def test_the_interval_covers_no_agreement(memory):
  a, b = red_noise(2, 1000, 200, memory=memory)
  f = jax.jit(jax.vmap(agreement.reliability))
  got = f(a, b)
  covered = np.mean((got.low <= 0) & (0 <= got.high))
  error = np.sqrt(0.95 * 0.05 / 1000)
  assert abs(covered - 0.95) < 4 * error
  naive = 1.96 / np.sqrt(200 - 3)
  covered = np.mean(np.abs(np.arctanh(got.correlation)) < naive)
  assert (covered < 0.8) == (memory > 0)  # what T instead of n would do


def test_reliability_of_extremes():
  a = noise(30)
  same, opposite = (agreement.reliability(a, c * a) for c in (1, -1))
  np.testing.assert_allclose(same.correlation, 1, rtol=1e-6)
  np.testing.assert_allclose(same.corrected, 1, rtol=1e-6)
  assert same.low > 0.99 and same.high <= 1
  np.testing.assert_allclose(opposite.correlation, -1, rtol=1e-6)
  assert opposite.corrected == -1
  constant = agreement.reliability(a, np.full(30, 0.1))
  assert constant.correlation == 0
  assert constant.low < 0 < constant.high
  few = agreement.reliability([1, 2, 3, 4, 6.0], [1, 2, 3, 5, 5.0])
  assert few.effective_size <= 5
  assert few.low >= -1


def test_bad_arguments_raise():
  x = noise(8)
  with pytest.raises(ValueError, match="kind must be.*'phases'"):
    series_lib.surrogates(KEY, x, kind='phases', num=2)
  for num in (0, 2.5):
    with pytest.raises(ValueError, match=f'num must be an int.*{num}'):
      series_lib.surrogates(KEY, x, num=num)
  with pytest.raises(ValueError, match=r'series_T must have.*T >= 4, got \(3'):
    series_lib.surrogates(KEY, x[:3], num=1)
  with pytest.raises(ValueError, match="alternative must be.*'both'"):
    series_lib.surrogate_test(KEY, x, jnp.sum, num=1, alternative='both')
  with pytest.raises(ValueError, match=r'statistic must return a scalar.*8'):
    series_lib.surrogate_test(KEY, x, lambda x: x, num=1)
  for lag in (-1, 8):
    with pytest.raises(ValueError, match=rf'max_lag must be in.*7\].*{lag}'):
      series_lib.autocorrelation(x, lag)
  with pytest.raises(ValueError, match=r'b_T must have the shape.*\(8,\).*7'):
    agreement.sign_agreement(x, x[:7])
  for level in (0, 1.0, 95):
    with pytest.raises(ValueError, match=r'level must be in \(0, 1\)'):
      agreement.reliability(x, x, level=level)
