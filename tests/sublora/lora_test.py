"""Adapters against explicit products, alone and inside the decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import sublora
from iblm_jax.models import config, decoder, families

KEY = jax.random.key(137)
SMALL = dict(vocab_size=11, num_layers=2, width=16, num_heads=2, max_length=32)
CFG = config.DecoderConfig(**SMALL)
PATTERNS = (
    'attention/(query|value|out)/kernel$', 'mlp/up/kernel$', '^head/kernel$'
)
CONFIG = sublora.LoraConfig(patterns=PATTERNS, rank=3, alpha_scale=6.0)


def random_like(tree, seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32), tree
  )


def shapes_of(cfg):
  return families.shapes(cfg)


@functools.cache
def example():
  """Parameters of a decoder, its first adapters, and others."""
  params = random_like(shapes_of(CFG), 0)
  first = sublora.lora_init(params, CONFIG, KEY)
  return params, first, random_like(first, 1)


def test_a_plain_matrix():
  rng = np.random.default_rng(0)
  w, x = rng.normal(size=(5, 7)), rng.normal(size=(4, 5))
  a, b = rng.normal(size=(2, 5)), rng.normal(size=(7, 2))
  config = sublora.LoraConfig(patterns=('kernel',), rank=2, alpha_scale=5.0)
  params = sublora.lora_apply(
      {'kernel': jnp.asarray(w)},
      {'kernel': {'a': jnp.asarray(a), 'b': jnp.asarray(b)}},
      config,
  )
  np.testing.assert_allclose(
      x @ params['kernel'], x @ w + 2.5 * (x @ a.T @ b.T), rtol=1e-5, atol=1e-5
  )


def test_shapes_and_first_values():
  _, first, _ = example()
  attention = first['blocks']['attention']
  assert jax.tree.map(jnp.shape, first) == {
      'blocks': {
          'attention': {
              'query': {'kernel': {'a': (2, 3, 16), 'b': (2, 16, 3)}},
              'value': {'kernel': {'a': (2, 3, 16), 'b': (2, 16, 3)}},
              'out': {'kernel': {'a': (2, 3, 16), 'b': (2, 16, 3)}},
          },
          'mlp': {'up': {'kernel': {'a': (2, 3, 16), 'b': (2, 64, 3)}}},
      },
      'head': {'kernel': {'a': (3, 16), 'b': (11, 3)}},
  }
  a = np.concatenate([
      x['a'].ravel() for x in (
          attention['query']['kernel'], attention['value']['kernel'],
          attention['out']['kernel'], first['head']['kernel'],
      )
  ])
  # Kaiming-uniform with a = √5 is uniform in ±1/√in.
  assert len(np.unique(a)) > 300 and np.abs(a).max() <= 0.25
  np.testing.assert_allclose(a.std(), 0.25 / np.sqrt(3), rtol=0.1)
  assert abs(a.mean()) < 0.03
  assert not np.any(first['blocks']['mlp']['up']['kernel']['b'])


def explicit(params, lora):
  """Kernels [in, out] of all layers, with the two products written out."""
  make = jax.tree.map(np.array, params)
  nodes = [
      (make['blocks']['attention'][name], lora['blocks']['attention'][name])
      for name in ('query', 'value', 'out')
  ] + [(make['blocks']['mlp']['up'], lora['blocks']['mlp']['up'])]
  for node, adapter in nodes:
    for layer in range(2):
      a, b = (np.asarray(adapter['kernel'][n][layer]) for n in 'ab')
      w = node['kernel'][layer]
      for i in range(16):
        row = sum(b[:, r] * a[r, i] for r in range(3))
        if w.ndim == 2:
          w[i] += 2.0 * row
        elif w.shape == (16, 2, 8):  # query and value: D -> H, Dh
          w[i] += 2.0 * row.reshape(2, 8)
        else:  # output: H, Dh -> D
          w[i // 8, i % 8] += 2.0 * row
  a, b = (np.asarray(lora['head']['kernel'][n]) for n in 'ab')
  make['head']['kernel'] += 2.0 * (b @ a).T
  return make


def test_inside_the_decoder():
  params, first, lora = example()
  tokens = np.random.default_rng(2).integers(11, size=(2, 8)).astype(np.int32)

  @jax.jit
  def run(params, lora, plain, tokens):
    forward = lambda params: decoder.apply(params, tokens, CFG).logits_BxLxV

    def loss(lora, params):
      logits = forward(sublora.lora_apply(params, lora, CONFIG))
      return jnp.mean(logits * logits), logits

    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    return gradient(lora, params), forward(plain)

  ((g_lora, g_params), got), want = run(
      params, lora, explicit(params, lora), tokens
  )
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  # The gradient flows through the adapters only, and through all of them.
  assert not any(g.any() for g in jax.tree.leaves(g_params))
  assert all(np.abs(g).max() > 1e-6 for g in jax.tree.leaves(g_lora))
  # Adapters that are new change nothing.
  same = sublora.lora_apply(params, first, CONFIG)
  jax.tree.map(np.testing.assert_array_equal, same, params)


def test_the_papers_number_of_adapters():
  count = lambda cfg, rank: sum(
      x.size
      for x in jax.tree.leaves(
          jax.eval_shape(
              lambda key: sublora.lora_init(
                  shapes_of(cfg), sublora.LoraConfig(rank=rank), key
              ),
              KEY,
          )
      )
  )
  untied = dict(vocab_size=50_304, tie_embeddings=False)
  assert count(config.gpt2('small', **untied), 4) == 351_744
  assert count(config.gpt2('large', **untied), 4) == 943_616


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(patterns=()), 'patterns must name at least one'),
        (dict(patterns='kernel'), 'patterns must be a tuple of str'),
        (dict(patterns=('(',)), 'patterns must be regular expressions'),
        (dict(rank=0), 'rank must be an int >= 1, got 0'),
        (dict(rank=True), 'rank must be an int >= 1, got True'),
        (dict(alpha_scale=float('inf')), 'alpha_scale must be finite'),
        (dict(input_axes=(('kernel', 0),)), 'input_axes must be ints >= 1'),
    ],
)
def test_bad_options(options, said):
  with pytest.raises(ValueError, match=said):
    sublora.LoraConfig(**options)


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(patterns=('nothing',)), "'nothing' matches no.*blocks/attention"),
        (dict(patterns=('scale$',)), 'input_axes must say.*norm/scale'),
        (dict(patterns=('query',), input_axes=(('query', 3),)), 'none is left'),
    ],
)
def test_patterns_that_do_not_fit(options, said):
  with pytest.raises(ValueError, match=said):
    sublora.lora_init(shapes_of(CFG), sublora.LoraConfig(**options), KEY)


def test_a_tied_head_is_refused():
  tied = shapes_of(config.gpt2(**SMALL))
  with pytest.raises(ValueError, match='With tied embeddings the head has no'):
    sublora.lora_init(tied, sublora.LoraConfig(), KEY)


def test_other_adapters_are_refused():
  params, _, lora = example()
  with pytest.raises(ValueError, match='^lora must have the structure'):
    sublora.lora_apply(params, {'head': lora['head']}, CONFIG)
  config = sublora.LoraConfig(patterns=PATTERNS, rank=2)
  with pytest.raises(ValueError, match=r'kernel/a of shape \(2, 2, 16\), got'):
    sublora.lora_apply(params, lora, config)
