import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from iblm_jax.models import decoder, families, flops
from iblm_jax.models.memory import layout as memories
from iblm_jax.models.memory import model as memory
from iblm_jax.models.nn import stack

CHUNKS, LENGTH = 3, 4
TOTAL = CHUNKS * LENGTH
FIXED = tiny_models.memory()
VARIANTS = {
    'fixed': FIXED,
    # Another width, and half the numbers.
    'learned': tiny_models.memory(
        empty='learned', encoder=dict(width=12), compression=2
    ),
    'variable': tiny_models.memory(layout='variable'),
    'recent': tiny_models.memory(
        layout='recent', decoder=dict(positions='learned', max_length=9)
    ),
    'mixer': tiny_models.memory(stack='mixer', decoder=dict(num_heads=2)),
    'mixer_learned': tiny_models.memory(stack='mixer', empty='learned'),
}
NONE = dataclasses.replace(FIXED, kind='none')

_apply = jax.jit(memory.apply, static_argnames=('cfg', 'collect'))
_encode_chunks = jax.jit(memories.encode_chunks, static_argnames='cfg')


def apply(params, tokens, cfg, mask=None):
  if mask is None:  # which is what None means, compiled once
    mask = np.ones(tokens.shape, bool)
  return np.asarray(_apply(params, tokens, cfg, mask=mask).logits_BxLxV)


def encode_chunks(params, tokens, cfg, mask=None):
  if mask is None:
    mask = np.ones(tokens.shape, bool)
  held = _encode_chunks(params, tokens, cfg, mask)
  return np.asarray(held.vector_BxMxD), np.asarray(held.there_BxM)


@pytest.fixture(params=list(VARIANTS))
def cfg(request):
  return VARIANTS[request.param]


_encode = jax.jit(decoder.encode, static_argnames='cfg')


@functools.partial(jax.jit, static_argnames='cfg')
def _decode(tree, x, places, mask, cfg):
  places = jnp.broadcast_to(places[None], x.shape[:2])
  y, _ = stack.run(tree, x, cfg, positions=places, mask=mask)
  return decoder.head(tree, y, cfg)


def loop_over_chunks(params, tokens, there, cfg):
  """Logits by a plain loop: each chunk with the slots it needs, no masks.

  Args:
    params: of the model.
    tokens: int [B, T], none of them padding but whole chunks.
    there: which chunks are not padding, the same for all rows.
    cfg: the model.
  """
  tree, rows = params['decoder'], len(tokens)
  table = tree['embed']['tokens']
  slot = np.tile(params['slot'], (rows, 1))
  held, logits = [], []
  for c in range(CHUNKS):
    chunk = tokens[:, c * LENGTH : (c + 1) * LENGTH]
    x = [table[chunk[:, j]] for j in range(LENGTH)]
    known = [j for j in range(c) if there[j]]
    mask = None
    if cfg.decoder.mixer is not None or cfg.empty == 'learned':
      # All slots: a mixer has weights for each.
      slots = [held[j] if j in known else slot for j in range(CHUNKS)]
      window, places = slots + x, range(CHUNKS + LENGTH)
      if cfg.empty == 'masked':
        seen = [j in known or j >= CHUNKS - 1 for j in places]
        mask = np.tile(seen, (rows, 1))
    else:
      window = [held[j] for j in known] + [slot] + x
      last = c if cfg.layout == 'variable' else CHUNKS - 1
      shift = CHUNKS - 1 - c if cfg.layout == 'recent' else 0
      places = [j + shift for j in known] + [*range(last, last + 1 + LENGTH)]
    if cfg.decoder.positions == 'learned':
      window = [
          x + tree['embed']['positions'][place]
          for x, place in zip(window, places, strict=True)
      ]
    found = _decode(
        tree, np.stack(window, axis=1), np.asarray(places), mask, cfg.decoder
    )
    logits.append(np.asarray(found)[:, -LENGTH - 1 :])
    if c < CHUNKS - 1:
      h = np.asarray(_encode(params['encoder'], chunk, cfg.encoder)[0])
      held.append(remembered(params['passage'], h[:, -1], table))
  # Of chunk c, place 0 is before its first token.
  before = np.concatenate([part[:, :-1] for part in logits], axis=1)
  return np.concatenate([before[:, 1:], logits[-1][:, -1:]], axis=1)


def remembered(passage, m, table):
  """Through the bottleneck, and as long as a token."""
  for name in ('down', 'up', 'bridge'):
    if name in passage:
      m = m @ passage[name]['kernel'] + passage[name].get('bias', 0)
  m = m / np.sqrt(np.mean(m * m, axis=-1, keepdims=True) + 1e-6)
  return (m * np.sqrt(np.mean(table**2))).astype(np.float32)


