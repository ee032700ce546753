"""Patch entropy on a batch-sharded mesh: same numbers, no data moved."""

import functools
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


# 128 windows of four tokens: enough for rotations rather than LAPACK, and a
# small matrix keeps the program small.
X = np.random.default_rng(0).normal(size=(16, 32, 24)).astype(np.float32)
MASK = np.random.default_rng(1).random((16, 32)) < 0.8


def _entropy(alpha, masked):
  def f(x):
    return information.patch_entropy(
        x, patch_size=4, alpha=alpha, center=masked,
        mask=jnp.asarray(MASK) if masked else None,
    )

  return jax.value_and_grad(f)


def _compile(f, x):
  """Quickly: sharding and collectives do not depend on LLVM's effort."""
  return jax.jit(f).lower(x).compile({'xla_backend_optimization_level': '0'})


@functools.cache
def _on_one_device(alpha, masked):
  return _compile(_entropy(alpha, masked), X)(X)


def _check(value, gradient, alpha, masked=False):
  want_value, want = _on_one_device(alpha, masked)
  np.testing.assert_allclose(value, want_value, atol=2e-6)
  np.testing.assert_allclose(gradient, want, atol=2e-8)


def _check_on_mesh(alpha, kind, masked=False):
  """Numbers, the gradient's sharding, and the mean's scalar all-reduce."""
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    x = jax.device_put(X, sharding)
    compiled = _compile(_entropy(alpha, masked), x)
    value, gradient = compiled(x)
  _check(value, gradient, alpha, masked)
  assert gradient.sharding.is_equivalent_to(sharding, 3)
  found = _COLLECTIVES.findall(compiled.as_text())
  assert set(found) == {'all-reduce'}, found
  return found


@pytest.mark.parametrize('alpha', [0.5, 1.5, 2.0, 3.0])
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
def test_batch_sharded(alpha, kind):
  found = _check_on_mesh(alpha, kind)
  assert len(found) == 1, found


def test_masked_and_centred_windows_stay_on_their_shard():
  _check_on_mesh(1.5, AxisType.Auto, masked=True)


def test_data_parallel_shard_map():
  """Manual axes: the conditional's branches vary over devices alike."""
  f = _entropy(1.5, masked=False)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  spec = PartitionSpec('data')

  def local(x):
    value, gradient = f(x)
    return jax.lax.pmean(value, 'data'), gradient / 8

  parallel = jax.shard_map(
      local, mesh=mesh, in_specs=spec, out_specs=(PartitionSpec(), spec)
  )
  x = jax.device_put(X, NamedSharding(mesh, spec))
  value, gradient = _compile(parallel, x)(x)
  _check(value, gradient, 1.5)
