"""value_and_grads: two gradients from one forward pass."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iblm_jax import information, optim


def make(seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  params = {'in': draw(4, 6), 'out': draw(6)}
  return params, draw(2, 8, 4), draw(2, 8)


def losses(params, x_BxLxD, y_BxL):
  hidden_BxLxF = jnp.tanh(x_BxLxD @ params['in'])
  loss = jnp.mean(jnp.square(hidden_BxLxF @ params['out'] - y_BxL))
  return loss, information.patch_entropy(hidden_BxLxF, patch_size=4)


def scanned(params, x_BxLxD, y_BxL):
  @jax.checkpoint
  def layer(h_BxLxD, w_FxF):
    h_BxLxD = jnp.tanh(h_BxLxD @ w_FxF) + h_BxLxD
    return h_BxLxD, information.patch_entropy(h_BxLxD, patch_size=4)

  w_NxFxF = jnp.stack([params['in'] @ params['in'].T] * 3)
  h_BxLxD, entropy_N = jax.lax.scan(layer, x_BxLxD, w_NxFxF)
  return jnp.mean(jnp.square(h_BxLxD.sum(-1) - y_BxL)), jnp.mean(entropy_N)


@jax.custom_vjp
def _twice(x):
  return 2 * x


_twice.defvjp(lambda x: (2 * x, None), lambda _, g: (3 * g,))


def with_own_derivative(params, x_BxLxD, y_BxL):
  loss, entropy = losses(params, x_BxLxD, y_BxL)
  return _twice(loss), entropy


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('fun', [losses, scanned, with_own_derivative])
def test_equals_two_calls_of_grad(fun, jit):
  params, *data = make()
  wrap = jax.jit if jit else lambda f: f
  both = wrap(lambda *a: optim.value_and_grads(fun, *a))
  value, gradients = both(params, *data)
  for i in range(2):
    one = wrap(jax.value_and_grad(lambda *a, i=i: fun(*a)[i]))
    want, gradient = one(params, *data)
    np.testing.assert_allclose(value[i], want, rtol=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        gradients[i],
        gradient,
    )


def test_finite_differences_in_float64():
  with jax.enable_x64(True):
    params, x, y = make(dtype=np.float64)

    def smooth(params, x, y):
      hidden = jnp.tanh(x @ params['in'])
      error = hidden @ params['out'] - y
      return jnp.mean(jnp.square(error)), jnp.sum(hidden**4) / 7

    _, gradients = optim.value_and_grads(smooth, params, x, y)
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    for i, gradient in enumerate(gradients):
      got = jax.flatten_util.ravel_pytree(gradient)[0]
      assert got.dtype == np.float64
      for k in range(flat.size):
        at = lambda h, k=k, i=i: smooth(unflatten(flat.at[k].add(h)), x, y)[i]
        want = (at(1e-5) - at(-1e-5)) / 2e-5
        np.testing.assert_allclose(got[k], want, rtol=1e-6, atol=1e-9)


def test_the_forward_pass_is_traced_and_run_once():
  params, *data = make()
  traces, runs = [], []

  def counted(params, *data):
    traces.append(1)
    jax.debug.callback(lambda: runs.append(1))
    return losses(params, *data)

  step = jax.jit(lambda *a: optim.value_and_grads(counted, *a))
  for _ in range(3):
    jax.block_until_ready(step(params, *data))
  jax.effects_barrier()
  assert len(traces) == 1
  assert len(runs) == 3


def test_each_backward_pass_does_the_work_of_its_own_loss():
  # A head that is 50 times the rest: only the main gradient goes through it.
  params = {'w': jnp.ones((16, 16)), 'head': jnp.ones((16, 800))}
  x_NxD = jnp.ones((64, 16))

  def losses(params):
    hidden = jnp.tanh(x_NxD @ params['w'])
    return jnp.mean((hidden @ params['head']) ** 2), jnp.mean(hidden**4)

  flops = lambda f: jax.jit(f).lower(params).compile().cost_analysis()['flops']
  alone = flops(jax.value_and_grad(lambda p: losses(p)[0]))
  both = flops(lambda p: optim.value_and_grads(losses, p))
  assert both < 1.1 * alone


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_gradients_are_like_the_parameters(dtype):
  params, *data = make(dtype=dtype)
  _, gradients = optim.value_and_grads(losses, params, *data)
  for gradient in gradients:
    assert jax.tree.map(jax.typeof, gradient) == jax.tree.map(
        jax.typeof, params
    )


class Pair(NamedTuple):
  main: jax.Array
  aux: jax.Array


def test_has_aux_and_pairs_of_other_kinds():
  params, *data = make()
  plain = optim.value_and_grads(losses, params, *data)
  more = lambda *a: (losses(*a), {'x': a[1]})
  ((value, extra), gradients) = optim.value_and_grads(
      more, params, *data, has_aux=True
  )
  np.testing.assert_array_equal(extra['x'], data[0])
  for pair in (Pair, lambda *a: list(a)):
    other = lambda *a, pair=pair: pair(*losses(*a))
    got = optim.value_and_grads(other, params, *data)
    jax.tree.map(np.testing.assert_array_equal, got, plain)
  jax.tree.map(np.testing.assert_array_equal, (value, gradients), plain)


def test_vmap_over_seeds():
  many = [make(seed)[0] for seed in range(3)]
  _, *data = make()
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
  got = jax.vmap(lambda p: optim.value_and_grads(losses, p, *data))(stacked)
  for i, params in enumerate(many):
    jax.tree.map(
        lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-4,
                                                     atol=1e-6),
        got, optim.value_and_grads(losses, params, *data),
    )  # fmt: skip


@pytest.mark.parametrize(
    'fun',
    [
        lambda p: p[0],
        lambda p: (p[0],),
        lambda p: (p[0], p),
        lambda p: (p[0], jnp.int32(1)),
        lambda p: ((p[0], p[0]), p[0]),
        lambda p: {'main': p[0], 'aux': p[0]},
    ],
)
def test_anything_but_two_floating_scalars_raises(fun):
  with pytest.raises(ValueError, match='must return a pair of floating sc'):
    optim.value_and_grads(fun, jnp.ones(2))


def test_a_missing_has_aux_raises():
  with pytest.raises(ValueError, match='something else with has_aux=True, got'):
    optim.value_and_grads(lambda p: ((p[0], p[1]), p), jnp.ones(2))


def test_it_feeds_with_gapt():
  params, *data = make()
  tx = optim.with_gapt(optax.sgd(0.1), optim.GateConfig(patience_main=1))
  value, (grads, aux_grads) = optim.value_and_grads(losses, params, *data)
  updates, _ = tx.update(
      grads, tx.init(params), params,
      value=value[0], aux_value=value[1], aux_updates=aux_grads,
  )  # fmt: skip
  jax.tree.map(
      lambda u, g, h: np.testing.assert_allclose(u, -0.1 * (g + h), rtol=1e-5,
                                                 atol=1e-7),
      updates, grads, aux_grads,
  )  # fmt: skip
