"""Projectors on meshes: the same numbers, and one sum of d numbers at most."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from iblm_jax import sublora
from iblm_jax.sublora import kron
from iblm_jax.training.scale import collectives

KEY = jax.random.key(137)
DIMS = (4, 6)
# A kernel split along two axes, a matrix whose split axis is cut in two, and a
# leaf that no axis splits.
SPECS = {
    'blocks': {'kernel': P(None, 'fsdp', 'tensor')},
    'head': P('tensor'),
    'whole': P(),
}
SHAPES = {
    'blocks': {'kernel': (3, 16, 4, 8)},
    'head': (96, 2),
    'whole': (5, 6),
}
MESHES = {1: (1, 1, 1), 2: (1, 1, 2), 4: (1, 2, 2), 8: (2, 2, 2)}


def abstract(devices):
  """Shapes, and shardings on a mesh; without, if `devices` is 0."""
  mesh = devices and mesh_of(devices)

  def leaf(shape, spec):
    sharding = NamedSharding(mesh, spec) if devices else None
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

  return jax.tree.map(
      leaf, SHAPES, SPECS, is_leaf=lambda x: isinstance(x, tuple)
  )


@functools.cache
def mesh_of(devices):
  names = ('data', 'fsdp', 'tensor')
  return jax.make_mesh(
      MESHES[devices], names, axis_types=(AxisType.Auto,) * 3,
      devices=jax.devices()[:devices],
  )


@functools.cache
def projector_of(kind, devices, **options):
  return sublora.make_projector(kind, abstract(devices), DIMS, KEY, **options)


@jax.jit
def apply(projector, w):
  return projector.apply(w)


@jax.jit
def transpose(projector, tree):
  """As a training step asks for it: through the gradient."""
  zeros = jnp.zeros(projector.size)
  return jax.vjp(projector.apply, zeros)[1](tree)[0]


W = np.random.default_rng(0).standard_normal(24).astype(np.float32)
TREE = jax.tree.map(
    lambda shape: np.random.default_rng(sum(shape))
    .standard_normal(shape).astype(np.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
)


@functools.cache
def on_one_device(kind, **options):
  projector = projector_of(kind, 0, **options)
  return apply(projector, W), transpose(projector, TREE)


def put(devices):
  place = lambda x, leaf: jax.device_put(x, leaf.sharding)
  return jax.tree.map(place, TREE, abstract(devices))


def check(kind, devices, **options):
  projector = projector_of(kind, devices, **options)
  theta, g = on_one_device(kind, **options)
  tree = put(devices)
  w = jax.device_put(W, NamedSharding(mesh_of(devices), P()))
  programs = [
      function.lower(projector, argument).compile()
      for function, argument in ((apply, w), (transpose, tree))
  ]
  got_theta = programs[0](projector, w)
  got_g = programs[1](projector, tree)
  close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
  jax.tree.map(close, got_theta, theta)
  close(got_g, g)
  return [program.as_text() for program in programs], got_theta, got_g


@pytest.mark.parametrize(
    'kind, devices',
    [('kron', 1), ('kron', 2), ('kron', 4), ('kron', 8), ('sparse', 8)],
)
def test_factors_lie_with_the_parameters_and_are_the_same(kind, devices):
  held = projector_of(kind, devices).factors
  alone = projector_of(kind, 0).factors
  jax.tree.map(np.testing.assert_array_equal, held, alone)
  (forward, backward), theta, g = check(kind, devices)
  # Nothing is sent forwards; backwards one sum of d numbers.
  assert collectives.operations(forward, devices) == []
  moved = collectives.operations(backward, devices)
  if devices == 1:
    assert moved == []
    return
  assert [(op.kind, op.runs, op.bytes) for op in moved] == [
      ('all-reduce', 1, 4 * 24)
  ]
  # Over the axes that split parameters alone: the others hold copies.
  assert moved[0].group == (2 if devices == 2 else 4)
  assert g.sharding.is_fully_replicated
  for leaf, like in zip(
      *map(jax.tree.leaves, (theta, abstract(devices))), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
  # Rows of factors lie where rows of the parameters lie.
  pieces = {
      x.size // x.addressable_shards[0].data.size
      for x in jax.tree.leaves(held)
  }
  assert pieces == ({1, 2} if devices == 2 else {1, 2, 4})


def test_large_factors_are_drawn_where_they_lie(monkeypatch):
  monkeypatch.setattr(kron, '_DRAWN_TOGETHER', 0)
  make = lambda devices: sublora.make_projector(
      'kron', {'head': abstract(devices)['head']}, DIMS, KEY
  )
  there, here = make(8), make(0)
  jax.tree.map(np.testing.assert_array_equal, there.factors, here.factors)
  rows, _ = there.factors[0]
  assert rows.addressable_shards[0].data.size == rows.size // 2


def test_drawn_at_each_use_each_device_draws_its_rows():
  make = lambda **options: sublora.make_projector(
      'kron', {'head': abstract(8)['head']}, DIMS, KEY, entries='sign',
      **options,
  )
  held, drawn = make(), make(hold=False)
  assert drawn.nbytes == 0
  compiled = apply.lower(drawn, W).compile()
  assert collectives.operations(compiled.as_text(), 8) == []
  np.testing.assert_allclose(
      compiled(drawn, W)['head'], apply(held, W)['head'], rtol=0, atol=1e-6
  )
  tree = {'head': put(8)['head']}
  compiled = transpose.lower(drawn, tree).compile()
  (moved,) = collectives.operations(compiled.as_text(), 8)
  assert (moved.kind, moved.runs, moved.bytes) == ('all-reduce', 1, 4 * 24)
  np.testing.assert_allclose(
      compiled(drawn, tree), transpose(held, tree), rtol=0, atol=1e-5
  )


@pytest.mark.parametrize('kind', ['rdkronqr', 'fastfood', 'dense'])
def test_others_are_right_on_a_mesh(kind):
  check(kind, 8)


def test_a_cut_that_devices_do_not_divide_is_gathered():
  """P never depends on the mesh; what does not fit is sent, not changed."""
  mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, P('x'))
  sharded = jax.ShapeDtypeStruct((24,), jnp.float32, sharding=sharding)
  plain = jax.ShapeDtypeStruct((24,), jnp.float32)
  make = lambda leaf: sublora.make_projector(
      'kron', {'a': leaf}, DIMS, KEY, entries='sign'
  )
  there, here = make(sharded), make(plain)
  x = np.arange(24, dtype=np.float32)
  np.testing.assert_allclose(
      apply(there, W)['a'], apply(here, W)['a'], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
      transpose(there, {'a': jax.device_put(x, sharding)}),
      transpose(here, {'a': x}), rtol=1e-5, atol=1e-5,
  )
