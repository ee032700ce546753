"""Hidden states of linen and nnx models that know nothing of the capture."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iblm_jax import information
from iblm_jax.models import capture

X = jax.random.normal(jax.random.key(5), (2, 8, 3))


class LinenBlock(nn.Module):
  @nn.compact
  def __call__(self, x, _=None):
    return x + nn.tanh(nn.Dense(3)(x)), {'cache': x}


class LinenModel(nn.Module):
  """Eleven blocks, one that is called twice, and three that are scanned."""

  @nn.compact
  def __call__(self, x):
    for i in range(11):
      x, _ = LinenBlock(name=f'block_{i}')(x)
    shared = LinenBlock(name='shared')
    x = shared(shared(x)[0])[0]
    scan = nn.scan(
        LinenBlock,
        variable_axes={'params': 0, 'intermediates': 0},
        split_rngs={'params': True},
        length=3,
    )
    return scan(name='scanned')(x, None)[0]


def by_hand(params, x):
  """The hidden states of LinenModel, block by block."""
  hidden = {}

  def block(p, x):
    bias = jnp.broadcast_to(p['Dense_0']['bias'], x.shape)
    return x + jnp.tanh(x @ p['Dense_0']['kernel'] + bias)

  for i in range(11):
    hidden[f'block_{i}'] = x = block(params[f'block_{i}'], x)
  hidden['shared'] = x = block(params['shared'], x)
  hidden['shared#2'] = x = block(params['shared'], x)
  states = []
  for i in range(3):
    one = jax.tree.map(lambda p, i=i: p[i], params['scanned'])
    states.append(x := block(one, x))
  return {**hidden, 'scanned': jnp.stack(states)}


def test_linen_captures_each_call_in_order():
  model = LinenModel()
  variables = model.init(jax.random.key(0), X)
  outputs, hidden = capture.linen(model, variables, X, layers=LinenBlock)
  want = by_hand(variables['params'], X)
  assert list(hidden) == list(want)
  for name, x in want.items():
    np.testing.assert_allclose(hidden[name], x, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(outputs, model.apply(variables, X))


class NnxBlock(nnx.Module):
  def __init__(self, rngs):
    self.dense = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x):
    return x + nnx.tanh(self.dense(x)), {'cache': x}


class NnxModel(nnx.Module):
  def __init__(self, rngs):
    self.blocks = nnx.List([NnxBlock(rngs) for _ in range(11)])
    self.shared = NnxBlock(rngs)

  def __call__(self, x):
    for block in self.blocks:
      x, _ = block(x)
    return self.shared(self.shared(x)[0])[0]


def test_nnx_captures_each_call_and_leaves_the_model_alone():
  model = NnxModel(nnx.Rngs(0))
  before = nnx.graphdef(model)
  want, x = {}, X
  for i, block in enumerate(model.blocks):
    want[f'blocks/{i}'] = x = block(x)[0]
  want['shared'] = x = model.shared(x)[0]
  want['shared#2'] = x = model.shared(x)[0]
  outputs, hidden = capture.nnx(model, X, layers=NnxBlock)
  assert list(hidden) == list(want)
  for name, x in want.items():
    np.testing.assert_allclose(hidden[name], x, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(outputs, model(X))
  assert nnx.graphdef(model) == before
  # A second capture finds no rest of the first.
  assert list(capture.nnx(model, X, layers=NnxBlock)[1]) == list(want)


def test_several_classes():
  model = NnxModel(nnx.Rngs(0))
  _, hidden = capture.nnx(model, X, layers=(NnxBlock, nnx.Linear))
  assert {'blocks/0', 'blocks/0/dense', 'shared/dense#2'} <= set(hidden)
  assert len(hidden) == 2 * 13


def entropy(hidden):
  return sum(
      information.patch_entropy(x, patch_size=4) for x in hidden.values()
  )


def test_the_entropy_of_captured_states_has_a_gradient():
  model = LinenModel()
  variables = model.init(jax.random.key(0), X)

  @jax.jit
  def linen_gradient(params):
    def total(params):
      _, hidden = capture.linen(model, {'params': params}, X, layers=LinenBlock)
      del hidden['scanned']  # [layers, B, L, D]
      return entropy(hidden)

    return jax.grad(total)(params)

  def total(params):
    hidden = by_hand(params, X)
    del hidden['scanned']
    return entropy(hidden)

  got = linen_gradient(variables['params'])
  want = jax.grad(total)(variables['params'])
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
      got,
      want,
  )
  assert float(jnp.abs(got['block_3']['Dense_0']['kernel']).max()) > 1e-3

  model = NnxModel(nnx.Rngs(0))
  gradient = nnx.jit(
      nnx.grad(lambda m: entropy(capture.nnx(m, X, layers=NnxBlock)[1]))
  )(model)
  assert float(jnp.abs(gradient.blocks[3].dense.kernel[...]).max()) > 1e-3


def test_layers_that_are_not_called_raise():
  model = LinenModel()
  variables = model.init(jax.random.key(0), X)
  with pytest.raises(ValueError, match='layers must be.*got.*Conv.*none was'):
    capture.linen(model, variables, X, layers=nn.Conv)
  with pytest.raises(ValueError, match='layers must be.*got.*Conv.*none was'):
    capture.nnx(NnxModel(nnx.Rngs(0)), X, layers=nnx.Conv)
