"""One vector of the whole row, future included, beside its tokens.

No language model, as it sees what it predicts: it asks how much of a row a
vector can hold, and is what entropies of single tokens are estimated with
(arXiv 2511.10618).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.models import decoder, outputs
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import layout
from iblm_jax.models.nn import embedding_head, stack


def partitioned_decoder(rng: jax.Array, cfg: memory_config.MemoryConfig) -> Any:
  """Makes a decoder whose token embeddings leave room for the vector."""
  params = decoder.partitioned_init(rng, cfg.decoder)
  tokens_BxL = jnp.zeros([1, 1], jnp.int32)
  made = embedding_head.Embed(_narrow(cfg)).init(
      jax.random.fold_in(rng, 1), tokens_BxL, tokens_BxL
  )
  return {**params, 'embed': made['params']}


def _narrow(cfg):
  """Of the token embeddings alone."""
  width = cfg.decoder.width - cfg.passage.width_out
  return dataclasses.replace(cfg.decoder, width=width, num_heads=1,
                             positions='none', mixer=None)


def vector(
    params: Any,
    tokens_BxT: jax.Array,
    cfg: memory_config.MemoryConfig,
    mask_BxT: jax.Array,
    collect: str | None = None,
) -> tuple[jax.Array, outputs.Collected]:
  """Computes what the decoder is given of a row, [B, D']."""
  e_BxE, collected = layout.embed(
      params, tokens_BxT, cfg, mask=mask_BxT, collect=collect
  )
  return layout.as_memory(params, e_BxE, cfg), collected


def decode(
    params: Any,
    tokens_BxT: jax.Array,
    m_BxD: jax.Array | None,
    cfg: memory_config.MemoryConfig,
    mask_BxT: jax.Array,
) -> jax.Array:
  """Computes the logits of next tokens given a vector; None takes it away."""
  part, tree = cfg.reader, params['decoder']
  is_beside = cfg.kind == 'oracle_embedding'
  x_BxTxD = decoder.embed(tree, tokens_BxT, _narrow(cfg) if is_beside else part)
  batch, length = tokens_BxT.shape
  present_BxP, sees_memory = mask_BxT, m_BxD is not None
  if m_BxD is None:
    width = cfg.passage.width_out
    m_BxD = jnp.zeros([batch, width], x_BxTxD.dtype)
  m_Bx1xD = m_BxD[:, None].astype(x_BxTxD.dtype)
  match cfg.kind:
    case 'oracle_token':
      x_BxPxD = jnp.concatenate([m_Bx1xD, x_BxTxD], axis=1)
      there_Bx1 = jnp.full([batch, 1], sees_memory)
      present_BxP = jnp.concatenate([there_Bx1, mask_BxT], axis=1)
    case 'oracle_add':
      x_BxPxD = x_BxTxD + m_Bx1xD
    case _:
      wide = jnp.broadcast_to(m_Bx1xD, (batch, length, m_Bx1xD.shape[-1]))
      x_BxPxD = jnp.concatenate([x_BxTxD, wide], axis=2)
  y_BxPxD, _ = stack.run(
      tree,
      x_BxPxD,
      part,
      mask=present_BxP,
      segment_ids=present_BxP.astype(jnp.int32),
  )
  return decoder.head(tree, y_BxPxD[:, -length:], part)


def apply(
    params: Any,
    tokens_BxT: jax.Array,
    cfg: memory_config.MemoryConfig,
    mask_BxT: jax.Array,
    collect: str | None,
) -> outputs.Outputs:
  """See `memory.apply`."""
  m_BxD, collected = vector(params, tokens_BxT, cfg, mask_BxT, collect)
  logits_BxTxV = decode(params, tokens_BxT, m_BxD, cfg, mask_BxT)
  return outputs.Outputs(logits_BxTxV, *collected)
