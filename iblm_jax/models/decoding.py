"""Decoding with a key-value cache."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.models import attention, blocks, decoder


class Cache(NamedTuple):
  """Keys and values of the tokens so far."""

  k_NxBxSxHxK: jax.Array  # compute dtype, S slots
  v_NxBxSxHxK: jax.Array  # compute dtype
  length: jax.Array  # int32 scalar, slots in use


def init_cache(
    cfg: decoder.DecoderConfig, batch_size: int, size: int
) -> Cache:
  """An empty cache for `size` tokens in each of `batch_size` rows."""
  shape = (cfg.num_layers, batch_size, size, cfg.num_heads, cfg.head_width)
  zeros = jnp.zeros(shape, cfg.compute_dtype)
  return Cache(zeros, zeros, jnp.zeros([], jnp.int32))


def extend(
    params: decoder.Params,
    tokens_BxT: jax.Array,
    cache: Cache,
    cfg: decoder.DecoderConfig,
) -> tuple[jax.Array, Cache]:
  """Feeds T more tokens (a prompt, or one sampled token).

  Args:
    params: of the decoder.
    tokens_BxT: int [B, T].
    cache: keys and values so far; `cache.length + T` must not exceed its size.
    cfg: the model.

  Returns:
    float32 logits [B, T, V] and the longer cache.

  Example:
    >>> cfg = decoder.DecoderConfig(8, num_layers=1, width=8, num_heads=1)
    >>> def feed(key, tokens_BxT):
    ...   cache = init_cache(cfg, batch_size=1, size=4)
    ...   return extend(decoder.init(key, cfg), tokens_BxT, cache, cfg)
    >>> tokens_BxT = jnp.zeros([1, 3], jnp.int32)
    >>> logits, cache = jax.eval_shape(feed, jax.random.key(0), tokens_BxT)
    >>> logits.shape, cache.k_NxBxSxHxK.shape
    ((1, 3, 8), (1, 1, 4, 1, 8))
  """
  num_new = tokens_BxT.shape[1]
  positions_T = cache.length + jnp.arange(num_new)
  slots_S = jnp.arange(cache.k_NxBxSxHxK.shape[2])
  mask_1xTxS = attention.allowed(positions_T, slots_S, cfg.window)[None]

  def attend(q, k, v, k_BxSxHxK, v_BxSxHxK):
    write = functools.partial(
        jax.lax.dynamic_update_slice_in_dim,
        start_index=cache.length,
        axis=1,
    )
    k_BxSxHxK, v_BxSxHxK = write(k_BxSxHxK, k), write(v_BxSxHxK, v)
    swap = attention.heads_first
    mixed = attention.masked_attention(
        swap(q), swap(k_BxSxHxK), swap(v_BxSxHxK), mask_1xTxS
    )
    return swap(mixed), (k_BxSxHxK, v_BxSxHxK)

  positions_BxT = jnp.broadcast_to(positions_T[None], tokens_BxT.shape)
  x_BxTxD = blocks.call(
      decoder.Embed(cfg), params['embed'], tokens_BxT, positions_BxT
  )
  angles = None
  if cfg.positions == 'rotary':
    angles = blocks.rotary_angles(
        positions_BxT, cfg.head_width, cfg.rotary_base
    )
  x_BxTxD, _, (k, v) = decoder.run_blocks(
      params,
      x_BxTxD,
      cfg,
      angles,
      attend,
      measure=lambda _: None,
      per_layer=(cache.k_NxBxSxHxK, cache.v_NxBxSxHxK),
  )
  logits_BxTxV = decoder.head(params, x_BxTxD, cfg)
  return logits_BxTxV, Cache(k, v, cache.length + num_new)


def check_sampling(
    cfg: decoder.DecoderConfig,
    prompt_length: int,
    num_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
) -> None:
  """Raises ValueError for arguments that `sample` cannot use."""
  total = prompt_length + num_tokens
  if prompt_length < 1:
    raise ValueError('the prompt must hold at least one token.')
  if num_tokens < 1:
    raise ValueError(f'num_tokens must be at least 1, got {num_tokens}.')
  if not 0 <= temperature < math.inf:
    raise ValueError(
        f'temperature must be finite and >= 0, got {temperature}.'
    )
  if top_k is not None and not 1 <= top_k <= cfg.vocab_size:
    raise ValueError(f'top_k must lie in [1, {cfg.vocab_size}], got {top_k}.')
  if cfg.positions == 'learned' and total > cfg.max_length:
    raise ValueError(
        f'prompt and continuation have {total} tokens, more than max_length'
        f' {cfg.max_length}.'
    )


def sample(
    params: decoder.Params,
    prompt_BxT: jax.Array,
    cfg: decoder.DecoderConfig,
    rng: jax.Array,
    *,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> jax.Array:
  """Continues every prompt by `num_tokens` tokens.

  Args:
    params: of the decoder.
    prompt_BxT: int [B, T], T >= 1, no padding.
    cfg: the model.
    rng: PRNG key; not used when the temperature is 0.
    num_tokens: how many tokens to add, >= 1.
    temperature: >= 0; 0 takes the arg max.
    top_k: sample among the k most likely tokens only; None for all.

  Returns:
    int32 [B, num_tokens].

  Raises:
    ValueError: from `check_sampling`.
  """
  check_sampling(
      cfg, prompt_BxT.shape[1], num_tokens, temperature=temperature, top_k=top_k
  )

  def pick(logits_BxV, key):
    if temperature == 0:
      return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    if top_k is not None:
      kth_Bx1 = jax.lax.top_k(logits_BxV, top_k)[0][:, -1:]
      logits_BxV = jnp.where(logits_BxV < kth_Bx1, -jnp.inf, logits_BxV)
    picked_B = jax.random.categorical(key, logits_BxV / temperature)
    return picked_B.astype(jnp.int32)

  def step(carry, key):
    cache, token_B = carry
    logits_Bx1xV, cache = extend(params, token_B[:, None], cache, cfg)
    token_B = pick(logits_Bx1xV[:, -1], key)
    return (cache, token_B), token_B

  total = prompt_BxT.shape[1] + num_tokens
  cache = init_cache(cfg, prompt_BxT.shape[0], total)
  logits_BxTxV, cache = extend(params, prompt_BxT, cache, cfg)
  keys = jax.random.split(rng, num_tokens)
  first_B = pick(logits_BxTxV[:, -1], keys[0])
  _, rest_TxB = jax.lax.scan(step, (cache, first_B), keys[1:])
  return jnp.concatenate([first_B[None], rest_TxB]).T
