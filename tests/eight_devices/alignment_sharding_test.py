"""Alignment of sharded gradients, and what it sends between devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from iblm_jax import information
from iblm_jax.training.scale import collectives

SPECS = {
    'blocks': {'kernel': P(None, 'data', 'model'), 'scale': P(None, 'data')},
    'head': P('data', 'model'),
    'scalar': P(),
}
SHAPES = {
    'blocks': {'kernel': (3, 16, 8), 'scale': (3, 16)},
    'head': (32, 24),
    'scalar': (),
}


def draw(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda shape: np.asarray(rng.standard_normal(shape), np.float32),
      SHAPES,
      is_leaf=lambda x: isinstance(x, tuple),
  )


@pytest.mark.parametrize(
    'axis_type', [AxisType.Auto, AxisType.Explicit], ids=['auto', 'explicit']
)
def test_a_mesh_equals_one_device_and_moves_scalars_only(axis_type):
  mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=(axis_type,) * 2)
  shard = lambda tree: jax.tree.map(
      lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, SPECS
  )
  g, h = draw(0), draw(1)
  with jax.set_mesh(mesh):
    compiled = (
        jax.jit(information.layer_alignment).lower(shard(g), shard(h)).compile()
    )
    got = compiled(shard(g), shard(h))
  want = information.layer_alignment(g, h)
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
      got,
      want,
  )
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(got))
  (moved,) = collectives.totals(compiled.as_text(), 8)
  assert moved.kind == 'all-reduce'
  # Three sums for each of 3 layers of two leaves, and for the head; what is
  # split along both axes is summed along one and then along the other.
  assert moved.largest <= 4 * 3 * (3 + 3 + 1)
  assert moved.bytes <= 4 * 3 * (3 + 3 + 1 + 3 + 1)
