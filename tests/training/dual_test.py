import jax
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax.training import loop
from iblm_jax.training.scale import mesh as mesh_lib


def run_steps(tiny, num_steps):
  job = loop.prepare(config_lib.from_dict(tiny))
  history = []
  with jax.set_mesh(job.program.mesh):
    state = job.program.init(jax.random.key(0))
    for k in range(num_steps):
      batch = mesh_lib.put_batch(
          job.source.batch(k), job.program.batch_sharding
      )
      state, metrics = job.program.train_step(state, batch)
      history.append(jax.device_get(metrics))
  return history


@pytest.mark.parametrize('accumulation', [1, 2])
def test_the_weight_of_a_step_follows_its_cross_entropy(tiny, accumulation):
  target, rate = 2.5, 0.5
  tiny.objective.method = 'dual'
  tiny.dual = dict(
      target=target, rate=rate, weight=0.3, min_weight=1e-3, max_weight=2.0,
      ema=0.5,
  )
  tiny.train.accumulation = accumulation
  log_weight, smooth = np.log(0.3), None
  for metrics in run_steps(tiny, 5):
    before = np.exp(log_weight)
    main = metrics['train/cross_entropy']
    smooth = main if smooth is None else 0.5 * smooth + 0.5 * main
    log_weight -= rate * (smooth - target) / target
    # With accumulation the weight acts one update later.
    weight = np.exp(log_weight) if accumulation == 1 else before
    np.testing.assert_allclose(metrics['dual/weight'], weight, rtol=1e-5)
    np.testing.assert_allclose(
        metrics['train/loss'], main + weight * metrics['train/mbe'], rtol=1e-5
    )
  assert abs(log_weight - np.log(0.3)) > 0.05


@pytest.mark.parametrize('method', ['dual', 'gapt'])
def test_the_method_and_its_options_come_together(tiny, method):
  tiny.objective.method = method
  if method == 'gapt':
    tiny.dual = dict(target=1.0)
  with pytest.raises(ValueError, match='dual must be given for'):
    config_lib.from_dict(tiny)
