import jax
import numpy as np
import pytest

from iblm_jax.experiments import cycle


def measured(cosine_T, half_noise, rng):
  """Series of a run whose halves see the same cosine with their own noise."""
  halves = lambda: cosine_T + half_noise * rng.standard_normal(cosine_T.size)
  return {
      'step': np.arange(cosine_T.size),
      'alignment/cosine': cosine_T,
      'alignment/cosine/layer_00': -cosine_T,
      'alignment/norm_control/cosine_main': -2 * cosine_T,
      **{
          f'alignment/halves/cosine_{name}': halves()
          for name in ('aa', 'bb', 'ab', 'ba', 'main', 'aux')
      },
  }


@pytest.fixture(scope='module')
def found():
  """Of a wave of period 20 and of white noise, 200 steps each."""
  rng = np.random.default_rng(0)
  steps = np.arange(200)
  wave = 0.3 * np.sin(2 * np.pi * (steps + 0.5) / 20)
  noise = 0.3 * rng.standard_normal(200)
  key = jax.random.key(0)
  return (
      cycle.statistics_of(measured(wave, 0.01, rng), key),
      # What halves of a batch share is nothing.
      cycle.statistics_of(
          measured(noise, 0.0, rng)
          | {
              f'alignment/halves/cosine_{name}': rng.standard_normal(200)
              for name in ('aa', 'bb')
          },
          key,
      ),
  )


def test_a_cycle_is_found(found):
  wave, _ = found
  assert wave['sign_changes'] == 19 and wave['share_positive'] == 0.5
  assert wave['mean_run_positive'] == 10.0
  assert wave['layer_00/sign_changes'] == 19
  assert wave['smooth_5/sign_changes'] == pytest.approx(19, abs=1)
  assert wave['smooth_100/sign_changes'] < 15
  assert wave['period'] == 20.0 and wave['period_share'] > 0.9
  for name in ('period_p_drift', 'p_permutation'):  # the smallest there is
    assert wave[name] == pytest.approx(0.001), name
  assert wave['agreement'] > 0.9 > wave['agreement_by_chance']
  assert wave['reliability'] > 0.9
  assert wave['norm_control/correlation'] == pytest.approx(-1)


def test_noise_is_no_cycle(found):
  _, noise = found
  assert noise['sign_changes'] > 80
  assert noise['p_permutation'] > 0.05 and noise['period_p_drift'] > 0.05
  assert abs(noise['reliability']) < 0.2
  assert noise['agreement'] == pytest.approx(
      noise['agreement_by_chance'], abs=0.12
  )


def test_drift_is_no_cycle():
  rng = np.random.default_rng(1)
  p_values = []
  for _ in range(20):
    drift = np.zeros(150)
    for t in range(1, 150):
      drift[t] = 0.97 * drift[t - 1] + rng.standard_normal()
    p_values.append(cycle._period_against_drift(drift))
  # 20 uniform numbers: their mean is within 0.25 of a half (4 deviations).
  assert abs(np.mean(p_values) - 0.5) < 0.26
