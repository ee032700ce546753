"""Decoding with a memory model: finished chunks are kept as vectors alone.

What is held of a row are the memories of its finished chunks, the keys and
values of one window of slots and tokens, and the tokens of the current chunk,
to make its memory of: C + L positions, where a decoder of the whole row holds
C L. A prompt's chunks are encoded all at once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.models.generation import decoding, incremental, kv_cache
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import layout

MemoryConfig = memory_config.MemoryConfig
State = incremental.State


def start(params: Any, cfg: MemoryConfig, batch_size: int) -> State:
  """Gives the state of rows of which nothing is read yet."""
  nothing_Bx0 = jnp.zeros([batch_size, 0], jnp.int32)
  return read(params, nothing_Bx0, cfg)[1]


def read(
    params: Any, tokens_BxT: jax.Array, cfg: MemoryConfig
) -> tuple[jax.Array, State]:
  """Reads a prompt of any length that the model has room for.

  Args:
    params: Of the model.
    tokens_BxT: int [B, T], no padding.
    cfg: The model.

  Returns:
    float32 logits of the token after the prompt [B, V], and the state.

  Raises:
    ValueError: The kind cannot decode, or there are too many tokens.

  Example:
    >>> from iblm_jax.models import config as model_config
    >>> from iblm_jax.models import memory
    >>> part = model_config.llama(
    ...     8, num_layers=1, width=16, num_heads=2, tie_embeddings=True
    ... )
    >>> cfg = MemoryConfig(part, part, num_chunks=3, chunk_length=4)
    >>> def run(key, tokens_BxT):
    ...   return read(memory.init(key, cfg), tokens_BxT, cfg)
    >>> tokens_BxT = jnp.zeros([2, 9], jnp.int32)
    >>> logits, state = jax.eval_shape(run, jax.random.key(0), tokens_BxT)
    >>> logits.shape, state.memory_BxMxD.shape, state.cache.k_BxHxSxK[0].shape
    ((2, 8), (2, 2, 16), (2, 2, 7, 8))
  """
  check(cfg, tokens_BxT.shape[1])
  batch, length = tokens_BxT.shape
  # The last chunk of a row has no slot to go to: its window stays.
  chunks = min(length // cfg.chunk_length, cfg.num_chunks - 1)
  past = chunks * cfg.chunk_length
  shape = (batch, cfg.num_chunks - 1, cfg.decoder.width)
  memory_BxMxD = jnp.zeros(shape, cfg.decoder.compute_dtype)
  if chunks and cfg.kind == 'parallel':
    held = layout.encode_chunks(params, tokens_BxT[:, :past], cfg)
    memory_BxMxD = memory_BxMxD.at[:, :chunks].set(held.vector_BxMxD)
  return incremental.enter(
      params, memory_BxMxD, jnp.int32(chunks), tokens_BxT[:, past:], cfg
  )


def step(
    params: Any, token_B: jax.Array, state: State, cfg: MemoryConfig
) -> tuple[jax.Array, State]:
  """Reads one token.

  The token that completes a chunk is read by the encoder instead of the
  decoder, and what follows it is asked of the new window's last slot.

  Args:
    params: Of the model.
    token_B: int [B].
    state: Of rows with room for it: C L tokens are all there can be.
    cfg: The model.

  Returns:
    float32 logits of the next token [B, V], and the state.
  """
  completes = state.count + 1 == cfg.chunk_length
  return jax.lax.cond(
      completes & (state.chunk < cfg.num_chunks - 1),
      functools.partial(close, cfg=cfg),
      functools.partial(incremental.feed, cfg=cfg),
      params,
      token_B,
      state,
  )


def close(
    params: Any, token_B: jax.Array, state: State, cfg: MemoryConfig
) -> tuple[jax.Array, State]:
  """`step` for the last token of a chunk: remembers it, opens a new window."""
  tokens_BxL = incremental.with_token(state, token_B)
  memory_BxMxD = state.memory_BxMxD
  if cfg.kind == 'parallel':
    held = layout.encode_chunks(params, tokens_BxL, cfg)
    memory_BxMxD = jax.lax.dynamic_update_slice_in_dim(
        memory_BxMxD, held.vector_BxMxD, state.chunk, axis=1
    )
  return incremental.enter(
      params, memory_BxMxD, state.chunk + 1, tokens_BxL[:, :0], cfg
  )


def layers_apart(params: Any) -> Any:
  """Gives parameters for many steps, see `kv_cache.layers_apart`."""
  return {**params, 'decoder': kv_cache.layers_apart(params['decoder'])}


def check(cfg: MemoryConfig, length: int) -> None:
  """Raises ValueError unless a model can decode rows of that many tokens."""
  if cfg.kind not in ('parallel', 'none'):
    why = 'sees the future' if cfg.is_oracle else 'has no slots to keep'
    raise ValueError(
        "decoding needs a memory model of kind 'parallel' or 'none', got"
        f' {cfg.kind!r}, which {why}.'
    )
  if length > cfg.length:
    raise ValueError(
        f'a row has at most num_chunks x chunk_length = {cfg.num_chunks} x'
        f' {cfg.chunk_length} tokens, for whose chunks the model has slots, got'
        f' {length}, prompt and continuation.'
    )


def check_sampling(
    cfg: MemoryConfig,
    prompt_length: int,
    num_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
) -> None:
  """Raises ValueError for arguments that `sample` cannot use."""
  decoding.check_options(
      cfg.decoder.vocab_size,
      prompt_length,
      num_tokens,
      temperature=temperature,
      top_k=top_k,
  )
  check(cfg, prompt_length + num_tokens)


def sample(
    params: Any,
    prompt_BxT: jax.Array,
    cfg: MemoryConfig,
    rng: jax.Array,
    *,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    allowed_V: jax.Array | None = None,
) -> jax.Array:
  """`decoding.sample` of a memory model; int32 [B, num_tokens].

  Raises:
    ValueError: See `check_sampling`.
  """
  options = dict(temperature=temperature, top_k=top_k)
  check_sampling(cfg, prompt_BxT.shape[1], num_tokens, **options)
  logits_BxV, state = read(params, prompt_BxT, cfg)
  params = layers_apart(params)
  return decoding.sample_steps(
      lambda token_B, state: step(params, token_B, state, cfg),
      logits_BxV,
      state,
      rng,
      num_tokens=num_tokens,
      allowed_V=allowed_V,
      **options,
  )
