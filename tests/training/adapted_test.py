"""Gradients of adapters that are made without that of their matrix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.models import config, decoder
from iblm_jax.sublora import lora
from iblm_jax.training import program

CFG = config.llama(
    19, num_layers=2, width=16, num_heads=4, num_kv_heads=2, mlp_width=24
)
ALL = lora.LoraConfig(('blocks/.*kernel$', '^head/kernel$'), rank=2)
TOKENS = jax.random.randint(jax.random.key(0), (3, 8), 0, 19)


def setup(cfg):
  keys = jax.random.split(jax.random.key(1), 3)
  params = decoder.init(keys[0], cfg)
  adapters = lora.lora_init(params, ALL, keys[1])
  leaves, treedef = jax.tree.flatten(adapters)
  noise = jax.random.split(keys[2], len(leaves))
  return params, treedef.unflatten(
      0.1 * jax.random.normal(key, leaf.shape)
      for key, leaf in zip(noise, leaves, strict=True)
  )


def loss(adapters, params, cfg, keep):
  effective = lora.lora_apply(params, adapters, ALL, keep=keep)
  logits = decoder.apply(effective, TOKENS, cfg).logits_BxLxV
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[..., 0])


@pytest.mark.parametrize('changes', [
    {},
    dict(scan_layers=False, biases=True, activation='gelu'),
    dict(remat='full'),
    dict(dtype='bfloat16'),
])
def test_value_and_gradient_are_those_of_the_matrix(changes):
  cfg = dataclasses.replace(CFG, **changes)
  params, adapters = setup(cfg)
  step = jax.jit(jax.value_and_grad(loss), static_argnums=(2, 3))
  plain, wanted = step(adapters, params, cfg, None)
  value, found = step(adapters, params, cfg, program.kept)
  assert value == plain
  rtol = 0.05 if cfg.dtype == 'bfloat16' else 1e-5
  for f, w in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    largest = np.abs(w).max()
    assert largest > 1e-4
    np.testing.assert_allclose(f, w, rtol=0, atol=rtol * largest)


def test_nothing_is_computed_for_the_matrices():
  cfg = dataclasses.replace(
      CFG, num_layers=1, scan_layers=False, width=64, mlp_width=256
  )
  params, adapters = setup(cfg)

  def count(keep):
    lowered = jax.jit(jax.grad(loss), static_argnums=(2, 3)).lower(
        adapters, params, cfg, keep
    )
    return lowered.compile().cost_analysis()['flops']

  blocks = sum(leaf.size for leaf in jax.tree.leaves(params['blocks']))
  # A product with each number, for every token; the adapters cost little.
  saved = count(None) - count(program.kept)
  assert 0.9 < saved / (2 * blocks * TOKENS.size) < 1.2
