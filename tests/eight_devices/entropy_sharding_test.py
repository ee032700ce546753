"""Patch entropy on a batch-sharded mesh: same numbers, no data moved."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from iblm_jax import information

_COLLECTIVES = re.compile(
    r'= \S+ (all-gather|all-to-all|collective-permute|reduce-scatter|'
    r'all-reduce)(?:-start)?\('
)


def _case(alpha, masked):
  x = np.random.default_rng(0).normal(size=(16, 64, 24)).astype(np.float32)
  mask = jnp.asarray(np.random.default_rng(1).random((16, 64)) < 0.8)

  def f(x):
    return information.patch_entropy(
        x, patch_size=8, alpha=alpha, mask=mask if masked else None,
        center=masked,
    )

  return x, jax.value_and_grad(f)


@pytest.mark.parametrize('alpha', [0.5, 1.5, 2.0, 3.0])
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
def test_batch_sharded(alpha, kind):
  x, f = _case(alpha, masked=False)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    x_sharded = jax.device_put(x, sharding)
    compiled = jax.jit(f).lower(x_sharded).compile()
    value, gradient = compiled(x_sharded)
  want_value, want = f(jnp.asarray(x))
  np.testing.assert_allclose(value, want_value, atol=2e-6)
  np.testing.assert_allclose(gradient, want, atol=2e-8)
  assert gradient.sharding.is_equivalent_to(sharding, 3)
  found = _COLLECTIVES.findall(compiled.as_text())
  assert set(found) == {'all-reduce'}, found  # the mean's scalar
  assert len(found) == 1, found


def test_masked_and_centred_windows_stay_on_their_shard():
  x, f = _case(1.5, masked=True)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    x_sharded = jax.device_put(x, sharding)
    compiled = jax.jit(f).lower(x_sharded).compile()
    value, gradient = compiled(x_sharded)
  want_value, want = f(jnp.asarray(x))
  np.testing.assert_allclose(value, want_value, atol=2e-6)
  np.testing.assert_allclose(gradient, want, atol=2e-8)
  assert set(_COLLECTIVES.findall(compiled.as_text())) == {'all-reduce'}


def test_data_parallel_shard_map():
  """Manual axes: the conditional's branches vary over devices alike."""
  x, f = _case(1.5, masked=False)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  spec = PartitionSpec('data')

  def local(x):
    value, gradient = f(x)
    return jax.lax.pmean(value, 'data'), gradient / 8

  value, gradient = jax.jit(
      jax.shard_map(
          local, mesh=mesh, in_specs=spec, out_specs=(PartitionSpec(), spec)
      )
  )(x)
  want_value, want = f(jnp.asarray(x))
  np.testing.assert_allclose(value, want_value, atol=2e-6)
  np.testing.assert_allclose(gradient, want, atol=2e-8)
