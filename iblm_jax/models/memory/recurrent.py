"""A memory that is handed from chunk to chunk: the recurrent baseline.

One decoder reads `[memory, tokens, write]`; its state at the last position
becomes the memory of the next chunk. The public code overwrites the last
token's embedding with the memory; here no token is lost for it, and the
memory's own state predicts the first token of the chunk.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.information import entropy
from iblm_jax.models import decoder, outputs
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import layout
from iblm_jax.models.memory import windows as windows_lib
from iblm_jax.models.nn import embeddings, layers, stack


def apply(
    params: Any,
    tokens_BxT: jax.Array,
    cfg: memory_config.MemoryConfig,
    mask_BxT: jax.Array,
    collect: str | None,
) -> outputs.Outputs:
  """See `memory.apply`; chunks follow each other, gradients pass through."""
  batch, length = tokens_BxT.shape[0], cfg.chunk_length
  part = dataclasses.replace(cfg.decoder, document_mask=not cfg.decoder.mixer)
  tree = params['decoder']
  x_BxTxD = decoder.embed(tree, tokens_BxT, part)
  chunk = lambda a: a.reshape(batch, -1, length, *a.shape[2:]).swapaxes(0, 1)
  like = lambda v_D: jnp.broadcast_to(
      v_D.astype(x_BxTxD.dtype), (batch, 1, x_BxTxD.shape[-1])
  )
  ends = ((0, 0), (1, 1))

  def step(m_Bx1xD, xs):
    x_BxLxD, mask_BxL = xs
    window = jnp.concatenate([m_Bx1xD, x_BxLxD, like(params['write'])], axis=1)
    present = jnp.pad(mask_BxL, ends, constant_values=True)
    y_BxPxD, collected = stack.run(
        tree,
        window,
        part,
        mask=present,
        segment_ids=present.astype(jnp.int32),
        collect=collect,
    )
    written_BxD = decoder.final_norm(tree, y_BxPxD[:, -1], part)
    m_BxD = layers.call(
        embeddings.Pass(part, cfg.passage), params['passage'], written_BxD
    )
    m_BxD = layout.like_tokens(m_BxD, tree['embed']['tokens'], part)
    # A chunk of padding says nothing.
    there_B = mask_BxL.any(axis=1)
    new_Bx1xD = jnp.where(there_B[:, None, None], m_BxD[:, None], m_Bx1xD)
    return new_Bx1xD, (y_BxPxD[:, :-1], collected)

  _, (y_CxBxPxD, collected) = jax.lax.scan(
      step, like(params['slot']), (chunk(x_BxTxD), chunk(mask_BxT))
  )
  y_BxTxD = windows_lib.next_token_states(
      y_CxBxPxD.swapaxes(0, 1), length
  )
  if collected.hidden is not None:  # chunks are rows
    hidden_CxNxBxPxD = collected.hidden
    collected = collected._replace(
        hidden=hidden_CxNxBxPxD.transpose(1, 2, 0, 3, 4).reshape(
            hidden_CxNxBxPxD.shape[1], -1, *hidden_CxNxBxPxD.shape[3:]
        )
    )
  if collected.entropy is not None:
    # A chunk counts as much as it has windows that were measured.
    present_CxBxP = jnp.pad(
        chunk(mask_BxT), ((0, 0), *ends), constant_values=True
    )
    windows = entropy.windows(
        present_CxBxP.reshape(-1, present_CxBxP.shape[2]),
        part.entropy.patch_size,
    )
    measured_C = jnp.sum(
        (windows.sum(axis=-1) >= 2).reshape(present_CxBxP.shape[0], -1),
        axis=1,
        dtype=jnp.float32,
    )
    weight_C = measured_C / jnp.maximum(jnp.sum(measured_C), 1.0)
    collected = collected._replace(
        entropy=jnp.sum(weight_C[:, None] * collected.entropy, axis=0)
    )
  if collected.log_norm is not None:
    log_norm_N = jnp.mean(collected.log_norm, axis=0)
    collected = collected._replace(log_norm=log_norm_N)
  return outputs.Outputs(decoder.head(tree, y_BxTxD, part), *collected)
