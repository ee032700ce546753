"""Where an auxiliary gradient must not be added: always an error."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.training import train_state

from iblm_jax import optim

GATE = optim.GateConfig(patience_main=1)
ADDING = {
    'with_gapt': lambda: optim.with_gapt(optax.sgd(1.0), GATE),
    'gapt': lambda: optim.gapt(GATE),
    'dual_ascent': lambda: optim.dual_ascent(optim.DualConfig(target=1.0)),
}
LABELS = {'w': 'x', 'b': 'y'}
# name: what it puts a transformation into, and the position that is refused
BEHIND = {
    'adam': (lambda tx: optax.chain(optax.adam(1e-3), tx), 1),
    'clip': (
        lambda tx: optax.chain(optax.clip(1.0), tx, optax.sgd(1)),
        1,
    ),
    'two': (
        lambda tx: optax.chain(optax.scale_by_adam(), optax.scale(-1.0), tx), 2
    ),
    'named': (
        lambda tx: optax.named_chain(('z', optax.adam(1e-3)), ('a', tx)), 1
    ),
    'nested': (
        lambda tx: optax.chain(optax.adam(1), optax.chain(tx, optax.scale(1))),
        1,
    ),
    'partition': (
        lambda tx: optax.chain(
            optax.adam(1e-3),
            optax.partition(
                {'x': tx, 'y': optax.sgd(1)}, LABELS,
                mask_compatible_extra_args=True,
            ),
        ),
        1,
    ),
    'inject': (
        lambda tx: optax.chain(
            optax.adam(1e-3), optax.inject_hyperparams(lambda rate: tx)(0.1)
        ),
        1,
    ),
}  # fmt: skip
ACCUMULATING = {
    'alone': lambda tx: optax.MultiSteps(tx, 4),
    'in_chain': lambda tx: optax.MultiSteps(optax.chain(tx, optax.sgd(1)), 4),
    'skipping': lambda tx: optax.MultiSteps(
        tx, 4, should_skip_update_fn=optax.skip_not_finite
    ),
    'deep': lambda tx: optax.apply_if_finite(
        optax.GradientTransformationExtraArgs(
            optax.MultiSteps(tx, 4).init, optax.MultiSteps(tx, 4).update
        ),
        3,
    ),
}


def update(tx, jit=True):
  params = {'w': jnp.ones(3), 'b': jnp.ones(())}

  def step(params, state, value):
    return tx.update(
        params, state, params, value=value, aux_value=value, aux_updates=params
    )

  step = jax.jit(step) if jit else step
  return step(params, tx.init(params), jnp.float32(1.0))


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('place', BEHIND)
@pytest.mark.parametrize('name', ADDING)
def test_behind_something_in_a_chain(name, place, jit):
  wrap, position = BEHIND[place]
  match = f'{name} must be first in optax.chain.*position {position}.*with_gapt'
  with pytest.raises(ValueError, match=match):
    update(wrap(ADDING[name]()), jit)


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('place', ACCUMULATING)
@pytest.mark.parametrize('name', ADDING)
def test_inside_multi_steps(name, place, jit):
  match = f'{name} must be outside optax.MultiSteps.*with_gapt.optax.MultiSteps'
  with pytest.raises(ValueError, match=match):
    update(ACCUMULATING[place](ADDING[name]()), jit)


@pytest.mark.parametrize('name', ADDING)
def test_multi_steps_that_gets_no_losses(name):
  # optax drops the arguments before MultiSteps sees them.
  with pytest.raises(ValueError, match=f'{name} needs value.*TrainState'):
    accumulate = optax.MultiSteps(ADDING[name](), 4)
    update(optax.chain(accumulate.gradient_transformation()))


@pytest.mark.parametrize('name', ADDING)
def test_first_in_chains_of_chains_is_right(name):
  tx = optax.chain(
      optax.chain(optax.named_chain(('a', ADDING[name]()))), optax.adam(1e-3)
  )
  for jit in (False, True):
    update(optax.chain(tx, optax.scale(0.5)), jit)


def test_observing_is_right_anywhere_in_a_chain():
  dual = optim.dual_weight(optim.DualConfig(target=1.0))
  _, state = update(optax.chain(optax.adam(1e-3), optim.phase_gate(GATE), dual))
  assert int(optim.phase(state)) == 2
  assert int(optim.dual_state(state).num_steps) == 1


def test_train_state_drops_the_losses_and_the_error_says_so():
  model = nn.Dense(1)
  params = model.init(jax.random.key(0), jnp.ones((1, 2)))['params']
  tx = optim.with_gapt(optax.adam(1e-3), GATE)
  state = train_state.TrainState.create(
      apply_fn=model.apply, params=params, tx=tx
  )
  losses = dict(value=1.0, aux_value=1.0, aux_updates=params)
  for given in ({}, losses):
    with pytest.raises(
        ValueError,
        match='with_gapt needs value, aux_value, aux_updates.*'
        'TrainState.apply_gradients of flax does not.*state.tx.update',
    ):
      state.apply_gradients(grads=params, **given)
