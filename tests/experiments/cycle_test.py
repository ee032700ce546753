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


def test_every_number_of_halves_and_layers_is_of_its_own_series():
  """Series that differ in everything; their statistics by NumPy."""
  rng = np.random.default_rng(3)
  names = ('aa', 'bb', 'ab', 'ba', 'main', 'aux')
  series = {
      f'alignment/halves/cosine_{name}': 0.1 * k + rng.normal(size=120)
      for k, name in enumerate(names, -2)
  }
  aa, bb, ab, ba, main, aux = series.values()
  cosine_T, control_T, *layers = 0.1 + rng.normal(size=(4, 120))
  series |= {
      'step': np.arange(120),
      'alignment/cosine': cosine_T,
      'alignment/norm_control/cosine_main': control_T,
      # Neither by halves nor by matrices.
      'alignment/cosine/layer_00/mlp': layers[0],
      **{f'alignment/cosine/layer_{n:02d}': x for n, x in enumerate(layers)},
  }
  found = cycle.statistics_of(series, jax.random.key(1))
  changes = lambda x: np.sum(np.sign(x[1:]) != np.sign(x[:-1]))
  positive = lambda x: np.mean(x > 0)
  by_chance = positive(aa) * positive(bb) + np.mean(aa <= 0) * np.mean(bb <= 0)
  expected = {
      'same_half': np.concatenate([aa, bb]).mean(),
      'other_half': np.concatenate([ab, ba]).mean(),
      'gradient_noise/main': main.mean(),
      'gradient_noise/aux': aux.mean(),
      'mean_cosine': cosine_T.mean(),
      'agreement': np.mean(np.sign(aa) == np.sign(bb)),
      'agreement_by_chance': by_chance,
      'agreement_other_half': np.mean(np.sign(aa) == np.sign(ab)),
      'reliability': np.corrcoef(aa, bb)[0, 1],
      'sign_changes': changes(cosine_T),
      'share_positive': positive(cosine_T),
      'norm_control/sign_changes': changes(control_T),
      'norm_control/correlation': np.corrcoef(cosine_T, control_T)[0, 1],
      'smooth_5/sign_changes': changes(
          np.convolve(cosine_T, np.ones(5) / 5, 'valid')
      ),
      'layer_00/share_positive': positive(layers[0]),
      'layer_01/sign_changes': changes(layers[1]),
  }
  assert len({round(float(x), 6) for x in expected.values()}) == len(expected)
  for name, value in expected.items():
    assert found[name] == pytest.approx(value, abs=1e-6), name
  assert found['reliability_low'] < found['reliability'] < (
      found['reliability_high']
  )
  assert not any(name.startswith('mlp') for name in found)
