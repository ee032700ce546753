"""The gate and the optimizers on sharded parameters, Auto and Explicit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from iblm_jax import optim

CONFIG = optim.GateConfig(patience_main=2, patience_aux=2)
AXES = [AxisType.Auto, AxisType.Explicit]
SPECS = {'w': P('data', 'model'), 'stack': P(None, 'data', 'model'), 'b': P()}


def make_mesh(axis_type):
  assert jax.device_count() == 8
  return jax.make_mesh((4, 2), ('data', 'model'), axis_types=(axis_type,) * 2)


def trees(mesh=None):
  rng = np.random.default_rng(0)
  shapes = {'w': (8, 6), 'stack': (3, 8, 4), 'b': (5,)}

  def draw():
    tree = {k: np.float32(rng.standard_normal(s)) for k, s in shapes.items()}
    if mesh is None:
      return jax.tree.map(jnp.asarray, tree)
    return {
        k: jax.device_put(x, NamedSharding(mesh, SPECS[k]))
        for k, x in tree.items()
    }

  return draw(), draw(), draw()


def gapt(projection):
  return optax.chain(
      optim.gapt(CONFIG, projection=projection), optax.adam(0.1)
  )


def with_gapt():
  clip = optax.clip_by_global_norm(1.0)
  return optim.with_gapt(optax.chain(clip, optax.adam(0.1)), CONFIG)


def muon():
  dims = optax.contrib.MuonDimensionNumbers
  table = {'w': dims(), 'stack': dims(1, 2)}
  config = optim.OptimizerConfig(
      name='muon', schedule=optim.ScheduleConfig(total_steps=10, peak=0.1)
  )
  return optim.make_optimizer(
      config,
      CONFIG,
      muon_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(
          lambda path, _: table.get(path[-1].key), params
      ),
  )


MAKERS = {
    'gapt': functools.partial(gapt, None),
    'pcgrad': functools.partial(gapt, 'pcgrad'),
    'with_gapt': with_gapt,
}


def train(tx, mesh, num_steps=6):
  """Parameters and state after a few jitted steps; also the first state."""
  params, g1, g2 = trees(mesh)
  traces = []

  @jax.jit
  def step(params, state):
    traces.append(1)
    # The losses are computed from sharded values, as in a training step.
    value = jnp.mean(jnp.square(g1['w']))
    updates, state = tx.update(
        g1, state, params, value=value, aux_value=value, aux_updates=g2
    )
    return optax.apply_updates(params, updates), state

  first = state = jax.jit(tx.init)(params)
  for _ in range(num_steps):
    params, state = step(params, state)
  assert len(traces) == 1
  return params, first, state


def check(tx, axis_type):
  want, _, want_state = train(tx, None)
  mesh = make_mesh(axis_type)
  with jax.set_mesh(mesh):
    got, first, state = train(tx, mesh)
    assert jax.tree.map(jax.typeof, first) == jax.tree.map(jax.typeof, state)
  for k, x in got.items():
    np.testing.assert_allclose(x, want[k], rtol=1e-4, atol=1e-5)
    assert x.sharding.is_equivalent_to(NamedSharding(mesh, SPECS[k]), x.ndim)
  gate = optim.gate_state(state)
  for x, y in zip(gate, optim.gate_state(want_state), strict=True):
    assert x.sharding.is_fully_replicated
    np.testing.assert_allclose(x, y, rtol=1e-6)
  assert int(gate.num_switches) >= 2


@pytest.mark.parametrize('axis_type', AXES, ids=['auto', 'explicit'])
@pytest.mark.parametrize('name', MAKERS)
def test_gapt_on_a_mesh_equals_one_device(name, axis_type):
  check(MAKERS[name](), axis_type)


def test_muon_on_an_auto_mesh_equals_one_device():
  check(muon(), AxisType.Auto)


@pytest.mark.parametrize('axis_type', AXES, ids=['auto', 'explicit'])
def test_every_device_holds_the_same_decision(axis_type):
  mesh = make_mesh(axis_type)
  with jax.set_mesh(mesh):
    _, _, state = train(gapt(None), mesh)
  shards = optim.phase(state).addressable_shards
  assert len(shards) == 8
  assert len({int(s.data) for s in shards}) == 1


@pytest.mark.parametrize('axis_type', AXES, ids=['auto', 'explicit'])
def test_two_gradients_on_a_mesh_equal_one_device(axis_type):
  def losses(params):
    hidden = jnp.tanh(params['w'].T @ params['stack'][0])
    return jnp.sum(jnp.square(hidden)), jnp.sum(hidden**4)

  want = optim.value_and_grads(losses, trees()[0])
  mesh = make_mesh(axis_type)
  with jax.set_mesh(mesh):
    specs = {'w': P(), 'stack': P(None, None, 'model'), 'b': P()}
    params = {
        k: jax.device_put(x, NamedSharding(mesh, specs[k]))
        for k, x in trees()[0].items()
    }
    got = jax.jit(lambda p: optim.value_and_grads(losses, p))(params)
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
      got,
      want,
  )
  for gradient in got[1]:
    assert jax.typeof(gradient['stack']) == jax.typeof(params['stack'])
