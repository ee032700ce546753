"""An optimizer that does not see frozen leaves, against one of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iblm_jax import optim
from iblm_jax.optim import freezing

RATE = optim.ScheduleConfig(peak=0.1, warmup_steps=0, total_steps=20)
Dims = optax.contrib.MuonDimensionNumbers
# Leaves of 7 entries are frozen, and of no other leaf's shape.
FROZEN = 7


def make_params(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return {
      'encoder': {'kernel': draw(FROZEN), 'bias': draw(FROZEN)},
      'decoder': {
          'kernel': draw(3, 4),
          'bias': draw(4),
          'norm': {'scale': draw(FROZEN)},
      },
      'head': draw(4, 5),
  }


def is_trained(params):
  return jax.tree.map(lambda leaf: leaf.shape != (FROZEN,), params)


def trained_part(tree):
  """The leaves that are trained, as a tree of another form."""
  return {
      'decoder': {k: tree['decoder'][k] for k in ('kernel', 'bias')},
      'head': tree['head'],
  }


def clipped_adamw():
  return optax.with_extra_args_support(
      optax.chain(
          optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0.3)
      )
  )


def gated(**changes):
  dims = lambda params: jax.tree.map(
      lambda leaf: Dims(0, 1) if leaf.ndim == 2 else None, params
  )
  labels = lambda params: jax.tree.map(
      lambda leaf: 'wide' if leaf.ndim == 2 else 'other', params
  )
  muon = changes.get('name') == 'muon'
  return optim.make_optimizer(
      optim.OptimizerConfig(schedule=RATE, **changes),
      optim.GateConfig(patience_main=2),
      group_labels=labels if 'group_peaks' in changes else None,
      muon_dimension_numbers=dims if muon else None,
  )


OPTIMIZERS = {
    'clipped_adamw': clipped_adamw,
    'groups': lambda: gated(weight_decay=0.3, group_peaks={'wide': 0.01}),
    'muon': lambda: gated(name='muon', momentum_warmup_steps=3),
}


def train(tx, params, gradients):
  @jax.jit
  def step(params, state, grads):
    updates, state = tx.update(
        grads, state, params, value=jnp.ones([]), aux_value=jnp.ones([])
    )
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for grads in gradients:
    params, state = step(params, state, grads)
  return params, state


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_it_is_the_optimizer_of_the_trained_leaves_alone(name):
  """Also where frozen leaves have gradients that would fill any norm."""
  params = make_params()
  # To the bit, down to the sign of zero.
  params['encoder']['bias'] = params['encoder']['bias'].at[0].set(-0.0)
  gradients = [make_params(seed) for seed in range(1, 6)]
  for grads in gradients:
    grads['encoder']['kernel'] *= 1e6
  tx = freezing.train_only(OPTIMIZERS[name](), is_trained)
  found, state = train(tx, params, gradients)
  expected, alone = train(
      OPTIMIZERS[name](),
      trained_part(params),
      list(map(trained_part, gradients)),
  )
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  jax.tree.map(close, trained_part(found), expected)
  assert np.abs(found['head'] - params['head']).max() > 0.01
  for group, leaf in (
      ('encoder', lambda p: p['encoder']['kernel']),
      ('encoder', lambda p: p['encoder']['bias']),
      ('decoder', lambda p: p['decoder']['norm']['scale']),
  ):
    same = np.asarray(leaf(params)).tobytes()
    assert np.asarray(leaf(found)).tobytes() == same, group
  # Nothing is kept of a frozen leaf.
  shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
  assert (FROZEN,) not in shapes(state)
  assert sorted(shapes(state)) == sorted(shapes(alone))


def test_updates_of_frozen_leaves_are_zeros():
  params = make_params()
  tx = freezing.train_only(optax.sgd(1.0), is_trained)
  updates, _ = tx.update(make_params(1), tx.init(params), params)
  assert jax.tree.structure(updates) == jax.tree.structure(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
    is_zero = not np.any(np.asarray(leaf))
    assert is_zero == (leaf.shape == (FROZEN,)), path
    assert leaf.dtype == jnp.float32


def test_parameters_may_be_left_out_and_all_or_nothing_may_be_frozen():
  params, grads = make_params(), make_params(1)
  for trains in (True, False):
    everywhere = lambda tree, trains=trains: jax.tree.map(
        lambda _: trains, tree
    )
    tx = freezing.train_only(optax.sgd(2.0), everywhere)
    updates, _ = tx.update(grads, tx.init(params))
    jax.tree.map(
        lambda u, g, trains=trains: np.testing.assert_array_equal(
            u, -2.0 * g * trains
        ),
        updates,
        grads,
    )


def test_extra_arguments_pass():
  seen = []

  def update(updates, state, params=None, **extra):
    seen.append((jax.tree.structure(params), extra))
    return updates, state

  spy = optax.GradientTransformationExtraArgs(
      lambda _: optax.EmptyState(), update
  )
  params = make_params()
  tx = freezing.train_only(spy, is_trained)
  extra = dict(value=jnp.float32(3.0), aux_value=None, note='any', tree=params)
  tx.update(make_params(1), tx.init(params), params, **extra)
  (structure, found), = seen
  assert found.keys() == extra.keys()
  assert all(found[name] is extra[name] for name in extra)
  assert structure.num_leaves == 3


def test_a_gate_inside_is_found_and_switches():
  tx = freezing.train_only(gated(), is_trained)
  params = make_params()
  state = tx.init(params)
  assert int(optim.phase(state)) == 1
  _, state = train(tx, params, [make_params(seed) for seed in range(1, 5)])
  assert int(optim.phase(state)) == 2
