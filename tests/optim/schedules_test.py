"""Learning rates in closed form."""

import math

import jax
import numpy as np
import pytest

from iblm_jax import optim


def rates(steps, **options):
  schedule = optim.make_schedule(optim.ScheduleConfig(**options))
  return np.array([schedule(step) for step in steps], np.float64)


def test_cosine():
  steps = np.arange(130)
  got = rates(steps, name='cosine', peak=0.3, warmup_steps=20, total_steps=120)
  t = np.clip((steps - 20) / 100, 0, 1)
  want = 0.03 + 0.27 * (1 + np.cos(math.pi * t)) / 2
  want[:20] = 0.3 * steps[:20] / 20
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('warmup', [0, 10, 60])
def test_wsd(warmup):
  steps = np.arange(110)
  got = rates(
      steps, name='wsd', peak=2.0, warmup_steps=warmup, total_steps=100
  )
  want = np.interp(steps, [60, 100], [2.0, 0.2])
  want[:warmup] = 2.0 * steps[:warmup] / max(warmup, 1)
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('name', ['constant', 'wsd'])
def test_constant(name):
  got = rates(
      range(8),
      name=name,
      peak=0.5,
      warmup_steps=4,
      total_steps=6,
      cooldown_fraction=0.0,
  )
  np.testing.assert_allclose(got, [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])


def test_warmup_of_the_whole_run():
  got = rates(range(6), name='cosine', peak=1.0, warmup_steps=4, total_steps=4)
  np.testing.assert_allclose(got, [0, 0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize('name', ['cosine', 'wsd', 'constant'])
def test_traced_steps_give_the_same(name):
  options = dict(name=name, warmup_steps=5, total_steps=50)
  schedule = optim.make_schedule(optim.ScheduleConfig(**options))
  steps = np.arange(60)
  traced = jax.jit(jax.vmap(schedule))(steps)
  np.testing.assert_allclose(traced, rates(steps, **options), rtol=1e-5)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(total_steps=0), 'total_steps must be an int >= 1, got 0'),
        (dict(name='linear'), "name must be one of 'cosine', 'wsd', 'const"),
        (dict(peak=0.0), 'peak must be finite and > 0, got 0.0'),
        (dict(peak=float('inf')), 'peak must be finite'),
        (dict(warmup_steps=-1), 'warmup_steps must be an int >= 0, got -1'),
        (dict(warmup_steps=101), 'warmup_steps must be at most 100.*got 101'),
        (
            dict(name='wsd', warmup_steps=61),
            'warmup_steps must be at most 60.*40 steps of cooldown, got 61',
        ),
        (dict(final_fraction=1.5), r'final_fraction must be in \[0, 1\]'),
        (dict(cooldown_fraction=-0.1), r'cooldown_fraction must be in \[0, 1'),
    ],
)
def test_bad_options_raise(options, message):
  with pytest.raises(ValueError, match=message):
    optim.ScheduleConfig(**{'total_steps': 100, **options})
