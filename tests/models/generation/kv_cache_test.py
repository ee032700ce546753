import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, families
from iblm_jax.models.generation import decoding, kv_cache

SMALL = dict(vocab_size=11, num_layers=2, width=16, num_heads=2, max_length=32)
VARIANTS = {
    'learned positions': model_config.gpt2(**SMALL),
    'streams and skips': model_config.modded_gpt(
        'medium', **SMALL, dtype='float32'
    ),
    'windowed': model_config.DecoderConfig(
        **SMALL, window=3, scan_layers=False
    ),
}


def random_params(cfg):
  rng = np.random.default_rng(0)
  shapes = families.shapes(cfg)
  return jax.tree.map(
      lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
      shapes,
  )


def random_tokens(length):
  return jnp.asarray(np.random.default_rng(1).integers(11, size=(2, length)))


@pytest.mark.parametrize('name', VARIANTS)
def test_a_prompt_and_its_continuation_equal_the_whole(name):
  cfg = VARIANTS[name]
  tokens_BxT = random_tokens(9)

  @jax.jit
  def run(params):
    logits_BxV, cache = decoding.prefill(params, tokens_BxT[:, :5], cfg, 12)
    found = [logits_BxV]
    apart = kv_cache.layers_apart(params)
    for new, tree in ((1, params), (1, apart), (2, apart)):
      start = 4 + len(found) if new == 1 else 7
      logits_BxTxV, cache = decoding.extend(
          tree, tokens_BxT[:, start : start + new], cache, cfg
      )
      found.append(logits_BxTxV[:, -1])
    whole = decoder.apply(params, tokens_BxT, cfg).logits_BxLxV
    return jnp.stack(found, axis=1), whole, cache.length

  found, whole, length = run(random_params(cfg))
  np.testing.assert_allclose(
      found, whole[:, [4, 5, 6, 8]], rtol=1e-4, atol=1e-4
  )
  assert length == 9


def test_hidden_inputs_are_not_seen_and_places_are_as_told():
  """As if what is hidden were not there, in a prompt and in a cache."""
  cfg = model_config.DecoderConfig(**{**SMALL, 'num_layers': 2})
  tokens_BxT = random_tokens(8)
  visible = np.array([1, 0, 0, 1, 1, 0, 1, 1], bool)
  places = np.cumsum(visible) - 1

  @jax.jit
  def run(params):
    x_BxTxD = decoder.embed(params, tokens_BxT, cfg)
    told = dict(visible_T=visible[:5], positions_T=places[:5])
    _, cache = kv_cache.prefill(
        params, x_BxTxD[:, :5], cfg, 8, **jax.tree.map(jnp.asarray, told)
    )
    y_BxTxD, cache = kv_cache.extend(
        params,
        x_BxTxD[:, 5:],
        cache,
        cfg,
        visible_S=jnp.asarray(visible),
        positions_T=jnp.asarray(places[5:]),
    )
    seen = tokens_BxT[:, np.flatnonzero(visible)]
    return (
        decoder.head(params, y_BxTxD, cfg)[:, 1:],
        decoder.apply(params, seen, cfg).logits_BxLxV[:, -2:],
    )

  found, expected = run(random_params(cfg))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('scan_layers', [True, False])
def test_a_loop_over_tokens_does_not_copy_the_cache(scan_layers):
  cfg = model_config.DecoderConfig(
      8, num_layers=2, width=64, num_heads=2, scan_layers=scan_layers
  )
  size, steps = 512, 4
  cache = jax.eval_shape(lambda: decoding.init_cache(cfg, 4, size))
  params = families.shapes(cfg)

  def run(params, cache):
    apart = kv_cache.layers_apart(params)

    def step(carry, _):
      token_B, cache = carry
      logits, cache = decoding.extend(apart, token_B[:, None], cache, cfg)
      return (logits[:, -1].argmax(-1).astype(jnp.int32), cache), None

    zeros = jnp.zeros([4], jnp.int32)
    return jax.lax.scan(step, (zeros, cache), None, length=steps)[0]

  compiled = jax.jit(run, donate_argnums=1).lower(params, cache).compile()
  num_bytes = lambda tree: sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
  )
  # The blocks cut into layers, and less than the keys of one.
  room = num_bytes(params['blocks']) + num_bytes(cache) / 4
  assert compiled.memory_analysis().temp_size_in_bytes < room


def test_refuses():
  cfg = VARIANTS['windowed']
  with pytest.raises(ValueError, match='size must be at least 3 inputs, got 2'):
    kv_cache.prefill({}, jnp.zeros([1, 3, 16]), cfg, 2)
  mixer = model_config.mixer(11, 8, width=16, num_layers=1)
  with pytest.raises(ValueError, match='no keys and values'):
    decoding.init_cache(mixer, 1, 8)
  with pytest.raises(ValueError, match='no keys and values'):
    kv_cache.prefill({}, jnp.zeros([1, 3, 16]), mixer, 8)
  with pytest.raises(ValueError, match='no keys and values'):
    decoding.check_sampling(mixer, 1, 1, temperature=0.0, top_k=None)


def test_tokens_that_may_not_be_sampled():
  cfg = dataclasses.replace(VARIANTS['windowed'], num_layers=1)
  params = random_params(cfg)
  prompt_BxT = jnp.tile(random_tokens(3)[:1], (200, 1))
  allowed = np.arange(11) % 3 == 1

  @jax.jit
  def run(params):
    draw = lambda temperature, top_k: decoding.sample(
        params, prompt_BxT, cfg, jax.random.key(0), num_tokens=2,
        temperature=temperature, top_k=top_k, allowed_V=jnp.asarray(allowed),
    )
    logits_V = decoder.apply(params, prompt_BxT[:1], cfg).logits_BxLxV[0, -1]
    return draw(50.0, None), draw(50.0, 6), draw(0.0, None), logits_V

  drawn, top, greedy, logits_V = run(params)
  assert set(np.unique(drawn)) == set(np.unique(top)) == {1, 4, 7, 10}
  best = np.where(allowed, logits_V, -np.inf).argmax()
  assert (greedy[:, 0] == best).all() and best != np.argmax(logits_V)
