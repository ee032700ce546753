"""From chunks of tokens to the vectors that a memory model keeps of them."""

from typing import Any, NamedTuple

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
    there_BxM: bool, False for a chunk of padding, which leaves none.
    collected: of the encoder.
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
  """The memories of whole chunks, all of them at once.

  Args:
    params: of the model; 'encoder', 'passage' and the decoder's embeddings.
    tokens_BxT: int [B, M x chunk_length].
    cfg: the model, of kind 'parallel'.
    mask_BxT: bool, tokens that are there; None for all.
    collect: see `decoder.apply`.

  Returns:
    `Memories`: of chunk m they depend on its tokens alone.
  """
  batch, length = tokens_BxT.shape[0], cfg.chunk_length
  if mask_BxT is None:
    mask_BxT = jnp.ones(tokens_BxT.shape, bool)
  e_RxE, collected = embed(
      params,
      tokens_BxT.reshape(-1, length),
      cfg,
      mask=mask_BxT.reshape(-1, length),
      collect=collect,
  )
  m_RxD = layers.call(
      embeddings.Pass(cfg.decoder, cfg.passage), params['passage'], e_RxE
  )
  m_RxD = like_tokens(
      m_RxD, params['decoder']['embed']['tokens'], cfg.decoder
  )
  there_BxM = mask_BxT.reshape(batch, -1, length).any(axis=-1)
  return Memories(
      m_RxD.reshape(batch, -1, m_RxD.shape[-1]), there_BxM, collected
  )


def embed(
    params: Any,
    tokens_RxL: jax.Array,
    cfg: memory_config.MemoryConfig,
    *,
    mask: jax.Array | None = None,
    collect: str | None = None,
) -> tuple[jax.Array, outputs.Collected]:
  """The vector of every chunk as the encoder leaves it, [R, E]."""
  h_RxLxE, collected = autoencoder.encode(
      params['encoder'], tokens_RxL, cfg.encoder, mask, collect
  )
  return embeddings.gather(h_RxLxE, mask, cfg.position), collected


def like_tokens(
    m_RxD: jax.Array, table_VxD: jax.Array, cfg: model_config.DecoderConfig
) -> jax.Array:
  """Vectors of the root mean square of the embedded tokens.

  What comes out of a norm is far longer than embeddings are: read beside
  tokens, it would drown them.
  """
  if cfg.embedding_norm:
    return layers.rms_normalize(m_RxD)
  table_VxD = jax.lax.stop_gradient(table_VxD).astype(jnp.float32)
  rms = jnp.sqrt(jnp.mean(table_VxD * table_VxD) + 1e-12)
  return layers.rms_normalize(m_RxD) * rms.astype(m_RxD.dtype)
