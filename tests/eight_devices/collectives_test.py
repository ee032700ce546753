"""What compiled programs send between devices: as counted, and as designed."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from iblm_jax.training.scale import collectives

ROUNDS = 5


def shard_map_text(local, *shapes):
  """Text of a program whose arguments are float32, split along axis 0."""
  mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, P('x'))
  function = jax.shard_map(
      local, mesh=mesh, in_specs=P('x'), out_specs=P('x'), check_vma=False
  )
  arguments = [
      jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
      for shape in shapes
  ]
  return jax.jit(function).lower(*arguments).compile().as_text()


def test_counts_and_bytes_of_a_loop():
  """Five rounds, in each of them every kind of operation on [16, 8]."""
  def body(x, _):
    x = jax.lax.psum(jnp.sin(x), 'x')
    x = jax.lax.psum(jnp.cos(x), 'x')
    gathered = jax.lax.all_gather(x, 'x', tiled=True)
    x = x + jax.lax.psum_scatter(jnp.sin(gathered), 'x', tiled=True)
    x = jax.lax.ppermute(x, 'x', [(k, (k + 1) % 8) for k in range(8)])
    x = jax.lax.all_to_all(jnp.sin(x), 'x', 0, 0, tiled=True)
    return x, None

  def local(x):
    return jax.lax.scan(body, x, length=ROUNDS)[0]

  text = shard_map_text(local, (128, 8))
  found = {kind.kind: kind[1:] for kind in collectives.totals(text, 8)}
  size = 16 * 8 * 4
  # count, bytes, received, largest
  assert found == {
      'all-reduce': (
          2 * ROUNDS, 2 * ROUNDS * size, 2 * ROUNDS * 2 * size * 7 // 8, size
      ),
      'all-gather': (ROUNDS, ROUNDS * 8 * size, ROUNDS * 7 * size, 8 * size),
      'reduce-scatter': (
          ROUNDS, ROUNDS * 8 * size, ROUNDS * 7 * size, 8 * size
      ),
      'collective-permute': (ROUNDS, ROUNDS * size, ROUNDS * size, size),
      'all-to-all': (ROUNDS, ROUNDS * size, ROUNDS * size * 7 // 8, size),
  }


def test_nested_loops_and_groups():
  """3 * 4 sums over pairs, and one over all after each inner loop."""
  mesh = jax.make_mesh((4, 2), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)

  def inner(x, _):
    return jax.lax.psum(jnp.sin(x), 'b'), None

  def outer(x, _):
    x, _ = jax.lax.scan(inner, x, length=4)
    return jax.lax.psum(jnp.cos(x), ('a', 'b')), None

  def local(x):
    return jax.lax.scan(outer, x, length=3)[0]

  function = jax.shard_map(
      local, mesh=mesh, in_specs=P('a'), out_specs=P('a'), check_vma=False
  )
  x = jax.ShapeDtypeStruct(
      (40, 7), jnp.float32, sharding=NamedSharding(mesh, P('a'))
  )
  text = jax.jit(function).lower(x).compile().as_text()
  found = collectives.operations(text, 8)
  assert sorted((op.runs, op.group, op.bytes) for op in found) == [
      (3, 8, 280), (12, 2, 280),
  ]


def test_a_loop_that_data_ends_cannot_be_counted():
  def local(x):
    far = lambda x: jnp.max(x) > 1.0
    return jax.lax.while_loop(far, lambda x: jax.lax.pmean(x / 2, 'x'), x)

  text = shard_map_text(local, (8, 4))
  with pytest.raises(ValueError, match='cannot tell how often the loop'):
    collectives.totals(text, 8)


def operations(step):
  return collectives.operations(step.compiled.as_text(), 8)


def shapes_of(op):
  return re.findall(r'[a-z]\w*\[[\d,]*\]', op.shape)


def arrays(found):
  """How often arrays are moved, by kind and shape.

  XLA combines small operations of one kind, differently in each program: their
  arrays are compared.
  """
  counts = collections.Counter()
  for op in found:
    for shape in shapes_of(op):
      counts[op.kind, shape] += op.runs
  return counts


def num_bytes(shape):
  dtype, dims = re.fullmatch(r'[a-z]+(\d+)\[([\d,]*)\]', shape).groups()
  return int(dtype) // 8 * int(np.prod([int(d) for d in dims.split(',') if d]))


@pytest.mark.parametrize('mesh', ['fsdp', 'all'])
def test_entropy_adds_scalar_sums_only(small_step, mesh):
  """GAPT sends what training on the cross-entropy alone sends, and scalars.

  Windows lie in a row and rows on one device, so an entropy is the device's
  own; what the devices share is the mean over windows.
  """
  step = small_step('gapt', mesh)
  gapt = arrays(operations(step))
  plain = arrays(operations(small_step('ce', mesh)))
  added = gapt - plain
  assert {kind for kind, _ in added} == {'all-reduce'}, added
  assert added['all-reduce', 'f32[]'] >= step.cfg.model.num_layers, added
  sizes = {shape: num_bytes(shape) * n for (_, shape), n in added.items()}
  assert sum(sizes.values()) <= 256, sizes
  # Nothing large is sent in another form instead.
  dropped = plain - gapt
  assert {shape for _, shape in dropped} <= {'f32[]'}, dropped


def test_fsdp_gathers_one_weight_at_a_time(small_step):
  """Neither all layers at once, nor activations of the global batch."""
  step = small_step('gapt', 'fsdp')
  layers, width = step.cfg.model.num_layers, step.cfg.model.width
  params = dict(step.program.abstract_state.params)
  stacked = jax.tree.leaves(params.pop('blocks'))
  one_layer = [leaf.size // layers for leaf in stacked]
  others = [leaf.size for leaf in jax.tree.leaves(params)]
  largest = 4 * max(one_layer + others)
  assert largest == 4 * width * 4 * width
  # What must not be moved is larger than what may be.
  tokens = step.cfg.data.batch_size * step.length
  assert 4 * tokens * min(width, step.cfg.model.vocab_size) > largest
  found = operations(step)
  for op in found:
    sizes = [num_bytes(shape) for shape in shapes_of(op)]
    # The arrays of an all-to-all are pieces of one.
    assert (sum if op.kind == 'all-to-all' else max)(sizes) <= largest, op
  # Every matrix of every layer is gathered, for one pass or for each of both.
  gathered = collections.Counter()
  for op in found:
    if op.kind == 'all-gather' and op.bytes >= 4 * width * width:
      gathered[op.bytes] += op.runs
  passes = gathered[largest] // (2 * layers)
  assert passes in (1, 2)
  assert gathered == {
      4 * width * width: passes * 4 * layers, largest: passes * 2 * layers
  }


def test_on_every_axis_no_operation_is_larger_than_a_weight(small_step):
  step = small_step('gapt', 'all')
  width = step.cfg.model.width
  for op in operations(step):
    for shape in shapes_of(op):
      assert num_bytes(shape) <= 4 * width * 4 * width, op


def test_tensor_parallel_weights_stay_split(small_step):
  """Sums of activations; no parameter is gathered where the axes divide it."""
  step = small_step('gapt', 'tensor', vocab_size=16)
  layers, width = step.cfg.model.num_layers, step.cfg.model.width
  found = operations(step)
  assert {op.kind for op in found} == {'all-reduce'}
  residual = f'f32[{step.cfg.data.batch_size * step.length},{width}]'
  in_loops = arrays(op for op in found if op.runs == layers)
  assert {shape for _, shape in in_loops} == {residual}
  # After attention and after the MLP; and their gradients.
  assert in_loops['all-reduce', residual] >= 4 * layers
