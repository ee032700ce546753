"""A memory that is handed from chunk to chunk: the recurrent baseline.

One decoder reads `[memory, tokens, write]`; its state at the last position
becomes the memory of the next chunk. The public code overwrites the last
token's embedding with the memory; here no token is lost for it, and the
memory's own state predicts the first token of the chunk.
"""

from typing import Any

import einops
import jax
import jax.numpy as jnp

from iblm_jax.information import entropy
from iblm_jax.models import decoder, outputs
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import layout
from iblm_jax.models.memory import windows as windows_lib
from iblm_jax.models.nn import stack


def apply(
    params: Any,
    tokens_BxT: jax.Array,
    cfg: memory_config.MemoryConfig,
    mask_BxT: jax.Array,
    collect: str | None,
) -> outputs.Outputs:
  """See `memory.apply`; chunks follow each other, gradients pass through."""
  batch, length = tokens_BxT.shape[0], cfg.chunk_length
  part, tree = cfg.reader, params['decoder']
  x_BxTxD = decoder.embed(tree, tokens_BxT, part)
  chunk = lambda a: einops.rearrange(a, 'b (c l) ... -> c b l ...', l=length)
  like = lambda v_D: jnp.broadcast_to(
      v_D.astype(x_BxTxD.dtype), (batch, 1, x_BxTxD.shape[-1])
  )
  around = ((0, 0), (1, 1))  # the memory that is read, and what is written

  def step(m_Bx1xD, xs):
    x_BxLxD, mask_BxL = xs
    window = jnp.concatenate([m_Bx1xD, x_BxLxD, like(params['write'])], axis=1)
    present = jnp.pad(mask_BxL, around, constant_values=True)
    y_BxPxD, collected = stack.run(
        tree,
        window,
        part,
        mask=present,
        segment_ids=present.astype(jnp.int32),
        collect=collect,
    )
    written_BxD = decoder.final_norm(tree, y_BxPxD[:, -1], part)
    m_BxD = layout.as_memory(params, written_BxD, cfg)
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
    collected = collected._replace(
        hidden=einops.rearrange(
            collected.hidden, 'c n b p d -> n (b c) p d'
        )
    )
  if collected.entropy is not None:
    # A chunk counts as much as it has windows that were measured.
    present_CxBxP = jnp.pad(
        chunk(mask_BxT), ((0, 0), *around), constant_values=True
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
