"""The same step on meshes of one and of eight devices."""

import functools
import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from iblm_jax import config as config_lib
from iblm_jax.training import loop
from iblm_jax.training.scale import mesh as mesh_lib

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def small_config(variant, mesh):
  spec = importlib.util.spec_from_file_location(
      'multiplication', CONFIGS / 'multiplication.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  c = module.get_config(variant)
  c.model.update(width=32, num_layers=3, num_heads=4, scan_layers=True)
  c.data.update(batch_size=16)
  c.data.multiplication.eval_rows = 24
  # No step improves by half, so the phases alternate.
  c.gate.update(patience_main=3, patience_aux=2, rtol_main=0.5, ema=0.0)
  c.train.update(num_steps=12)
  c.optimizer.schedule.warmup_steps = 2
  c.mesh = mesh
  return config_lib.from_dict(c)


def train(job, steps, first, train_step=None):
  """Metrics of each step from the arrays of a state, and the last state."""
  program = job.program
  shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state)
  history = []
  with jax.set_mesh(program.mesh):
    state = jax.device_put(first, shardings)
    for k in range(steps):
      batch = mesh_lib.put_batch(job.source.batch(k), program.batch_sharding)
      state, metrics = (train_step or program.train_step)(state, batch)
      history.append(jax.device_get(metrics))
  return history, state


def initial(job):
  """Arrays of the first state; initialisation_test.py looks at shardings."""
  with jax.set_mesh(job.program.mesh):
    return jax.device_get(job.program.init(jax.random.key(0)))


def run(variant, mesh, devices, first=None):
  job = loop.prepare(small_config(variant, mesh), jax.devices()[:devices])
  if first is None:
    first = initial(job)
  return (first, *train(job, 12, first))


@pytest.fixture(scope='module')
def on_one_device():
  return functools.cache(lambda variant: run(variant, dict(data=1), 1)[:2])


@pytest.mark.parametrize(
    'variant, mesh',
    [
        ('gapt', dict(data=8)),
        ('gapt_vn', dict(data=1, fsdp=2, tensor=4)),
    ],
    ids=str,
)
def test_eight_devices_train_as_one(on_one_device, variant, mesh):
  first, expected = on_one_device(variant)
  _, history, state = run(variant, mesh, 8, first)
  phases = [int(metrics['gapt/phase']) for metrics in history]
  assert phases == [int(metrics['gapt/phase']) for metrics in expected]
  assert set(phases) == {1, 2}
  for a, b in zip(history, expected, strict=True):
    np.testing.assert_allclose(
        a['train/cross_entropy'], b['train/cross_entropy'], rtol=1e-5
    )
    np.testing.assert_allclose(a['train/mbe'], b['train/mbe'], rtol=1e-4)
    np.testing.assert_allclose(
        a['optim/grad_norm'], b['optim/grad_norm'], rtol=1e-4
    )
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
  if mesh.get('tensor') == 4:  # 15 tokens over four devices: kept together
    assert state.params['embed']['tokens'].sharding.spec == P(None, 'fsdp')


def test_mesh_must_fit_devices_and_batch():
  with pytest.raises(ValueError, match='does not fit 8 devices'):
    loop.prepare(small_config('gapt', dict(data=3)))
  for mesh, message in (
      (dict(tensor=8), 'num_heads must be a multiple of the 8 pieces .* got 4'),
      (dict(data=1, fsdp=8), 'width must be a multiple of the 8 .* got 36'),
      (dict(data=2, tensor=4), 'mlp_width must be a multiple .* 4 .* got 90'),
  ):
    tree = config_lib.to_dict(small_config('gapt', mesh))
    if 'got 36' in message:
      tree['model'].update(width=36, positions='none')
    tree['model']['mlp_width'] = 90
    with pytest.raises(ValueError, match=message):
      loop.prepare(config_lib.from_dict(tree))
  tree = config_lib.to_dict(small_config('gapt', dict(data=8)))
  tree['data']['batch_size'] = 12
  with pytest.raises(ValueError, match='multiple of the 8 pieces'):
    loop.prepare(config_lib.from_dict(tree))


def both(tree, steps, aligned=False):
  """Metrics and last state of the same steps on one device and on eight."""
  first = None
  for mesh, devices in (dict(data=1), 1), (dict(data=2, fsdp=2, tensor=2), 8):
    cfg = config_lib.from_dict(dict(tree, mesh=mesh))
    job = loop.prepare(cfg, jax.devices()[:devices])
    if first is None:
      first = initial(job)
    step = job.program.aligned_steps[0][0] if aligned else None
    yield train(job, steps, first, step)


def test_alignment_is_the_same_on_eight_devices():
  """Two steps that compare the gradients of both losses."""
  tree = config_lib.to_dict(small_config('mbe', dict(data=1)))
  tree['alignment'] = dict(every=1)
  (one, _), (eight, _) = both(tree, 2, aligned=True)
  for a, b in zip(one, eight, strict=True):
    names = [name for name in a if name.startswith('alignment/')]
    assert len(names) == 12  # three, by layer too
    for name in names:
      np.testing.assert_allclose(
          a[name], b[name], rtol=1e-3, atol=1e-4, err_msg=name
      )


def test_a_subspace_is_trained_the_same_on_eight_devices():
  """Four steps that train twelve numbers behind adapters."""
  tree = config_lib.to_dict(small_config('ce', dict(data=1)))
  tree['model'].update(tie_embeddings=False)
  tree['parameterisation'] = dict(
      kind='sublora',
      dims=(3, 4),
      lora=dict(patterns=['query/kernel$', '^head/kernel$'], rank=2),
  )
  tree['optimizer']['name'] = 'adamw'
  tree['optimizer']['group_peaks'] = {}
  (one, state), (eight, same) = both(tree, 4)
  w, same = jax.device_get((state.params, same.params))
  for a, b in zip(one, eight, strict=True):
    for name in ('train/cross_entropy', 'optim/grad_norm'):
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4)
  assert w.shape == (12,) and np.abs(w).max() > 0
  np.testing.assert_allclose(w, same, rtol=1e-3, atol=1e-4 * np.abs(w).max())
