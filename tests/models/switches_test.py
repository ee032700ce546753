"""Switches that models of other makers need, against float64 NumPy."""

import dataclasses

import jax
import numpy as np
import numpy_decoder
import pytest

from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, flops
from iblm_jax.models.generation import kv_cache

BASE = model_config.DecoderConfig(
    vocab_size=11, num_layers=2, width=16, num_heads=4, mlp_width=24,
    document_mask=False, norm_epsilon=1e-2,
)
LINEAR = model_config.RotaryScaling('linear', factor=4.0)
LLAMA3 = model_config.RotaryScaling(
    'llama3', factor=8.0, low=1.0, high=4.0, original_length=16
)
SWITCHES = {
    'kv_heads': dict(num_kv_heads=2),
    'one_kv_head': dict(num_kv_heads=1, window=3, value_residual=True),
    'head_dim': dict(head_dim=6, num_kv_heads=2, num_heads=6),
    'qkv_biases': dict(qkv_biases=True),
    'no_qkv_biases': dict(biases=True, qkv_biases=False, norm='layer'),
    'out_and_mlp_biases': dict(out_biases=True, mlp_biases=True),
    'rotary_share': dict(rotary_share=0.5),
    'linear': dict(rotary_scaling=LINEAR),
    'llama3': dict(rotary_scaling=LLAMA3, head_dim=8),
    'parallel': dict(parallel_residual=True, norm='layer', biases=True),
    'gelu_exact': dict(activation='gelu_exact'),
    'geglu': dict(activation='geglu'),
    'qk_norm_scale': dict(qk_norm=True, qk_norm_scale=True, num_kv_heads=2),
    'norm_plus_one': dict(
        norm_plus_one=True, qk_norm=True, qk_norm_scale=True,
    ),
    'output_norms': dict(output_norms=True, norm='layer', biases=True),
    'embedding_scale': dict(embedding_scale=4.0, tie_embeddings=True),
    'attention_width': dict(attention_width=9.0),
    'attention_softcap': dict(attention_softcap=0.5, num_kv_heads=2, window=4),
    'full_every': dict(full_every=2, window=3, num_layers=3),
    'window_rotary_base': dict(
        full_every=3, window=5, num_layers=4, window_rotary_base=50.0,
        rotary_scaling=LINEAR, attention_softcap=2.0, attention_width=2.0,
    ),
}


def made(switches):
  """A config and parameters of which none is zero or one."""
  cfg = dataclasses.replace(BASE, **switches)
  leaves, tree = jax.tree.flatten(decoder.init(jax.random.key(0), cfg))
  rng = np.random.default_rng(0)
  noisy = [a + 0.3 * rng.normal(size=a.shape).astype(a.dtype) for a in leaves]
  return cfg, jax.tree.unflatten(tree, noisy)


@pytest.mark.parametrize('name', SWITCHES)
def test_a_switch_computes_its_definition(name):
  cfg, params = made(SWITCHES[name])
  tokens = np.random.default_rng(1).integers(11, size=(1, 9))
  exact = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  logits, streams = numpy_decoder.forward(exact, tokens[0], cfg)
  for path in ('blocked', 'xla'):
    cfg = dataclasses.replace(cfg, attention=path)
    found = jax.jit(decoder.apply, static_argnames=('cfg', 'collect'))(
        params, tokens, cfg, collect='hidden'
    )
    np.testing.assert_allclose(found.logits_BxLxV[0], logits, atol=5e-5)
    np.testing.assert_allclose(found.hidden[:, 0], streams, atol=5e-5)
  plain = dataclasses.replace(BASE, norm_epsilon=cfg.norm_epsilon)
  if jax.tree.map(np.shape, params) == jax.tree.map(
      np.shape, decoder.init(jax.random.key(0), plain)
  ):  # a switch that does nothing would pass
    other = numpy_decoder.forward(exact, tokens[0], plain)[0]
    assert np.abs(other - logits).max() > 5e-4


@pytest.mark.parametrize(
    'name', ['one_kv_head', 'head_dim', 'rotary_share', 'parallel', 'llama3']
)
def test_a_cache_gives_what_a_whole_row_gives(name):
  cfg, params = made(SWITCHES[name])
  tokens = np.random.default_rng(1).integers(11, size=(2, 7))

  @jax.jit
  def both(params, tokens):
    whole = decoder.apply(params, tokens, cfg).logits_BxLxV
    x = decoder.embed(params, tokens, cfg)
    first, cache = kv_cache.prefill(params, x[:, :4], cfg, size=8)
    second, cache = kv_cache.extend(params, x[:, 4:6], cache, cfg)
    third, _ = kv_cache.extend(params, x[:, 6:], cache, cfg)
    parts = [decoder.head(params, y, cfg) for y in (first, second, third)]
    return whole, jax.numpy.concatenate(parts, axis=1), cache

  whole, parts, cache = both(params, tokens)
  np.testing.assert_allclose(parts, whole, atol=2e-5)
  shape = (2, cfg.num_kv_heads or 4, 8, cfg.head_width)
  assert cache.k_BxHxSxK[0].shape == shape
  # Later tokens change nothing of earlier ones.
  changed = tokens.copy()
  changed[:, 5:] = (changed[:, 5:] + 1) % 11
  later = both(params, changed)[0]
  np.testing.assert_array_equal(later[:, :5], whole[:, :5])
  assert np.abs(later[:, 5:] - whole[:, 5:]).max() > 1e-3


def test_flops_count_the_products_of_few_kv_heads():
  cfg = dataclasses.replace(BASE, num_kv_heads=1, head_dim=8)
  # Queries and outputs 16 x 32, keys and values 16 x 8, MLP 16 x 24.
  matrices = 2 * 2 * (2 * 16 * 32 + 2 * 16 * 8 + 2 * 16 * 24)
  attended = 2 * 2 * 2 * 32 * (1 + 2 + 3) / 3
  assert flops.blocks_flops_per_token(cfg, 3) == matrices + attended
  # One key a query in the first layer, all before it in the second.
  cfg = dataclasses.replace(cfg, window=1, full_every=2)
  attended = 2 * 2 * 32 * (3 / 3 + (1 + 2 + 3) / 3)
  assert flops.blocks_flops_per_token(cfg, 3) == matrices + attended


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(num_kv_heads=3), 'num_heads must be a multiple of num_kv_heads'),
        (dict(rotary_share=0.2), 'even head width, got 0'),
        (dict(rotary_share=1.5), 'rotary_share must be'),
        (dict(qk_norm_scale=True), 'qk_norm_scale needs qk_norm=True'),
        (dict(head_dim=5), 'even head width, got 5'),
        (dict(full_every=2), 'full_every=2 needs window, got None'),
        (dict(window_rotary_base=9.0, window=2), 'needs full_every, got None'),
        (dict(attention_softcap=0.0), 'attention_softcap must be > 0 or None'),
    ],
)
def test_bad_switches_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(BASE, **change)
  with pytest.raises(ValueError, match='low must be below high'):
    model_config.RotaryScaling('llama3', low=4.0)
