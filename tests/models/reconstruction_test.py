import jax
import numpy as np
import pytest
import tiny_models

from iblm_jax.models import decoder, reconstruction
from iblm_jax.models.nn import layers


def make(length=5, width_in=8, **rest):
  stack = rest.pop('decoder', None) or tiny_models.transformer()
  return reconstruction.ReconstructionConfig(stack, length, width_in, **rest)


def positioned(**kwargs):
  return tiny_models.transformer(positions='learned', max_length=6, **kwargs)


@pytest.mark.parametrize('length, width', [(3, 8), (8, 8), (20, 8), (5, 7)])
def test_unroll_index_rolls_a_window(length, width):
  feature = np.arange(width)
  expected = [np.roll(feature, -t)[: width // 2] for t in range(length)]
  found = reconstruction.unroll_index(length, width)
  np.testing.assert_array_equal(found, expected)
  assert len({tuple(window) for window in found}) == min(length, width)


@pytest.mark.parametrize('injection', reconstruction.INJECTIONS)
def test_injection_by_hand(injection):
  cfg = make(
      injection=injection, width_in=6, compression=2, decoder=positioned()
  )
  params = tiny_models.random_params(
      jax.eval_shape(lambda: reconstruction.init(jax.random.key(0), cfg))
  )['inject']
  e = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
  x = jax.jit(lambda p, e: layers.call(reconstruction.Inject(cfg), p, e))(
      params, e
  )
  way = params['passage']
  e = e @ way['down']['kernel'] @ way['up']['kernel'] @ way['bridge']['kernel']
  for t in range(5):
    expected = e
    if injection == 'unroll':
      window = np.stack([e[:, (t + j) % 8] for j in range(4)], axis=1)
      unroll = params['unroll']
      expected = window @ unroll['kernel'] + unroll['bias']
    np.testing.assert_allclose(x[:, t], expected, rtol=1e-5, atol=1e-5)
  assert ('unroll' in params) == (injection == 'unroll')


@pytest.mark.parametrize('stack', ['transformer', 'mixer', 'positioned'])
def test_is_the_decoder_of_what_is_injected(stack):
  part = {
      'transformer': tiny_models.transformer,
      'mixer': lambda: tiny_models.mixer(5),
      'positioned': positioned,
  }[stack]()
  learned = stack == 'positioned'
  cfg = make(decoder=part, injection='repeat' if learned else 'unroll')
  params = tiny_models.random_params(
      jax.eval_shape(lambda: reconstruction.init(jax.random.key(0), cfg))
  )
  tables = params.get('embed', {})
  assert set(params) - {'embed'} == {'inject', 'blocks', 'head'}
  assert set(tables) == ({'positions'} if learned else set())
  e = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
  # Tokens 0 .. L - 1, whose embeddings are what is injected.
  inject = jax.jit(lambda p, e: layers.call(reconstruction.Inject(cfg), p, e))
  logits = jax.jit(lambda p, e: reconstruction.apply(p, e, cfg))(params, e)
  plain = jax.jit(lambda p, t: decoder.apply(p, t, part).logits_BxLxV)
  for row, x in enumerate(np.asarray(inject(params['inject'], e))):
    table = np.zeros([tiny_models.VOCAB, 8], np.float32)
    table[:5] = x
    tree = {**params, 'embed': {**tables, 'tokens': table}}
    expected = plain(tree, np.arange(5)[None])[0]
    np.testing.assert_allclose(logits[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(injection='tile'), "injection must be one of .* got 'tile'"),
        (dict(length=0), 'length must be at least 1, got 0'),
        (dict(compression=3), 'compression=3 and width=8'),
        (
            dict(decoder=tiny_models.transformer(tie_embeddings=True)),
            'decoder.tie_embeddings must be False',
        ),
        (
            dict(decoder=positioned(), length=7),
            'decoder.max_length must be at least 7, got 6',
        ),
        (
            dict(injection='repeat'),
            "injection must be 'unroll' for attention .* got 'repeat'",
        ),
        (
            dict(decoder=tiny_models.mixer(4)),
            'decoder.mixer.length must be at least 5, got 4',
        ),
    ],
)
def test_config_refuses(change, message):
  with pytest.raises(ValueError, match=message):
    make(**change)
