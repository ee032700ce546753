import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from iblm_jax.information import entropy
from iblm_jax.models import decoder
from iblm_jax.models.memory import model as memory
from iblm_jax.models.nn import stack

CHUNKS, LENGTH = 3, 4
TOTAL = CHUNKS * LENGTH
VARIANTS = {
    'transformer': tiny_models.memory('recurrent', compression=2),
    'mixer': tiny_models.memory('recurrent', stack='mixer'),
}
_apply = jax.jit(memory.apply, static_argnames=('cfg', 'collect'))


def apply(params, tokens, cfg, mask=None):
  if mask is None:
    mask = np.ones(tokens.shape, bool)
  outputs = _apply(params, tokens, cfg, mask=mask, collect='hidden')
  return np.asarray(outputs.logits_BxLxV), np.asarray(outputs.hidden)


@functools.partial(jax.jit, static_argnames='cfg')
def _decode(tree, x, cfg):
  y, collected = stack.run(tree, x, cfg, collect='hidden')
  normed = decoder.final_norm(tree, y, cfg)
  return normed, decoder.head(tree, y, cfg), collected.hidden


def loop(params, tokens, cfg):
  """Chunk after chunk: [memory, tokens, write] to logits and a memory."""
  tree, rows = params['decoder'], len(tokens)
  table = tree['embed']['tokens']
  m = np.tile(params['slot'], (rows, 1))
  write = np.tile(params['write'], (rows, 1))
  logits, hidden = [], []
  for c in range(CHUNKS):
    chunk = tokens[:, c * LENGTH : (c + 1) * LENGTH]
    window = [m, *(table[chunk[:, j]] for j in range(LENGTH)), write]
    normed, found, streams = _decode(tree, np.stack(window, axis=1), cfg)
    m = np.asarray(normed)[:, -1]
    for name in ('down', 'up'):
      if name in params['passage']:
        m = m @ params['passage'][name]['kernel']
    m = m / np.sqrt(np.mean(m * m, axis=-1, keepdims=True) + 1e-6)
    m = (m * np.sqrt(np.mean(table**2))).astype(np.float32)
    logits.append(np.asarray(found)[:, :-1])  # what is written says nothing
    hidden.append(np.asarray(streams))
  before = np.concatenate([part[:, :-1] for part in logits], axis=1)
  before = np.concatenate([before[:, 1:], logits[-1][:, -1:]], axis=1)
  # Chunks of a row are rows, one after the other.
  hidden = np.stack(hidden, axis=2)
  return before, hidden.reshape(hidden.shape[0], -1, *hidden.shape[3:])


@pytest.mark.parametrize('name', list(VARIANTS))
def test_equals_a_loop(name):
  cfg = VARIANTS[name]
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  logits, hidden = loop(params, tokens, cfg.decoder)
  found, streams = apply(params, tokens, cfg)
  np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(streams, hidden, rtol=1e-4, atol=1e-4)


def test_later_chunks_see_earlier_ones_and_no_token_the_future():
  cfg = VARIANTS['transformer']
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  before, _ = apply(params, tokens, cfg)
  for t in range(TOTAL):
    after, _ = apply(params, tiny_models.other(tokens, 0, t), cfg)
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[0, :t], after[0, :t])
    moved = np.abs(before[0, t:] - after[0, t:]).max(axis=-1)
    assert (moved > 1e-6).all()


def test_a_chunk_of_padding_hands_the_memory_on():
  cfg = VARIANTS['transformer']
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  mask = np.ones([2, TOTAL], bool)
  mask[:, LENGTH : 2 * LENGTH] = False
  found, _ = apply(params, tokens, cfg, mask)
  # As if the last chunk came second.
  moved = np.concatenate([tokens[:, :LENGTH], tokens[:, -LENGTH:]], axis=1)
  padded = np.concatenate([moved, tokens[:, :LENGTH]], axis=1)
  expected, _ = apply(params, padded, cfg)
  np.testing.assert_allclose(
      found[:, 2 * LENGTH - 1 : -1],
      expected[:, LENGTH - 1 : 2 * LENGTH - 1],
      rtol=1e-5,
      atol=1e-5,
  )
  np.testing.assert_array_equal(
      found[mask],
      apply(params, tiny_models.other(tokens, ~mask), cfg, mask)[0][mask],
  )


def test_entropy_is_that_of_all_windows_with_something_in_them():
  """Not a mean over chunks, some of which are padding."""
  part = entropy.EntropyConfig(patch_size=3)
  cfg = tiny_models.memory('recurrent')
  cfg = dataclasses.replace(
      cfg, decoder=dataclasses.replace(cfg.decoder, entropy=part)
  )
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  mask = np.ones(tokens.shape, bool)
  mask[0, 3:], mask[1, 9:] = False, False
  hidden = apply(params, tokens, cfg, mask)[1]
  ends = ((0, 0), (1, 1))
  present = np.pad(mask.reshape(-1, LENGTH), ends, constant_values=True)
  found = _apply(params, tokens, cfg, mask=mask, collect='entropy').entropy
  expected = [
      entropy.patch_entropy(x, patch_size=3, mask=jnp.asarray(present))
      for x in hidden
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  # A batch that has nothing to measure says 0.
  nothing = _apply(
      params, tokens, cfg, mask=np.zeros_like(mask), collect='entropy'
  )
  np.testing.assert_array_equal(nothing.entropy, np.zeros(len(expected)))


def test_gradients_pass_through_all_chunks():
  """Of the last chunk's loss; in a row of padding there are none, nor nans."""
  cfg = VARIANTS['transformer']
  params = tiny_models.random_params(cfg)
  tokens = np.full([2, TOTAL], 1, np.int32)
  tokens[0, 0] = 5  # seen nowhere else
  mask = np.ones([2, TOTAL], bool)
  mask[1] = False

  @jax.jit
  def grad(params):
    def loss(params):
      logits = memory.apply(params, tokens, cfg, mask=mask).logits_BxLxV
      return jnp.sum(logits[0, -2] ** 2)

    return jax.grad(loss)(params)

  grads = grad(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  table = np.abs(np.asarray(grads['decoder']['embed']['tokens'])).max(axis=1)
  assert set(np.flatnonzero(table)) == {1, 5}
  assert np.abs(grads['write']).max() > 0
