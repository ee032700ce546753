"""What the decoder of a memory model sees of every chunk: slots, then tokens.

The window of chunk c of C is C + L positions: slot j < C - 1 holds the memory
of chunk j if that is past (j < c) and is empty otherwise; in the layout
'recent' memories stand at the other end, that of chunk c - 1 last, so that how
long ago a chunk was is where its memory is. The last slot is
never a memory: it is a learned vector that asks for the first token of the
chunk, from the memories alone. Windows of all chunks have one shape, so that
they are rows of one batch.
"""

import dataclasses
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp

from iblm_jax.models import config as model_config
from iblm_jax.models.memory import config as memory_config


class Windows(NamedTuple):
  """Rows for the decoder, the chunks of a row one after the other.

  Attributes:
    x_WxPxD: [B C, C + L, D], what is read.
    present_WxP: bool [B C, C + L], what may be seen.
    positions_WxP: int32 [B C, C + L].
  """

  x_WxPxD: jax.Array
  present_WxP: jax.Array
  positions_WxP: jax.Array


def lay_out(
    memory_BxMxD: jax.Array | None,
    has_memory_BxM: jax.Array | None,
    slot_D: jax.Array,
    x_BxCxLxD: jax.Array,
    mask_BxCxL: jax.Array,
    cfg: memory_config.MemoryConfig,
) -> Windows:
  """Lays out the windows of all chunks.

  Args:
    memory_BxMxD: Memories of all chunks but the last, M = C - 1; None for none.
    has_memory_BxM: bool, False for a chunk of padding.
    slot_D: The learned vector of the last slot, and of empty ones.
    x_BxCxLxD: Embedded tokens.
    mask_BxCxL: bool, the valid tokens.
    cfg: The model.
  """
  batch, chunks, length, width = x_BxCxLxD.shape
  slot_D = slot_D.astype(x_BxCxLxD.dtype)
  j, c = jnp.arange(chunks)[None, :], jnp.arange(chunks)[:, None]
  filled_BxCxS = jnp.zeros([batch, chunks, chunks], bool)
  slots_BxCxSxD = jnp.broadcast_to(slot_D, (batch, chunks, chunks, width))
  if memory_BxMxD is not None and has_memory_BxM is not None:
    pad = ((0, 0), (0, 1))
    has_BxS = jnp.pad(has_memory_BxM, pad)
    memory_BxSxD = jnp.pad(memory_BxMxD, (*pad, (0, 0)))
    held_CxS = held_chunks(jnp.arange(chunks), cfg)
    index_CxS = jnp.maximum(held_CxS, 0)
    filled_BxCxS = has_BxS[:, index_CxS] & (held_CxS >= 0)[None]
    slots_BxCxSxD = jnp.where(
        filled_BxCxS[..., None], memory_BxSxD[:, index_CxS], slots_BxCxSxD
    )
  seen_BxCxS = filled_BxCxS | (j == chunks - 1)[None]
  if cfg.empty == 'learned':
    seen_BxCxS = jnp.ones_like(seen_BxCxS)
  t = jnp.arange(chunks + length)[None]
  positions_CxP = jnp.broadcast_to(t, (chunks, chunks + length))
  if cfg.layout == 'variable':
    # As if the empty slots were not there.
    positions_CxP = jnp.where(t < chunks - 1, t, t - (chunks - 1) + c)
  positions_BxCxP = jnp.broadcast_to(
      positions_CxP[None], (batch, chunks, chunks + length)
  )
  rows = lambda a: einops.rearrange(a, 'b c ... -> (b c) ...')
  return Windows(
      rows(jnp.concatenate([slots_BxCxSxD, x_BxCxLxD], axis=2)),
      rows(jnp.concatenate([seen_BxCxS, mask_BxCxL], axis=2)),
      rows(positions_BxCxP),
  )


def held_chunks(
    chunk_C: jax.Array, cfg: memory_config.MemoryConfig
) -> jax.Array:
  """Finds whose memory each slot holds: int [C, S], -1 for an empty one.

  `chunk_C` are the chunks whose windows are asked for.
  """
  last = cfg.num_chunks - 1
  j, c = jnp.arange(cfg.num_chunks)[None], chunk_C[:, None]
  if cfg.layout == 'recent':  # the chunk before this one beside the last slot
    number_CxS = j - last + c
    return jnp.where((number_CxS >= 0) & (j < last), number_CxS, -1)
  return jnp.where(j < jnp.minimum(c, last), j, -1)


def placed(
    params: Any, x_BxPxD: jax.Array, cfg: memory_config.MemoryConfig
) -> jax.Array:
  """Adds the decoder's learned positions to the first P inputs of windows.

  These count places in the window, slots and all; a decoder without learned
  positions gets its inputs as they are.
  """
  if cfg.decoder.positions != 'learned':
    return x_BxPxD
  table_PxD = params['decoder']['embed']['positions'][: x_BxPxD.shape[1]]
  return x_BxPxD + table_PxD[None].astype(x_BxPxD.dtype)


def token_embedding(
    cfg: memory_config.MemoryConfig,
) -> model_config.DecoderConfig:
  """Gives the options that embed tokens without their positions."""
  return dataclasses.replace(cfg.decoder, positions='none')


def next_token_states(
    y_BxCxPxD: jax.Array, chunk_length: int
) -> jax.Array:
  """Takes from windows what predicts the next token of each: [B, T, D].

  The state before token j of a chunk predicts it: the last slot's for the first
  one. The very first token of a row has nothing before it and is left out; the
  last state of the row is that of its last token.

  Args:
    y_BxCxPxD: states of the windows, [B, C, S + L, D].
    chunk_length: L.

  >>> y = jnp.arange(6.0).reshape(1, 2, 3, 1)  # S = 1, L = 2
  >>> next_token_states(y, 2)[0, :, 0].tolist()
  [1.0, 3.0, 4.0, 5.0]
  """
  first = y_BxCxPxD.shape[2] - chunk_length - 1
  before_BxTxD = einops.rearrange(
      y_BxCxPxD[:, :, first:-1], 'b c l d -> b (c l) d'
  )
  return jnp.concatenate([before_BxTxD[:, 1:], y_BxCxPxD[:, -1, -1:]], axis=1)
