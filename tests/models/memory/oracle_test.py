import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_models

from iblm_jax.models import decoder, families
from iblm_jax.models.memory import model as memory
from iblm_jax.models.memory import oracle as oracle_memory
from iblm_jax.models.nn import stack

TOTAL = 12
# The mode that sets vectors beside tokens needs narrow vectors.
VARIANTS = {
    'token': tiny_models.memory('oracle_token', compression=2),
    'add': tiny_models.memory('oracle_add', encoder=dict(width=12)),
    'embedding': tiny_models.memory('oracle_embedding', compression=4),
    'mixer': tiny_models.memory('oracle_token', 'mixer'),
}
_apply = jax.jit(memory.apply, static_argnames='cfg')
_decode = jax.jit(oracle_memory.decode, static_argnames='cfg')
_encode = jax.jit(decoder.encode, static_argnames='cfg')
_plain = jax.jit(decoder.apply, static_argnames='cfg')
ONES = np.ones([2, TOTAL], bool)


@pytest.fixture(params=list(VARIANTS))
def cfg(request):
  return VARIANTS[request.param]


def apply(params, tokens, cfg, mask=ONES):
  return np.asarray(_apply(params, tokens, cfg, mask=mask).logits_BxLxV)


def without(params, tokens, cfg, mask=ONES):
  """The memory taken away."""
  return np.asarray(_decode(params, tokens, None, cfg, mask))


@functools.partial(jax.jit, static_argnames='cfg')
def _read(tree, x, cfg):
  return decoder.head(tree, stack.run(tree, x, cfg)[0], cfg)


def by_hand(params, tokens, cfg):
  """The vector of the whole row, put where the kind says."""
  tree = params['decoder']
  table = tree['embed']['tokens']
  m = np.asarray(_encode(params['encoder'], tokens, cfg.encoder)[0])[:, -1]
  for name in ('down', 'up', 'bridge'):
    if name in params['passage']:
      way = params['passage'][name]
      m = m @ way['kernel'] + way.get('bias', 0)
  m = m / np.sqrt(np.mean(m * m, axis=-1, keepdims=True) + 1e-6)
  m = (m * np.sqrt(np.mean(table**2))).astype(np.float32)
  x = table[tokens]
  beside = np.repeat(m[:, None], TOTAL, axis=1)
  match cfg.kind:
    case 'oracle_token':
      x = np.concatenate([m[:, None], x], axis=1)
    case 'oracle_add':
      x = x + beside
    case 'oracle_embedding':
      x = np.concatenate([x, beside], axis=2)
  return np.asarray(_read(tree, x, cfg.decoder))[:, -TOTAL:]


def test_by_hand(cfg):
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  logits = apply(params, tokens, cfg)
  np.testing.assert_allclose(
      logits, by_hand(params, tokens, cfg), rtol=1e-4, atol=1e-4
  )
  assert cfg.passage.num_numbers == 8 // cfg.compression


def test_sees_the_future_through_the_vector_alone(cfg):
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  logits, blind = apply(params, tokens, cfg), without(params, tokens, cfg)
  assert (np.abs(logits - blind).max(axis=-1) > 1e-4).all()
  for t in (0, 5, TOTAL - 1):
    changed = tiny_models.other(tokens, 0, t)
    after = apply(params, changed, cfg)
    assert (np.abs(logits[0] - after[0]).max(axis=-1) > 1e-6).all()
    np.testing.assert_array_equal(logits[1], after[1])
    after = without(params, changed, cfg)
    np.testing.assert_array_equal(blind[0, :t], after[0, :t])
    assert (np.abs(blind[0, t:] - after[0, t:]).max(axis=-1) > 1e-6).all()


@pytest.mark.parametrize('name', ['token', 'add'])
def test_without_the_vector_it_is_a_decoder(name):
  """Rotary positions are relative: that of the vector is not missed."""
  cfg = VARIANTS[name]
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  plain = _plain(params['decoder'], tokens, cfg.decoder).logits_BxLxV
  np.testing.assert_allclose(
      without(params, tokens, cfg), plain, rtol=1e-5, atol=1e-5
  )


def test_padding_is_not_read(cfg):
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  mask = ONES.copy()
  mask[0, :3] = False
  mask[1, 7:] = False
  changed = tiny_models.other(tokens, ~mask)
  for run in (apply, without):
    before = run(params, tokens, cfg, mask)
    np.testing.assert_array_equal(
        before[mask], run(params, changed, cfg, mask)[mask]
    )
    assert np.isfinite(before).all()


def test_token_embeddings_leave_room_for_the_vector():
  mixing = tiny_models.memory('oracle_embedding', 'mixer', compression=4)
  tokens = tiny_models.random_tokens(2, TOTAL)
  logits = jax.eval_shape(
      lambda p: memory.apply(p, tokens, mixing).logits_BxLxV,
      families.shapes(mixing),
  )
  assert logits.shape == (2, TOTAL, tiny_models.VOCAB)
  cfg = VARIANTS['embedding']
  shapes = families.shapes(cfg)
  assert shapes['decoder']['embed']['tokens'].shape == (tiny_models.VOCAB, 6)
  assert shapes['passage']['bridge']['kernel'].shape == (8, 2)
  tied = dataclasses.replace(cfg.decoder, tie_embeddings=True)
  with pytest.raises(ValueError, match='tie_embeddings must be False'):
    dataclasses.replace(cfg, decoder=tied)