def test_equals_a_loop_over_chunks(cfg):
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  expected = loop_over_chunks(params, tokens, (True,) * CHUNKS, cfg)
  found = apply(params, tokens, cfg)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  # A chunk of padding leaves no memory; its own logits are nobody's.
  mask = np.ones([2, TOTAL], bool)
  mask[:, :LENGTH] = False
  expected = loop_over_chunks(params, tokens, (False, True, True), cfg)
  found = apply(params, tokens, cfg, mask)
  np.testing.assert_allclose(
      found[:, LENGTH - 1 :], expected[:, LENGTH - 1 :], rtol=1e-5, atol=1e-5
  )


def changes(before, after):
  """Positions whose logits differ at all, of the first row."""
  return set(np.flatnonzero((before[0] != after[0]).any(axis=-1)).tolist())


def test_what_sees_a_token(cfg):
  """Token t of chunk c: its chunk from t on, and what memories tell of it.

  The logits at c L - 1 are those of the slot before chunk c: they see past
  chunks and no token of chunk c.
  """
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  before = apply(params, tokens, cfg)
  for t in range(TOTAL):
    after = apply(params, tiny_models.other(tokens, 0, t), cfg)
    np.testing.assert_array_equal(before[1], after[1])
    # The state after the last token of a chunk is not asked for anything; the
    # slot's, in its place, sees the chunk through its memory.
    assert changes(before, after) == set(range(t, TOTAL))
    moved = np.abs(before[0, t:] - after[0, t:]).max(axis=-1)
    assert (moved > 1e-6).all()


def test_without_memories_chunks_are_strangers():
  params = tiny_models.random_params(NONE)
  tokens = tiny_models.random_tokens(2, TOTAL)
  before = apply(params, tokens, NONE)
  for t in range(TOTAL):
    after = apply(params, tiny_models.other(tokens, 0, t), NONE)
    end = (t // LENGTH + 1) * LENGTH - 1  # the slot of the next chunk
    expected = set(range(t, TOTAL if end == TOTAL - 1 else end))
    assert changes(before, after) == expected
  # What asks for the first token of a chunk knows nothing.
  np.testing.assert_allclose(
      before[0, LENGTH - 1], before[1, 2 * LENGTH - 1], rtol=1e-5, atol=1e-5
  )


def test_without_memories_chunks_are_rows_of_a_decoder():
  """[slot, tokens] alone: rotary positions are relative."""
  params = tiny_models.random_params(NONE)
  tokens = tiny_models.random_tokens(2, TOTAL)
  # The slot is one more token.
  tree = params['decoder']
  table = np.concatenate([tree['embed']['tokens'], params['slot'][None]])
  wide = dataclasses.replace(NONE.decoder, vocab_size=tiny_models.VOCAB + 1)
  kernel = np.pad(tree['head']['kernel'], ((0, 0), (0, 1)))
  rows = tokens.reshape(-1, LENGTH)
  rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=tiny_models.VOCAB)
  head = {**tree['head'], 'kernel': kernel}
  plain = jax.jit(lambda p, t: decoder.apply(p, t, wide).logits_BxLxV)(
      {**tree, 'embed': {'tokens': table}, 'head': head}, rows
  )
  plain = np.asarray(plain)[..., :-1].reshape(2, CHUNKS, 1 + LENGTH, -1)
  found = apply(params, tokens, NONE)
  expected = plain[:, :, :-1].reshape(2, TOTAL, -1)[:, 1:]
  np.testing.assert_allclose(found[:, :-1], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
      found[:, -1], plain[:, -1, -1], rtol=1e-5, atol=1e-5
  )


def test_chunks_are_encoded_on_their_own():
  params = tiny_models.random_params(FIXED)
  tokens = tiny_models.random_tokens(2, TOTAL)
  mask = np.ones([2, TOTAL], bool)
  mask[1, LENGTH : 2 * LENGTH] = False
  _, there = encode_chunks(params, tokens, FIXED, mask)
  np.testing.assert_array_equal(there, [[True] * 3, [True, False, True]])
  found, there = encode_chunks(params, tokens, FIXED)
  assert found.shape == (2, CHUNKS, 8) and there.all()
  order = [2, 0, 1]
  shuffled = tokens.reshape(2, CHUNKS, LENGTH)[:, order].reshape(2, TOTAL)
  other, _ = encode_chunks(params, shuffled, FIXED)
  np.testing.assert_allclose(other, found[:, order], rtol=1e-6, atol=1e-6)
  assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-2


@pytest.mark.parametrize('name', ['fixed', 'mixer'])
@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_is_not_read(name, side):
  """Of one row 5 tokens are there, in two chunks; of the other, all."""
  cfg = VARIANTS[name]
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  mask = np.ones([2, TOTAL], bool)
  gone = slice(5, None) if side == 'right' else slice(0, TOTAL - 5)
  mask[0, gone] = False
  padded = apply(params, tokens, cfg, mask)
  changed = apply(params, tiny_models.other(tokens, ~mask), cfg, mask)
  np.testing.assert_array_equal(padded[mask], changed[mask])
  assert np.isfinite(padded).all()
  bare = apply(params, tokens, cfg)
  np.testing.assert_allclose(padded[1], bare[1], rtol=1e-5, atol=1e-5)
  if side == 'right':  # nothing sees what follows
    np.testing.assert_allclose(padded[0, :5], bare[0, :5], rtol=1e-5, atol=1e-5)
  else:
    assert np.abs(padded[0, -1] - bare[0, -1]).max() > 1e-3


