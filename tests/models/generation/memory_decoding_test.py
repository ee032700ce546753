import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.models import config as model_config
from iblm_jax.models.generation import memory_decoding
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import model as memory

CHUNKS, LENGTH, VOCAB = 3, 4, 11
ROW = CHUNKS * LENGTH


def stack(**kwargs):
  options = dict(num_layers=2, width=16, num_heads=2, tie_embeddings=True)
  return model_config.llama(VOCAB, **{**options, **kwargs})


def mixer():
  return model_config.mixer(
      VOCAB, CHUNKS + LENGTH, width=16, num_layers=2, tie_embeddings=True
  )


def model(encoder=None, decoder=None, **kwargs):
  return memory_config.MemoryConfig(
      encoder or stack(), decoder or stack(), CHUNKS, LENGTH, **kwargs
  )


MODELS = {
    'fixed': model(),
    'variable': model(layout='variable'),
    'recent': model(
        layout='recent', decoder=stack(positions='learned', max_length=64)
    ),
    'empty slots are seen': model(
        empty='learned', decoder=stack(scan_layers=False)
    ),
    'none': model(kind='none', layout='variable'),
    'none, empty slots are seen': model(kind='none', empty='learned'),
    'passage': model(
        encoder=stack(width=24), compression=3, position='penultimate'
    ),
    'streams and skips': model(
        decoder=model_config.modded_gpt(
            'medium', vocab_size=VOCAB, num_layers=2, width=16, num_heads=2,
            window=5, dtype='float32',
        )
    ),
    'mixer': model(encoder=mixer(), decoder=mixer()),
}


def random_params(cfg):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: memory.init(jax.random.key(0), cfg))
  return jax.tree.map(
      lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
      shapes,
  )


def random_tokens(batch=2):
  rng = np.random.default_rng(1)
  return jnp.asarray(rng.integers(VOCAB, size=(batch, ROW)), jnp.int32)


@functools.partial(jax.jit, static_argnames='cfg')
def whole(params, tokens_BxT, cfg):
  return memory.apply(params, tokens_BxT, cfg).logits_BxLxV


@functools.partial(jax.jit, static_argnames='cfg')
def token_by_token(params, tokens_BxT, cfg):
  def step(state, token_B):
    logits_BxV, state = memory_decoding.step(params, token_B, state, cfg)
    return state, logits_BxV

  state = memory_decoding.start(params, cfg, tokens_BxT.shape[0])
  state, logits_TxBxV = jax.lax.scan(step, state, tokens_BxT.T)
  return logits_TxBxV.swapaxes(0, 1), state


@functools.partial(jax.jit, static_argnames='cfg')
def read(params, tokens_BxT, cfg):
  return memory_decoding.read(params, tokens_BxT, cfg)


step = jax.jit(memory_decoding.step, static_argnames='cfg')


@pytest.mark.parametrize('name', MODELS)
def test_steps_give_the_logits_of_the_whole_row(name):
  cfg = MODELS[name]
  params, tokens_BxT = random_params(cfg), random_tokens()
  found, state = token_by_token(params, tokens_BxT, cfg)
  expected = whole(params, tokens_BxT, cfg)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  assert (state.chunk, state.count) == (CHUNKS - 1, LENGTH)
  assert (state.cache is None) == (name == 'mixer')
  # What is compared is no constant: every position has logits of its own.
  apart = np.abs(np.diff(expected, axis=1)).max(axis=(0, 2))
  assert apart.min() > 1e-2


