"""Autoencoders and memory models on meshes of one and of eight devices."""

import functools

import jax
import numpy as np
import pytest
import tiny_families

from iblm_jax import config as config_lib
from iblm_jax.training import loop
from iblm_jax.training.scale import mesh as mesh_lib

STEPS = 3
ALL = dict(data=2, fsdp=2, tensor=2)


def train(name, variant, mesh, devices):
  c = tiny_families.small(name, variant)
  c.data.batch_size = 16
  if variant == 'oracle':
    c.frozen = ('^encoder/',)
  if variant == 'gapt':
    c.gate.update(patience_main=1, rtol_main=1.0)  # compresses at once
  c.mesh = mesh
  job = loop.prepare(config_lib.from_dict(c), jax.devices()[:devices])
  program, losses = job.program, []
  with jax.set_mesh(program.mesh):
    state = tiny_families.random_state(job)
    for k in range(STEPS):
      batch = mesh_lib.put_batch(job.source.batch(k), program.batch_sharding)
      state, metrics = program.train_step(state, batch)
      losses.append(float(metrics['train/cross_entropy']))
  if variant == 'gapt':
    assert metrics['gapt/phase'] == 2
  return losses, state


@pytest.fixture(scope='module')
def on_one_device():
  return functools.cache(
      lambda name, variant: train(name, variant, dict(data=1), 1)
  )


@pytest.mark.parametrize(
    'name, variant, mesh',
    [
        ('autoencoder', 'mixer', ALL),
        ('memory', 'smoke', ALL),
        ('memory', 'mixer', ALL),
        ('memory', 'recurrent', ALL),
        ('memory', 'oracle', ALL),
        ('memory', 'gapt', dict(data=8)),
    ],
    ids=str,
)
def test_eight_devices_train_as_one(on_one_device, name, variant, mesh):
  expected, one = on_one_device(name, variant)
  losses, state = train(name, variant, mesh, 8)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  for (path, leaf), other in zip(
      jax.tree_util.tree_leaves_with_path(state.params),
      jax.tree.leaves(one.params),
      strict=True,
  ):
    # A hundredth of a step: where a gradient is about 0, Adam divides rounding
    # by rounding.
    np.testing.assert_allclose(
        leaf, other, rtol=0, atol=1e-4, err_msg=jax.tree_util.keystr(path)
    )
  stack = 'decoder' if variant == 'recurrent' else 'encoder'
  up = state.params[stack]['blocks']['mlp']['up']['kernel'].sharding
  axes = [entry if entry in mesh else None for entry in up.spec]
  assert axes == [None, *(n if n in mesh else None for n in ('fsdp', 'tensor'))]
