import dataclasses

import jax
import numpy as np
import numpy_mixer
import pytest
import tiny_models
from jaxprs import dot_flops

from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, families, flops, mixer
from iblm_jax.models.generation import decoding

LENGTH = 6
VARIANTS = {
    'flat': tiny_models.mixer(LENGTH),
    'heads': tiny_models.mixer(LENGTH, num_heads=2, kernel=3),
    'expansion': tiny_models.mixer(LENGTH, expansion=2),
}
_compiled_apply = jax.jit(mixer.apply, static_argnames=('cfg', 'collect'))


def apply(params, tokens, cfg, **kwargs):
  outputs = _compiled_apply(params, tokens, cfg, collect='hidden', **kwargs)
  return np.asarray(outputs.logits_BxLxV), np.asarray(outputs.hidden)


@pytest.mark.parametrize('name', list(VARIANTS))
def test_equals_plain_numpy(name):
  cfg = VARIANTS[name]
  params = tiny_models.random_params(cfg)
  exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
  tokens = tiny_models.random_tokens(2, LENGTH)
  logits, hidden = apply(params, tokens, cfg)
  for row in range(2):
    expected, streams = numpy_mixer.forward(exact, tokens[row], cfg)
    np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(hidden[:, row], streams, rtol=1e-4, atol=1e-4)


def test_no_token_sees_the_future():
  cfg = VARIANTS['heads']
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, LENGTH)
  before, _ = apply(params, tokens, cfg)
  for t in range(LENGTH):
    after, _ = apply(params, tiny_models.other(tokens, 0, t), cfg)
    np.testing.assert_array_equal(before[0, :t], after[0, :t])
    np.testing.assert_array_equal(before[1], after[1])
    assert (np.abs(before[0, t:] - after[0, t:]).max(axis=-1) > 1e-4).all()


def test_tokens_that_are_not_there_are_not_read():
  cfg = VARIANTS['heads']
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, LENGTH)
  mask = np.asarray([[True, False, True, True, False, True]] * 2)
  before, _ = apply(params, tokens, cfg, mask=mask)
  for t in (1, 4):
    changed = tiny_models.other(tokens, slice(None), t)
    after, _ = apply(params, changed, cfg, mask=mask)
    np.testing.assert_array_equal(before[mask], after[mask])


def test_parameters_by_hand():
  """Heads: H L^2 k + H L and 2 D^2 + 2 D; two norms; an MLP D -> F -> D."""
  d, f, t, v, n = 8, 12, LENGTH, tiny_models.VOCAB, 2
  outside_mixing = 4 * d + 2 * d * f + f + d
  ends = 2 * v * d + 2 * d
  mixing = {
      'flat': t * t + t,
      'heads': 2 * t * t * 3 + 2 * t + 2 * d * d + 2 * d,
      'expansion': 2 * 2 * t * t + 2 * t + t,
  }
  for name, cfg in VARIANTS.items():
    leaves = jax.tree.leaves(families.shapes(cfg))
    expected = n * (outside_mixing + mixing[name]) + ends
    assert sum(leaf.size for leaf in leaves) == expected


def test_flops_by_hand():
  """A mixer multiplies all weights; attention counts what causality leaves."""
  d, f, t, n, v = 8, 12, LENGTH, 2, tiny_models.VOCAB
  mlp = 2 * 2 * d * f
  by_hand = {
      'flat': n * (mlp + 2 * d * t),
      'heads': n * (mlp + 2 * d * t * 3 + 2 * 2 * d * d),
      'expansion': n * (mlp + 2 * 2 * d * t + 2 * 2 * d * t),
  }
  for name, cfg in VARIANTS.items():
    assert flops.blocks_flops_per_token(cfg, t) == by_hand[name]
    params = families.shapes(cfg)
    traced = dot_flops(
        lambda p, x, cfg=cfg: mixer.apply(p, x, cfg).logits_BxLxV,
        params,
        jax.ShapeDtypeStruct((1, t), 'int32'),
    )
    assert flops.forward_flops_per_token(cfg, t) * t == traced
    assert traced == t * (by_hand[name] + 2 * d * v)
  llama = tiny_models.transformer()
  keys = 1 + 2 + 3 + 4 + 5 + 6  # of t queries
  by_hand = n * (2 * 3 * d * f + 2 * 4 * d * d + 2 * 2 * d * keys / t)
  assert flops.blocks_flops_per_token(llama, t) == by_hand


def test_flops_of_the_decoder_are_what_they_were():
  gpt2 = model_config.gpt2('small')
  matrices = 12 * 12 * 768 * 768 + 768 * 50_257
  attention = 12 * 4 * 768 * (1 + 1024) / 2
  assert flops.forward_flops_per_token(gpt2, 1024) == 2 * matrices + attention
  modded = model_config.modded_gpt('small', window=256)
  matrices = 12 * 12 * 768 * 768 + 768 * 50_304
  keys = (sum(range(1, 257)) + 768 * 256) / 1024
  assert flops.forward_flops_per_token(modded, 1024) == (
      2 * matrices + 12 * 4 * 768 * keys
  )


def test_the_loop_over_blocks_changes_nothing():
  cfg = VARIANTS['heads']
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, LENGTH)
  unrolled = dataclasses.replace(cfg, scan_layers=False)
  for a, b in zip(
      apply(params, tokens, cfg), apply(params, tokens, unrolled), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_transformer_is_no_mixer():
  cfg = tiny_models.transformer()
  tokens = np.zeros([1, 2], np.int32)
  for call in (
      lambda: mixer.init(jax.random.key(0), cfg),
      lambda: mixer.apply({}, tokens, cfg),
      lambda: mixer.logical_axes(cfg),
  ):
    with pytest.raises(ValueError, match='mixer must be a MixerConfig.* None'):
      call()


def test_is_the_decoder_of_its_config():
  cfg = VARIANTS['heads']
  init = lambda module: str(
      jax.make_jaxpr(lambda key: module.init(key, cfg))(jax.random.key(0))
  )
  assert init(mixer) == init(decoder)
  assert mixer.logical_axes(cfg) == decoder.logical_axes(cfg)


def test_refuses():
  cfg = VARIANTS['flat']
  params = tiny_models.random_params(cfg)
  with pytest.raises(ValueError, match='7 tokens is longer than mixer.length'):
    mixer.apply(params, np.zeros([1, 7], np.int32), cfg)
  with pytest.raises(ValueError, match='a mixer has no keys and values'):
    cache = decoding.init_cache(cfg, batch_size=1, size=4)
    decoding.extend(params, np.zeros([1, 1], np.int32), cache, cfg)