@pytest.mark.parametrize(
    'name, length',
    [('variable', 1), ('variable', 4), ('variable', 7), ('variable', 11),
     ('variable', 12), ('mixer', 5), ('mixer', 8)],
)
def test_a_prompt_gives_the_logits_and_the_state_of_its_steps(name, length):
  cfg = MODELS[name]
  params, tokens_BxT = random_params(cfg), random_tokens()
  logits_BxV, state = read(params, tokens_BxT[:, :length], cfg)
  expected = whole(params, tokens_BxT, cfg)
  np.testing.assert_allclose(
      logits_BxV, expected[:, length - 1], rtol=1e-5, atol=1e-5
  )
  # The last chunk's window stays when it is full.
  chunk = min(length // LENGTH, CHUNKS - 1)
  assert (state.chunk, state.count) == (chunk, length - chunk * LENGTH)
  np.testing.assert_array_equal(
      state.tokens_BxL[:, : state.count],
      tokens_BxT[:, chunk * LENGTH : length],
  )
  if length == ROW:
    return
  after, _ = step(params, tokens_BxT[:, length], state, cfg)
  np.testing.assert_allclose(
      after, expected[:, length], rtol=1e-5, atol=1e-5
  )


def test_the_past_of_a_chunk_s_first_token_is_memories():
  """Tokens of the chunk before it count through its memory alone."""
  cfg = MODELS['fixed']
  params, tokens_BxT = random_params(cfg), random_tokens()
  _, state = read(params, tokens_BxT[:, :8], cfg)
  held = {name: leaf.shape for name, leaf in state._asdict().items()
          if name in ('memory_BxMxD', 'tokens_BxL')}
  assert held == {'memory_BxMxD': (2, 2, 16), 'tokens_BxL': (2, LENGTH)}
  assert all(
      k.shape == (2, 2, CHUNKS + LENGTH, 8) for k in state.cache.k_BxHxSxK
  )
  assert state.cache.length == CHUNKS  # slots: no token of the past


@pytest.mark.parametrize('name, encoded', [('fixed', 9), ('none', 0)])
def test_what_ends_a_chunk_is_done_at_its_end_alone(name, encoded):
  cfg = MODELS[name]
  params = jax.eval_shape(lambda: memory.init(jax.random.key(0), cfg))
  state = jax.eval_shape(lambda p: memory_decoding.start(p, cfg, 2), params)
  token_B = jax.ShapeDtypeStruct([2], jnp.int32)
  jaxpr = jax.make_jaxpr(memory_decoding.step, static_argnums=3)(
      params, token_B, state, cfg
  )
  (branches,) = (
      eqn.params['branches'] for eqn in jaxpr.eqns
      if eqn.primitive.name == 'cond'
  )
  products = lambda part: str(part).count('dot_general')
  # A layer has seven products and two of attention. The token's two layers
  # stand one after the other, those of a window and of an encoder in a loop.
  head = 1
  assert [products(b) for b in branches] == [2 * 9 + head, encoded + 9 + head]
  assert products(jaxpr) == sum(map(products, branches))


@pytest.mark.parametrize('name', ['fixed', 'none'])
def test_greedy_sampling_takes_the_arg_max_of_the_whole_row(name):
  cfg = MODELS[name]
  params = random_params(cfg)
  prompt_BxT = random_tokens()[:, :3]
  allowed = np.arange(VOCAB) != 5
  sampled = jax.jit(
      memory_decoding.sample,
      static_argnames=('cfg', 'num_tokens', 'temperature'),
  )(
      params, prompt_BxT, cfg, jax.random.key(0), num_tokens=9,
      temperature=0.0, allowed_V=jnp.asarray(allowed),
  )
  tokens = np.zeros([2, ROW], np.int32)
  tokens[:, :3] = prompt_BxT
  for t in range(3, ROW):
    logits_BxV = whole(params, jnp.asarray(tokens), cfg)[:, t - 1]
    tokens[:, t] = np.where(allowed, logits_BxV, -np.inf).argmax(-1)
  np.testing.assert_array_equal(sampled, tokens[:, 3:])


def check_sampling(cfg, **change):
  options = dict(prompt_length=3, num_tokens=1, temperature=1.0, top_k=None)
  memory_decoding.check_sampling(cfg, **{**options, **change})


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(num_tokens=10), r'3 x 4 tokens, .* got 13, prompt and'),
        (dict(prompt_length=0), 'at least one token'),
        (dict(temperature=-1.0), 'temperature must be finite and >= 0'),
        (dict(top_k=12), r'top_k must lie in \[1, 11\], got 12'),
    ],
)
def test_sampling_refuses(change, message):
  check_sampling(MODELS['fixed'], num_tokens=9)
  with pytest.raises(ValueError, match=message):
    check_sampling(MODELS['fixed'], **change)


@pytest.mark.parametrize(
    'kind, why',
    [
        ('recurrent', 'has no slots'),
        ('oracle_token', 'sees the future'),
        ('oracle_add', 'sees the future'),
    ],
)
def test_kinds_that_cannot_decode(kind, why):
  cfg = dataclasses.replace(MODELS['fixed'], kind=kind)
  with pytest.raises(ValueError, match=f'got {kind!r}, which {why}'):
    check_sampling(cfg)
  with pytest.raises(ValueError, match=f'got {kind!r}, which {why}'):
    memory_decoding.start({}, cfg, 1)


def test_a_prompt_longer_than_a_row():
  with pytest.raises(ValueError, match='got 13'):
    memory_decoding.read({}, jnp.zeros([1, 13], jnp.int32), MODELS['fixed'])
