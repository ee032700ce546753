"""Four parameterisations, one interface."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import sublora

KEY = jax.random.key(137)
LORA = sublora.LoraConfig(patterns=('kernel$',), rank=2, alpha_scale=3.0)
CONFIGS = {
    'subspace': sublora.ParameterisationConfig(
        'subspace', dims=(3, 4), entries='sign', direct=('bias',)
    ),
    'sublora': sublora.ParameterisationConfig(
        'sublora', dims=12, entries='sign', lora=LORA
    ),
    'lora': sublora.ParameterisationConfig('lora', lora=LORA),
    'full': sublora.ParameterisationConfig('full'),
}
NUM_TRAINED = {
    'subspace': 12 + 5,
    'sublora': 12,
    'lora': 2 * 2 * (6 + 5) + 2 * (5 + 7),
    'full': 2 * 30 + 5 + 35,
}


@functools.cache
def params0():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
      'blocks': {'kernel': draw(2, 6, 5)}, 'bias': draw(5),
      'kernel': draw(5, 7).astype(jnp.bfloat16),
  }


@functools.cache
def made(kind):
  return sublora.make(CONFIGS[kind], params0(), KEY)


@functools.cache
def expanded(kind):
  """At zero and elsewhere, with the gradients, in one program."""
  it = made(kind)
  w = np.random.default_rng(1).normal(size=it.num_trained).astype(np.float32)

  @jax.jit
  def program(frozen, trained):
    def loss(trained, params):
      return sum(
          jnp.sum(leaf.astype(jnp.float32) ** 2)
          for leaf in jax.tree.leaves(
              it.expand(trained, dict(frozen, params=params))
          )
      )

    return (
        it.expand(it.initial, frozen),
        it.expand(trained, frozen),
        jax.grad(loss, argnums=(0, 1))(trained, frozen['params']),
    )

  return w, program(it.fixed, it.from_vector(jnp.asarray(w)))


@pytest.mark.parametrize('kind', CONFIGS)
def test_zero_is_the_initial_model_bit_for_bit(kind):
  _, (at_zero, elsewhere, _) = expanded(kind)
  same = lambda x, y: (
      x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
  )
  assert all(jax.tree.leaves(jax.tree.map(same, at_zero, params0())))
  assert not same(elsewhere['kernel'], params0()['kernel'])


@pytest.mark.parametrize('kind', CONFIGS)
def test_vectors_and_back(kind):
  it = made(kind)
  w, _ = expanded(kind)
  assert it.num_trained == NUM_TRAINED[kind] == len(w)
  assert not np.any(it.to_vector(it.initial))
  trained = it.from_vector(jnp.asarray(w))
  assert jax.tree.structure(trained) == jax.tree.structure(it.initial)
  np.testing.assert_array_equal(it.to_vector(trained), w)
  with pytest.raises(ValueError, match=r'^w must have shape'):
    it.from_vector(jnp.zeros(3))
  with pytest.raises(ValueError, match='^trained must be PyTreeDef'):
    it.to_vector({'other': trained})


@pytest.mark.parametrize('kind', CONFIGS)
def test_only_what_is_trained_has_a_gradient(kind):
  _, (_, _, (trained, frozen)) = expanded(kind)
  assert all(np.any(g) for g in jax.tree.leaves(trained))
  assert not any(np.any(g) for g in jax.tree.leaves(frozen))


def test_values():
  """Each kind from the parts it is made of."""
  theta = jax.tree.map(lambda x: np.asarray(x, np.float32), params0())

  def adapted(change):
    u = jax.tree.map(np.add, made('lora').fixed['lora'], change)
    full = lambda node: 1.5 * np.einsum('...ri,...or->...io', node['a'],
                                        node['b'])
    return {
        'blocks': {
            'kernel': theta['blocks']['kernel'] + full(u['blocks']['kernel'])
        },
        'bias': theta['bias'],
        'kernel': theta['kernel'] + full(u['kernel']),
    }

  def change(kind):
    w, _ = expanded(kind)
    it = made(kind)
    if 'projector' not in it.fixed:
      return it.from_vector(jnp.asarray(w))
    return it.fixed['projector'].apply(jnp.asarray(w))

  add = lambda kind: jax.tree.map(np.add, theta, change(kind))
  for kind, want in (
      ('full', add('full')),
      ('subspace', add('subspace')),
      ('lora', adapted(change('lora'))),
      ('sublora', adapted(change('sublora'))),
  ):
    _, (_, got, _) = expanded(kind)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x, np.float32), y, rtol=1e-2 if x.dtype != y.dtype
            else 1e-5, atol=1e-5,
        ),
        got,
        want,
    )


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(kind='other'), "kind must be one of .*got 'other'"),
        (dict(kind='subspace'), "dims must be given for kind='subspace'"),
        (dict(kind='full', dims=4), "dims must be None for kind='full', got 4"),
        (dict(kind='sublora', dims=4), 'lora must be given'),
        (dict(kind='full', lora=LORA), "lora must be None for kind='full'"),
    ],
)
def test_bad_options(options, said):
  with pytest.raises(ValueError, match=said):
    sublora.ParameterisationConfig(**options)
