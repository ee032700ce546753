"""Sampling from a decoder, with a cache of keys and values."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.models import decoder
from iblm_jax.models.generation import kv_cache

# At temperatures below it, logits count from the largest.
_TINY = 1e-6

Cache = kv_cache.Cache
init_cache = kv_cache.init_cache


def prefill(
    params: decoder.Params,
    tokens_BxT: jax.Array,
    cfg: decoder.DecoderConfig,
    size: int,
) -> tuple[jax.Array, Cache]:
  """Feeds a whole prompt into a new cache of room for `size` >= T tokens.

  Returns:
    float32 logits of the token after the prompt [B, V], and the cache.

  Raises:
    ValueError: See `kv_cache.prefill`.
  """
  x_BxTxD = decoder.embed(params, tokens_BxT, cfg)
  x_BxTxD, cache = kv_cache.prefill(params, x_BxTxD, cfg, size)
  return decoder.head(params, x_BxTxD[:, -1:], cfg)[:, 0], cache


def extend(
    params: decoder.Params,
    tokens_BxT: jax.Array,
    cache: Cache,
    cfg: decoder.DecoderConfig,
) -> tuple[jax.Array, Cache]:
  """Feeds T more tokens.

  Args:
    params: Of the decoder.
    tokens_BxT: int [B, T].
    cache: Keys and values so far; `cache.length + T` must not exceed its size.
    cfg: The model.

  Returns:
    float32 logits [B, T, V] and the longer cache.

  Example:
    >>> cfg = decoder.DecoderConfig(8, num_layers=1, width=8, num_heads=1)
    >>> def feed(key, tokens_BxT):
    ...   cache = init_cache(cfg, batch_size=1, size=4)
    ...   return extend(decoder.init(key, cfg), tokens_BxT, cache, cfg)
    >>> tokens_BxT = jnp.zeros([1, 3], jnp.int32)
    >>> logits, cache = jax.eval_shape(feed, jax.random.key(0), tokens_BxT)
    >>> logits.shape, cache.k_BxHxSxK[0].shape
    ((1, 3, 8), (1, 1, 4, 8))
  """
  positions_T = cache.length + jnp.arange(tokens_BxT.shape[1])
  positions_BxT = jnp.broadcast_to(positions_T[None], tokens_BxT.shape)
  x_BxTxD = decoder.embed(params, tokens_BxT, cfg, positions_BxT)
  x_BxTxD, cache = kv_cache.extend(params, x_BxTxD, cache, cfg)
  return decoder.head(params, x_BxTxD, cfg), cache


def check_sampling(
    cfg: decoder.DecoderConfig,
    prompt_length: int,
    num_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
) -> None:
  """Raises ValueError for arguments that `sample` cannot use."""
  check_options(
      cfg.vocab_size,
      prompt_length,
      num_tokens,
      temperature=temperature,
      top_k=top_k,
  )
  if cfg.mixer is not None:
    raise ValueError(
        'sampling from a decoder needs attention, got a mixer, which has no'
        ' keys and values to keep.'
    )
  total = prompt_length + num_tokens
  if cfg.positions == 'learned' and total > cfg.max_length:
    raise ValueError(
        f'prompt and continuation have {total} tokens, more than max_length'
        f' {cfg.max_length}.'
    )


def check_options(
    vocab_size: int,
    prompt_length: int,
    num_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
) -> None:
  """Raises ValueError for arguments that no model can sample with."""
  if prompt_length < 1:
    raise ValueError('the prompt must hold at least one token.')
  if num_tokens < 1:
    raise ValueError(f'num_tokens must be at least 1, got {num_tokens}.')
  if not 0 <= temperature < math.inf:
    raise ValueError(
        f'temperature must be finite and >= 0, got {temperature}.'
    )
  if top_k is not None and not 1 <= top_k <= vocab_size:
    raise ValueError(f'top_k must lie in [1, {vocab_size}], got {top_k}.')


def sample(
    params: decoder.Params,
    prompt_BxT: jax.Array,
    cfg: decoder.DecoderConfig,
    rng: jax.Array,
    *,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    allowed_V: jax.Array | None = None,
) -> jax.Array:
  """Continues every prompt by `num_tokens` tokens.

  Args:
    params: Of the decoder.
    prompt_BxT: int [B, T], T >= 1, no padding.
    cfg: The model.
    rng: A PRNG key; not used when the temperature is 0.
    num_tokens: How many tokens to add, >= 1.
    temperature: >= 0; 0 takes the arg max.
    top_k: Samples among the k most likely tokens only; None for all.
    allowed_V: bool [V], tokens that may be sampled; None for all.

  Returns:
    int32 [B, num_tokens].

  Raises:
    ValueError: See `check_sampling`.
  """
  length = prompt_BxT.shape[1]
  check_sampling(
      cfg, length, num_tokens, temperature=temperature, top_k=top_k
  )

  apart = kv_cache.layers_apart(params)

  def step(token_B, cache):
    logits_Bx1xV, cache = extend(apart, token_B[:, None], cache, cfg)
    return logits_Bx1xV[:, 0], cache

  logits_BxV, cache = prefill(params, prompt_BxT, cfg, length + num_tokens)
  return sample_steps(
      step,
      logits_BxV,
      cache,
      rng,
      num_tokens=num_tokens,
      temperature=temperature,
      top_k=top_k,
      allowed_V=allowed_V,
  )


def sample_steps(
    step: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    logits_BxV: jax.Array,
    state: Any,
    rng: jax.Array,
    *,
    num_tokens: int,
    temperature: float,
    top_k: int | None,
    allowed_V: jax.Array | None,
) -> jax.Array:
  """Samples token after token from any model; int32 [B, num_tokens].

  Args:
    step: From a token [B] and a state to the next token's logits and state.
    logits_BxV: Of the first token.
    state: What the first token is read in.
    rng: See `sample`, as are the others.
    num_tokens: As there.
    temperature: As there.
    top_k: As there.
    allowed_V: As there.
  """
  choose = functools.partial(
      pick, temperature=temperature, top_k=top_k, allowed_V=allowed_V
  )

  def advance(carry, key):
    token_B, state = carry
    logits_BxV, state = step(token_B, state)
    token_B = choose(logits_BxV, key)
    return (token_B, state), token_B

  keys = jax.random.split(rng, num_tokens)
  first_B = choose(logits_BxV, keys[0])
  _, rest_TxB = jax.lax.scan(advance, (first_B, state), keys[1:])
  return jnp.concatenate([first_B[None], rest_TxB]).T


def pick(
    logits_BxV: jax.Array,
    key: jax.Array,
    *,
    temperature: float,
    top_k: int | None,
    allowed_V: jax.Array | None,
) -> jax.Array:
  """Picks a token of every row, int32 [B]; see `sample`."""
  if allowed_V is not None:
    logits_BxV = jnp.where(allowed_V[None], logits_BxV, -jnp.inf)
  if temperature == 0:
    return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
  if top_k is not None:
    # By place, since more than k may be as likely as the k-th.
    kept_BxK = jax.lax.top_k(logits_BxV, top_k)[1]
    row_Bx1 = jnp.arange(logits_BxV.shape[0])[:, None]
    kept_BxV = jnp.zeros(logits_BxV.shape, bool)
    kept_BxV = kept_BxV.at[row_Bx1, kept_BxK].set(True)
    logits_BxV = jnp.where(kept_BxV, logits_BxV, -jnp.inf)
  if temperature < _TINY:
    # No quotient may overflow.
    logits_BxV -= logits_BxV.max(axis=-1, keepdims=True)
  # It and its reciprocal, by which compilers multiply, are normal in float32.
  scale = min(max(temperature, 1e-37), 1e37)
  picked_B = jax.random.categorical(key, logits_BxV / scale)
  return picked_B.astype(jnp.int32)
