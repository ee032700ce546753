import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_mixer
import pytest
import tiny_models
from flax.core import meta

from iblm_jax.models import config as model_config
from iblm_jax.models.nn import layers, masked_mixing

LENGTH, WIDTH = 5, 6
VARIANTS = {
    'flat': dict(),
    'even_kernel': dict(kernel=2),
    'odd_kernel': dict(kernel=3),
    'heads': dict(num_heads=3),
    'heads_and_kernel': dict(num_heads=2, kernel=2),
    'expansion': dict(expansion=1),
    'expansion_and_kernel': dict(expansion=3, kernel=2),
}


def make(name, **overrides):
  cfg = tiny_models.mixer(LENGTH, width=WIDTH, **VARIANTS[name])
  return dataclasses.replace(cfg, **overrides)


def shapes(cfg):
  x = jax.ShapeDtypeStruct((1, LENGTH, WIDTH), jnp.float32)
  module = masked_mixing.MaskedMixing(cfg)
  boxed = jax.eval_shape(
      lambda x: module.init(jax.random.key(0), x, None), x
  )
  return meta.unbox(boxed['params'])


@pytest.fixture(params=list(VARIANTS))
def name(request):
  return request.param


def random_input(batch=2, length=LENGTH, seed=3):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(batch, length, WIDTH)).astype(np.float32)


def traced_run(cfg, params, x, present=None):
  return layers.call(masked_mixing.MaskedMixing(cfg), params, x, present)


_compiled_run = jax.jit(traced_run, static_argnums=0)


def run(*args):
  return np.asarray(_compiled_run(*args))


@pytest.mark.parametrize('kernel', [1, 2, 3, 4])
def test_mix_equals_plain_loops(kernel):
  rng = np.random.default_rng(kernel)
  weights = rng.normal(size=(4, LENGTH, kernel))
  bias, x = rng.normal(size=4), random_input()
  f32 = lambda a: a.astype(np.float32)
  y = np.asarray(jax.jit(masked_mixing.mix)(f32(weights), f32(bias), x))
  assert y.shape == (2, 4, WIDTH)
  for row in range(2):
    expected = numpy_mixer.convolve(
        weights, bias, x[row].astype(np.float64), lambda f, t: True
    )
    np.testing.assert_allclose(y[row], expected, rtol=1e-5, atol=1e-5)


def test_mixing_equals_plain_loops(name):
  cfg = make(name)
  params = tiny_models.random_params(shapes(cfg))
  exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
  x = random_input()
  for length in (LENGTH, 3):  # a shorter sequence takes the first positions
    y = run(cfg, params, x[:, :length])
    for row in range(2):
      expected = numpy_mixer.mixing(
          exact, x[row, :length].astype(np.float64), cfg.mixer
      )
      np.testing.assert_allclose(y[row], expected, rtol=1e-5, atol=1e-5)


def test_positions_see_the_past_alone(name):
  cfg = make(name)
  params = tiny_models.random_params(shapes(cfg))
  x = random_input()
  before = run(cfg, params, x)
  for t in range(LENGTH):
    changed = x.copy()
    changed[:, t] += 1
    after = run(cfg, params, changed)
    np.testing.assert_array_equal(before[:, :t], after[:, :t])
    assert (np.abs(before[:, t:] - after[:, t:]).max(axis=(0, 2)) > 1e-3).all()
  prefix = run(cfg, params, x[:, :3])
  np.testing.assert_allclose(before[:, :3], prefix, rtol=1e-6, atol=1e-6)


def test_only_weights_that_are_read_get_a_gradient(name):
  cfg = make(name)
  params = tiny_models.random_params(shapes(cfg))
  x = random_input()
  loss = lambda params: jnp.sum(jnp.sin(traced_run(cfg, params, x)))
  grads = jax.jit(jax.grad(loss))(params)
  e = cfg.mixer.expansion or 1
  past = np.tril(np.ones([LENGTH, LENGTH], bool))
  read = {'mix': np.repeat(past, e, axis=0), 'mix_out': np.repeat(past, e, 1)}
  found = {key: grads[key] for key in read if key in grads}
  assert set(found) == (set(read) if cfg.mixer.expansion else {'mix'})
  for key, grad in found.items():
    grad = np.asarray(grad).transpose(1, 2, 0, 3)  # to, from, head, neighbour
    assert (grad[~read[key]] == 0).all()
    assert (np.abs(grad[read[key]]) > 0).all()


