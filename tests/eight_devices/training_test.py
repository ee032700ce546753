"""The same step on meshes of one and of eight devices."""

import importlib.util
import pathlib

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax.training import loop
from iblm_jax.training import mesh as mesh_lib

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def small_config(variant, mesh):
  spec = importlib.util.spec_from_file_location(
      'multiplication', CONFIGS / 'multiplication.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  c = module.get_config(variant)
  c.model.update(width=32, num_layers=3, num_heads=4)
  c.data.update(batch_size=16)
  c.data.multiplication.eval_rows = 24
  c.gate.update(patience_main=4, patience_aux=3, ema=0.5)
  c.train.update(num_steps=12)
  c.optimizer.schedule.warmup_steps = 2
  c.mesh = mesh
  return config_lib.from_dict(c)


def run(variant, mesh, devices):
  cfg = small_config(variant, mesh)
  job = loop.prepare(cfg)
  program = type(job.program)(cfg, jax.devices()[:devices])
  history = []
  with jax.set_mesh(program.mesh):
    state = program.init(jax.random.key(0))
    for k in range(12):
      batch = mesh_lib.put_batch(job.source.batch(k), program.batch_sharding)
      state, metrics = program.train_step(state, batch)
      history.append(jax.device_get(metrics))
  return history, state


@pytest.fixture(scope='module', params=['gapt', 'gapt_vn'])
def variant(request):
  return request.param, run(request.param, dict(data=1), 1)


@pytest.mark.parametrize(
    'mesh',
    [dict(data=8), dict(data=1, fsdp=8), dict(data=2, tensor=4),
     dict(data=2, fsdp=2, tensor=2)],
    ids=str,
)
def test_eight_devices_train_as_one(variant, mesh):
  name, (expected, _) = variant
  history, state = run(name, mesh, 8)
  phases = [int(metrics['gapt/phase']) for metrics in history]
  assert phases == [int(metrics['gapt/phase']) for metrics in expected]
  assert set(phases) == {1, 2}
  for a, b in zip(history, expected, strict=True):
    np.testing.assert_allclose(
        a['train/cross_entropy'], b['train/cross_entropy'], rtol=1e-5
    )
    np.testing.assert_allclose(a['train/mbe'], b['train/mbe'], rtol=1e-4)
  kernel = state.params['blocks']['mlp']['up']['kernel']
  axis = lambda name: name if mesh.get(name, 1) > 1 else None
  found = [
      entry if entry and mesh.get(entry, 1) > 1 else None
      for entry in (*kernel.sharding.spec, None, None, None)[:3]
  ]
  assert found == [None, axis('fsdp'), axis('tensor')]
  moments = [
      leaf.sharding
      for path, leaf in jax.tree.leaves_with_path(state.opt_state)
      if jax.tree_util.keystr(path).endswith("['mlp']['up']['kernel']")
  ]
  assert len(moments) == 2
  assert all(s.is_equivalent_to(kernel.sharding, 3) for s in moments)


def test_sizes_that_do_not_divide_stay_whole():
  _, state = run('gapt', dict(data=2, tensor=4), 8)
  table = state.params['embed']['tokens']  # 15 tokens, four devices
  assert table.sharding.is_equivalent_to(
      jax.sharding.NamedSharding(table.sharding.mesh, P()), 2
  )


def test_mesh_must_fit_devices_and_batch():
  with pytest.raises(ValueError, match='does not fit 8 devices'):
    loop.prepare(small_config('gapt', dict(data=3)))
  cfg = small_config('gapt', dict(data=8))
  from iblm_jax.training import program

  c = config_lib.to_dict(cfg)
  c['data']['batch_size'] = 12
  with pytest.raises(ValueError, match='multiple of the 8 pieces'):
    program.Program(config_lib.from_dict(c))
