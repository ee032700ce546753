"""Entropy on a sharded batch: same numbers, no data moved."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from iblm_jax import information
from iblm_jax.training.scale import collectives

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


# Far more samples than features, as of a whole batch.
# A spectrum that falls: where it is flat the gradient is what rounding leaves.
Z = np.random.default_rng(2).normal(size=(512, 16)) * 0.8 ** np.arange(16)
Z = Z.astype(np.float32)
KEEP = np.random.default_rng(3).random(512) < 0.8


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0])
def test_rows_of_one_matrix_stay_where_they_lie(alpha, masked):
  """The D x D matrix is summed over devices, of the rows nothing is moved."""
  def entropy(z_NxD, keep_N):
    return information.matrix_entropy(
        z_NxD, alpha=alpha, center=masked, normalize=masked,
        mask=keep_N if masked else None,
    )

  f = jax.jit(jax.value_and_grad(entropy))
  want_value, want = f(Z, KEEP)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  z_NxD, keep_N = jax.device_put((Z, KEEP), sharding)
  with jax.set_mesh(mesh):
    compiled = f.lower(z_NxD, keep_N).compile()
    value, gradient = compiled(z_NxD, keep_N)
  np.testing.assert_allclose(value, want_value, rtol=1e-6)
  # Sums of 512 numbers in another order.
  np.testing.assert_allclose(
      gradient, want, rtol=0, atol=1e-5 * np.abs(want).max()
  )
  assert gradient.sharding.is_equivalent_to(sharding, 2)

  found = collectives.operations(compiled.as_text(), 8)
  assert {op.kind for op in found} == {'all-reduce'}
  moved = sorted(
      (
          shape
          for op in found
          for shape in re.findall(r'\w+\[[\d,]*\]', op.shape)
      ),
      key=len,
  )
  num_features = Z.shape[1]
  assert moved.pop() == f'f32[{num_features},{num_features}]'
  # Means, and squared lengths along eigenvectors.
  small = {f'f32[{num_features}]', 's32[1]', 's32[]', 'f32[]'}
  assert set(moved) <= small, moved