@pytest.mark.parametrize('name', ['flat', 'heads', 'expansion_and_kernel'])
def test_positions_that_are_not_there_are_not_mixed_in(name):
  cfg = make(name)
  params = tiny_models.random_params(shapes(cfg))
  x = random_input()
  present = np.asarray([[False, True, True, False, True], [True] * 5])
  y = run(cfg, params, x, present)
  noise = np.where(present[..., None], x, np.float32(1e3))
  np.testing.assert_array_equal(y, run(cfg, params, noise, present))
  np.testing.assert_array_equal(y[1], run(cfg, params, x)[1])
  assert np.abs(y[0] - run(cfg, params, x)[0]).max() > 1e-2


def test_no_position_starts_louder():
  length, scale = 128, 1 / (2 * 2)  # 2 layers, as of any output map
  cfg = tiny_models.mixer(length, kernel=2)
  module = masked_mixing.MaskedMixing(cfg)
  x = np.zeros([1, 1, 8], np.float32)
  made = jax.jit(module.init)(jax.random.key(0), x, None)
  weights_LxLxK = np.asarray(meta.unbox(made)['params']['mix'][0])
  inputs = 2 * np.arange(1, length + 1)
  unit = weights_LxLxK * np.sqrt(inputs / scale)[:, None, None]
  past = np.tril(np.ones([length, length], bool))
  for rows in (slice(0, 32), slice(96, 128)):
    drawn = unit[rows][past[rows]]
    error = np.mean(drawn**2) - 1  # standard deviation sqrt(2 / n)
    assert abs(error) < 4 * np.sqrt(2 / drawn.size)


@pytest.mark.parametrize('name', ['heads', 'expansion'])
def test_zero_init_outputs_mix_nothing_at_first(name):
  cfg = make(name, zero_init_outputs=True)
  module = masked_mixing.MaskedMixing(cfg)
  x = random_input()
  made = jax.jit(module.init)(jax.random.key(0), x, None)
  y = run(cfg, meta.unbox(made)['params'], x)
  np.testing.assert_array_equal(y, 0.0)


def test_refuses_more_positions_than_weights():
  cfg = make('flat')
  params = tiny_models.random_params(shapes(cfg))
  with pytest.raises(ValueError, match='6 tokens is longer than mixer.length'):
    run(cfg, params, random_input(length=6))


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(length=0), 'length must be an integer >= 1, got 0'),
        (dict(num_heads=True), 'num_heads must be an integer >= 1, got True'),
        (dict(kernel=1.5), 'kernel must be an integer >= 1, got 1.5'),
        (dict(expansion=0), 'expansion must be an integer >= 1, got 0'),
        (
            dict(expansion=2, num_heads=2),
            'expansion is for one head, got num_heads=2 and expansion=2',
        ),
    ],
)
def test_mixer_config_refuses(change, message):
  with pytest.raises(ValueError, match=message):
    model_config.MixerConfig(**{'length': 4, **change})


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(positions='rotary'), "positions must be 'none' .* got 'rotary'"),
        (dict(document_mask=True), 'document_mask must be False .* got True'),
        (dict(window=3), 'window must be None with a mixer.* got 3'),
        (dict(value_residual=True), 'value_residual must be False .* got True'),
        (dict(qk_norm=True), 'qk_norm must be False with a mixer.* got True'),
        (dict(width=7, num_heads=2), 'width=7, mixer.num_heads=2'),
    ],
)
def test_a_mixer_has_no_attention_to_configure(change, message):
  with pytest.raises(ValueError, match=message):
    model_config.mixer(8, 4, **{'width': 8, **change})