def test_gradients_of_padding_are_finite():
  cfg = FIXED
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  mask = np.zeros([2, TOTAL], bool)
  mask[0, LENGTH : 2 * LENGTH] = True

  @jax.jit
  def grad(params, tokens):
    def loss(params):
      logits = memory.apply(params, tokens, cfg, mask=mask).logits_BxLxV
      return jnp.sum(jnp.where(mask[..., None], logits, 0) ** 2)

    return jax.grad(loss)(params)

  grads = grad(params, tokens)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert np.abs(grads['slot']).max() > 0
  changed = grad(params, tiny_models.other(tokens, ~mask))
  jax.tree.map(np.testing.assert_array_equal, grads, changed)


def test_taking_memories_away_is_the_model_without_them():
  params = tiny_models.random_params(FIXED)
  tokens = tiny_models.random_tokens(2, TOTAL)
  decode = jax.jit(lambda p, t: memory.decode(p, t, None, FIXED).logits_BxLxV)
  found = np.asarray(decode(params, tokens))
  np.testing.assert_array_equal(found, apply(params, tokens, NONE))
  assert np.abs(found - apply(params, tokens, FIXED)).max() > 1e-2


@pytest.mark.parametrize('embedding_norm', [False, True])
def test_memories_are_as_long_as_tokens(embedding_norm):
  cfg = tiny_models.memory(decoder=dict(embedding_norm=embedding_norm))
  params = tiny_models.random_params(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  rms = lambda a: np.sqrt(np.mean(np.asarray(a, np.float64) ** 2, axis=-1))
  table = params['decoder']['embed']['tokens']
  expected = 1.0 if embedding_norm else rms(table.reshape(-1))
  vectors, _ = encode_chunks(params, tokens, cfg)
  np.testing.assert_allclose(rms(vectors), expected, rtol=1e-4)

  @jax.jit
  def init(key):  # the rest is not compiled
    made = memory.init(key, cfg)
    return made['slot'], made['decoder']['embed']['tokens']

  slot, table = init(jax.random.key(0))
  read = 1.0 if embedding_norm else rms(np.asarray(table).reshape(-1))
  assert 0.4 < rms(slot) / read < 2.0  # 8 normal numbers


def test_memories_do_not_pull_at_the_token_embeddings():
  cfg = FIXED
  params = tiny_models.random_params(cfg)
  m = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)

  def total(m, table):
    return jnp.sum(jnp.sin(memories.like_tokens(m, table, cfg.decoder)))

  table = params['decoder']['embed']['tokens']
  grad_m, grad_table = jax.jit(jax.grad(total, argnums=(0, 1)))(m, table)
  np.testing.assert_array_equal(grad_table, 0.0)
  assert np.abs(grad_m).min() > 0


def test_flops_by_hand():
  d, f, n, v = 8, 12, 2, tiny_models.VOCAB

  def blocks(positions):
    keys = sum(range(1, positions + 1))
    return n * (
        positions * (2 * 3 * d * f + 2 * 4 * d * d) + 2 * 2 * d * keys
    )

  encoded = (CHUNKS - 1) * blocks(LENGTH)
  decoded = CHUNKS * blocks(CHUNKS + LENGTH)
  head = TOTAL * 2 * d * v
  for kind, expected in {
      'parallel': encoded + decoded + head,
      'none': decoded + head,
      'recurrent': CHUNKS * blocks(2 + LENGTH) + head,
      'oracle_token': blocks(TOTAL) + blocks(TOTAL + 1) + head,
      'oracle_add': 2 * blocks(TOTAL) + head,
  }.items():
    cfg = tiny_models.memory(kind)
    found = flops.forward_flops_per_token(cfg, TOTAL)
    np.testing.assert_allclose(found * TOTAL, expected, rtol=1e-12)


@pytest.mark.parametrize('kind', ['parallel', 'none', 'recurrent'])
def test_apply_refuses(kind):
  cfg = tiny_models.memory(kind)
  params = families.shapes(cfg)
  tokens = tiny_models.random_tokens(2, TOTAL)
  run = lambda tokens, **kwargs: jax.eval_shape(
      lambda p: memory.apply(p, tokens, cfg, **kwargs), params
  )
  with pytest.raises(ValueError, match=r'shape \[B, 12\], got \(2, 11\)'):
    run(tokens[:, :-1])
  with pytest.raises(ValueError, match='mask must have the shape .* got'):
    run(tokens, mask=np.ones([2, TOTAL + 1], bool))
  with pytest.raises(ValueError, match="collect must be one of .* got 'all'"):
    run(tokens, collect='all')
