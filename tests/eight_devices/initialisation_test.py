"""A state is split from the first byte, and so is all that training holds."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from iblm_jax.data import batches
from iblm_jax.optim import inspection
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import mesh as mesh_lib


def num_bytes(tree):
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope='module')
def program(small_config):
  """Of a model whose largest array has 4 MB."""
  cfg = small_config('gapt', 'fsdp', vocab_size=2048, width=256, num_layers=4)
  return program_lib.Program(cfg, jax.devices())


@pytest.fixture(scope='module')
def compiled_init(program):
  with jax.set_mesh(program.mesh):
    return program.init.lower(jax.random.key(0)).compile()


def test_no_array_is_ever_whole_on_a_device(program, compiled_init):
  abstract = program.abstract_state
  largest = max(num_bytes(leaf) for leaf in jax.tree.leaves(abstract))
  assert largest == 4 * 256 * 1024 * 4
  memory = compiled_init.memory_analysis()
  share = num_bytes(abstract) / 8
  assert share <= memory.output_size_in_bytes < 1.05 * share
  assert memory.argument_size_in_bytes < 1024
  # The loop over layers holds its results once more, split: no room for a whole
  # array besides, not even for the smallest of the matrices.
  split = num_bytes(abstract.params) / 8
  assert memory.temp_size_in_bytes < 1.5 * split < largest


def test_every_leaf_is_created_where_it_stays(program, compiled_init):
  state = compiled_init(jax.random.key(0))
  on_device = dict.fromkeys(jax.devices(), 0)

  def check(leaf, abstract):
    assert leaf.sharding.is_equivalent_to(abstract.sharding, leaf.ndim)
    assert (leaf.shape, leaf.dtype) == (abstract.shape, abstract.dtype)
    for shard in leaf.addressable_shards:
      on_device[shard.device] += shard.data.nbytes
    if leaf.ndim >= 2:  # everything that is large
      assert leaf.addressable_shards[0].data.nbytes == leaf.nbytes // 8

  jax.tree.map(check, state, program.abstract_state)
  share = num_bytes(state) / 8
  assert all(share <= held < 1.05 * share for held in on_device.values())
  # Not eight times the same piece.
  kernel = state.params['blocks']['mlp']['up']['kernel']
  pieces = [np.asarray(shard.data) for shard in kernel.addressable_shards]
  assert len({piece.tobytes() for piece in pieces}) == 8


@pytest.mark.parametrize('mesh', ['fsdp', 'all'])
def test_everything_in_a_step_has_its_place(small_step, mesh):
  """Rows are split, moments follow parameters, scalars are everywhere."""
  step = small_step('gapt', mesh)
  program = step.program
  everywhere = NamedSharding(program.mesh, P())
  rows = NamedSharding(program.mesh, P(('data', 'fsdp')))
  shape = (step.cfg.data.batch_size, step.length)
  batch = mesh_lib.put_batch(
      {name: np.ones(shape, dtype) for name, dtype in batches.DTYPES.items()},
      program.batch_sharding,
  )
  for array in batch.values():
    assert array.sharding.is_equivalent_to(rows, 2)
    assert array.addressable_shards[0].data.shape[0] == shape[0] // (
        mesh_lib.batch_shards(program.mesh, step.cfg.mesh)
    )
  ones = lambda leaf: jax.device_put(
      np.ones(leaf.shape, leaf.dtype), leaf.sharding
  )
  state = jax.tree.map(ones, program.abstract_state)
  state, metrics = step.compiled(state, batch)

  same = jax.tree.map(
      lambda leaf, abstract: leaf.sharding.is_equivalent_to(
          abstract.sharding, leaf.ndim
      ),
      state,
      program.abstract_state,
  )
  assert all(jax.tree.leaves(same))
  gate = inspection.gate_state(state.opt_state)
  scalars = [*gate, state.step, *metrics.values()]
  assert len(scalars) > 15
  for scalar in scalars:
    assert scalar.shape == ()
    assert scalar.sharding.is_equivalent_to(everywhere, 0)
    assert len({shard.data.item() for shard in scalar.addressable_shards}) == 1

  places = {
      path: leaf.sharding
      for path, leaf in jax.tree.leaves_with_path(state.params)
  }
  moments = 0
  for path, leaf in jax.tree.leaves_with_path(state.opt_state):
    for tail, sharding in places.items():
      if path[-len(tail):] == tail:
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), path
        moments += 1
  assert moments == 2 * len(places)
  assert any(not place.is_fully_replicated for place in places.values())
