"""Incremental decoding of the window of a memory model that a row is in.

`memory.windows` lays out the windows of all chunks of a row; here is one, with
the keys and values of its slots and of the tokens so far. A mixer has none to
keep: its window is computed again for every token.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.models import decoder
from iblm_jax.models.generation import kv_cache
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import windows as windows_lib
from iblm_jax.models.nn import stack


class State(NamedTuple):
  """State carried between decoding steps."""

  memory_BxMxD: jax.Array  # compute dtype, M = C - 1; of the finished chunks
  tokens_BxL: jax.Array  # int32, of the current chunk
  cache: kv_cache.Cache | None  # slots and tokens of the window; not of a mixer
  chunk: jax.Array  # int32 scalar, c, chunks that are finished
  count: jax.Array  # int32 scalar, tokens of the current chunk so far


def enter(
    params: Any,
    memory_BxMxD: jax.Array,
    chunk: jax.Array,
    tokens_BxR: jax.Array,
    cfg: memory_config.MemoryConfig,
) -> tuple[jax.Array, State]:
  """Reads the slots of a window and its first tokens.

  Args:
    params: Of the model; 'decoder' and 'slot'.
    memory_BxMxD: Memories of the chunks before it, M = C - 1.
    chunk: int32 scalar, how many these are.
    tokens_BxR: int, the first R tokens of the chunk, R <= L.
    cfg: The model.

  Returns:
    float32 logits of the next token [B, V], and the state.
  """
  tree, part = params['decoder'], cfg.decoder
  new = tokens_BxR.shape[1]
  room = ((0, 0), (0, cfg.chunk_length - new))
  state = State(
      memory_BxMxD,
      jnp.pad(tokens_BxR.astype(jnp.int32), room),
      None,
      chunk,
      jnp.int32(new),
  )
  if part.mixer is not None:
    return _recomputed(params, state, cfg), state
  index_P = jnp.arange(cfg.num_chunks + new)
  x_BxPxD, cache = kv_cache.prefill(
      tree,
      _window(params, state, tokens_BxR, cfg),
      part,
      cfg.window,
      visible_T=_visible(chunk, cfg)[: index_P.size],
      positions_T=_positions(index_P, chunk, cfg),
  )
  logits_BxV = decoder.head(tree, x_BxPxD[:, -1:], part)[:, 0]
  return logits_BxV, state._replace(cache=cache)


def feed(
    params: Any,
    token_B: jax.Array,
    state: State,
    cfg: memory_config.MemoryConfig,
) -> tuple[jax.Array, State]:
  """Reads one token, int [B], that the window has room for; as `enter`."""
  tree, part = params['decoder'], cfg.decoder
  index = cfg.num_chunks + state.count
  state = state._replace(
      tokens_BxL=with_token(state, token_B), count=state.count + 1
  )
  if state.cache is None:
    return _recomputed(params, state, cfg), state
  x_Bx1xD = decoder.embed(
      tree, token_B[:, None], windows_lib.token_embedding(cfg)
  )
  if part.positions == 'learned':
    place_D = tree['embed']['positions'][index].astype(x_Bx1xD.dtype)
    x_Bx1xD = x_Bx1xD + place_D[None, None]
  x_Bx1xD, cache = kv_cache.extend(
      tree,
      x_Bx1xD,
      state.cache,
      part,
      visible_S=_visible(state.chunk, cfg),
      positions_T=_positions(index[None], state.chunk, cfg),
  )
  logits_BxV = decoder.head(tree, x_Bx1xD, part)[:, 0]
  return logits_BxV, state._replace(cache=cache)


def with_token(state: State, token_B: jax.Array) -> jax.Array:
  """The chunk's tokens [B, L] with one more."""
  return jax.lax.dynamic_update_slice_in_dim(
      state.tokens_BxL, token_B[:, None].astype(jnp.int32), state.count, axis=1
  )


def _recomputed(params, state, cfg):
  """Logits from the window as a whole, for what has no cache."""
  tree, part = params['decoder'], cfg.decoder
  last = cfg.num_chunks + state.count - 1
  present_P = _visible(state.chunk, cfg) & (jnp.arange(cfg.window) <= last)
  x_BxPxD = _window(params, state, state.tokens_BxL, cfg)
  present_BxP = jnp.broadcast_to(present_P[None], x_BxPxD.shape[:2])
  x_BxPxD, _ = stack.run(tree, x_BxPxD, part, mask=present_BxP)
  x_Bx1xD = jax.lax.dynamic_slice_in_dim(x_BxPxD, last, 1, axis=1)
  return decoder.head(tree, x_Bx1xD, part)[:, 0]


def _window(params, state, tokens_BxR, cfg):
  """Slots and tokens as the decoder reads them, see `memory.windows`."""
  x_BxRxD = decoder.embed(
      params['decoder'], tokens_BxR, windows_lib.token_embedding(cfg)
  )
  held_S = _held(state.chunk, cfg)
  memory_BxSxD = jnp.pad(state.memory_BxMxD, ((0, 0), (0, 1), (0, 0)))
  slots_BxSxD = jnp.where(
      (held_S >= 0)[None, :, None],
      memory_BxSxD[:, jnp.maximum(held_S, 0)],
      params['slot'].astype(x_BxRxD.dtype)[None, None],
  )
  whole_BxPxD = jnp.concatenate([slots_BxSxD, x_BxRxD], axis=1)
  return windows_lib.placed(params, whole_BxPxD, cfg)


def _held(chunk, cfg):
  """The chunk whose memory a slot holds, int [C]; -1 for an empty one."""
  if cfg.kind == 'none':
    return jnp.full([cfg.num_chunks], -1)
  return windows_lib.held_chunks(chunk[None], cfg)[0]


def _visible(chunk, cfg):
  """What may be seen of a window, bool [C + L]."""
  last = jnp.arange(cfg.num_chunks) == cfg.num_chunks - 1
  seen = (_held(chunk, cfg) >= 0) | last | (cfg.empty == 'learned')
  return jnp.pad(seen, (0, cfg.chunk_length), constant_values=True)


def _positions(index_P, chunk, cfg):
  """Rotary positions of places in a window."""
  if cfg.layout != 'variable':
    return index_P
  shift = jnp.where(index_P < cfg.num_chunks - 1, 0, cfg.num_chunks - 1 - chunk)
  return index_P - shift
