"""From chunks of tokens to the vectors that a memory model keeps of them."""

from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp

from iblm_jax.models import autoencoder, outputs
from iblm_jax.models import config as model_config
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.nn import embeddings, layers


class Memories(NamedTuple):
  """What is kept of chunks.

  Attributes:
    vector_BxMxD: [B, M, D], as the decoder reads them.
    there_BxM: bool, False for a chunk of padding, which leaves no memory.
    collected: What was collected of the encoder.
  """

  vector_BxMxD: jax.Array
  there_BxM: jax.Array
  collected: outputs.Collected = outputs.Collected()


def encode_chunks(
    params: Any,
    tokens_BxT: jax.Array,
    cfg: memory_config.MemoryConfig,
    mask_BxT: jax.Array | None = None,
    collect: str | None = None,
) -> Memories:
  """Computes the memories of whole chunks, all of them at once.

  Args:
    params: Of the model; 'encoder', 'passage' and the decoder's embeddings.
    tokens_BxT: int [B, M x chunk_length].
    cfg: The model, of kind 'parallel'.
    mask_BxT: bool, the valid tokens; None for all.
    collect: See `decoder.apply`.

  Returns:
    `Memories`; that of a chunk depends on its tokens alone.
  """
  if mask_BxT is None:
    mask_BxT = jnp.ones(tokens_BxT.shape, bool)
  rows = lambda a_BxT: einops.rearrange(
      a_BxT, 'b (m l) -> (b m) l', l=cfg.chunk_length
  )
  e_RxE, collected = embed(
      params, rows(tokens_BxT), cfg, mask=rows(mask_BxT), collect=collect
  )
  there_BxMxL = einops.rearrange(
      mask_BxT, 'b (m l) -> b m l', l=cfg.chunk_length
  )
  vector_BxMxD = einops.rearrange(
      as_memory(params, e_RxE, cfg), '(b m) d -> b m d', b=tokens_BxT.shape[0]
  )
  return Memories(vector_BxMxD, there_BxMxL.any(axis=-1), collected)


def embed(
    params: Any,
    tokens_RxL: jax.Array,
    cfg: memory_config.MemoryConfig,
    *,
    mask: jax.Array | None = None,
    collect: str | None = None,
) -> tuple[jax.Array, outputs.Collected]:
  """Computes the vector of every chunk as the encoder leaves it, [R, E]."""
  h_RxLxE, collected = autoencoder.encode(
      params['encoder'], tokens_RxL, cfg.encoder, mask, collect
  )
  return embeddings.gather(h_RxLxE, mask, cfg.position), collected


def as_memory(
    params: Any, e_RxE: jax.Array, cfg: memory_config.MemoryConfig
) -> jax.Array:
  """Brings vectors [R, E] to where the decoder reads them, [R, D]."""
  module = embeddings.Pass(cfg.decoder, cfg.passage)
  m_RxD = layers.call(module, params['passage'], e_RxE)
  table_VxD = params['decoder']['embed']['tokens']
  return like_tokens(m_RxD, table_VxD, cfg.decoder)


def like_tokens(
    m_RxD: jax.Array, table_VxD: jax.Array, cfg: model_config.DecoderConfig
) -> jax.Array:
  """Scales vectors to the root mean square of the embedded tokens.

  What comes out of a norm is far longer than embeddings are: read beside
  tokens, it would drown them.
  """
  if cfg.embedding_norm:
    return layers.rms_normalize(m_RxD)
  table_VxD = jax.lax.stop_gradient(table_VxD).astype(jnp.float32)
  rms = jnp.sqrt(jnp.mean(table_VxD * table_VxD) + 1e-12)
  return layers.rms_normalize(m_RxD) * rms.astype(m_RxD.dtype)
