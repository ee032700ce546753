"""Memory models: chunks of a row, each seeing the past as few vectors.

`init` and `apply` of all kinds; here are the parallel one and the one without
memories. Chunks are encoded on their own, so all past chunks of all rows are
one batch for the encoder, and all windows are one for the decoder.
"""

from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.models import decoder, outputs
from iblm_jax.models.memory import config as memory_config
from iblm_jax.models.memory import layout, oracle, recurrent
from iblm_jax.models.memory import windows as windows_lib
from iblm_jax.models.nn import embeddings, layers, stack

MemoryConfig = memory_config.MemoryConfig


def partitioned_init(rng: jax.Array, cfg: MemoryConfig) -> Any:
  """Makes parameters whose leaves still carry their logical axis names."""
  encoder_rng, decoder_rng, passage_rng, slot_rng = jax.random.split(rng, 4)
  params: dict[str, Any]
  if cfg.kind == 'oracle_embedding':
    params = {'decoder': oracle.partitioned_decoder(decoder_rng, cfg)}
  else:
    params = {'decoder': decoder.partitioned_init(decoder_rng, cfg.decoder)}
  if cfg.has_encoder:
    params['encoder'] = decoder.partitioned_init(encoder_rng, cfg.encoder)
  if cfg.kind != 'none':
    m_BxE = jnp.zeros([1, cfg.passage.width_in], cfg.decoder.compute_dtype)
    made = embeddings.Pass(cfg.decoder, cfg.passage).init(passage_rng, m_BxE)
    params['passage'] = made.get('params', {})
  if not cfg.is_oracle:
    # As long as a token's embedding: it is read like one.
    scale = 1.0 if cfg.decoder.embedding_norm else 0.02
    vector = layers.annotated(nn.initializers.normal(scale), ('embed',))
    params['slot'] = vector(slot_rng, (cfg.decoder.width,), jnp.float32)
    if cfg.kind == 'recurrent':
      rng = jax.random.fold_in(slot_rng, 1)
      params['write'] = vector(rng, (cfg.decoder.width,), jnp.float32)
  return params


def init(rng: jax.Array, cfg: MemoryConfig) -> Any:
  """Makes parameters: 'encoder', 'passage', 'slot' and 'decoder'.

  'encoder' and 'decoder' are as of `models.decoder`. What a kind does not use
  is left out.
  """
  return nn.meta.unbox(partitioned_init(rng, cfg))


def apply(
    params: Any,
    tokens_BxL: jax.Array,
    cfg: MemoryConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    collect: str | None = None,
) -> outputs.Outputs:
  """Computes the logits of the next token at every position.

  Args:
    params: From `init`.
    tokens_BxL: int [B, T], T = num_chunks x chunk_length.
    cfg: The model, static under jit.
    mask: bool [B, T], the valid tokens; others are not read, and a chunk of
      padding leaves no memory.
    segment_ids: Not used: a row is one document.
    positions: Not used, likewise.
    collect: See `decoder.apply`; of the encoder, over the chunks that it reads
      [N, B (C - 1), L, E]; of the decoder where there is none.

  Returns:
    `Outputs`: logits[:, t] predict token t + 1; that of a chunk's first token
    is the slot's before it, so it sees the past through memories alone.

  Raises:
    ValueError: Rows have another length, the mask has another shape, or
      `collect` is unknown.

  Example:
    >>> from iblm_jax.models import config as model_config
    >>> part = model_config.llama(8, width=16, tie_embeddings=True)
    >>> cfg = MemoryConfig(part, part, num_chunks=3, chunk_length=4)
    >>> tokens_BxT = jnp.zeros([2, 12], jnp.int32)
    >>> run = lambda key: apply(init(key, cfg), tokens_BxT, cfg).logits_BxLxV
    >>> jax.eval_shape(run, jax.random.key(0)).shape
    (2, 12, 8)

  References:
    arXiv 2602.13466.
  """
  del segment_ids, positions
  if tokens_BxL.shape[1:] != (cfg.length,):
    raise ValueError(
        f'tokens_BxL must have shape [B, {cfg.length}], got'
        f' {tokens_BxL.shape}.'
    )
  if mask is None:
    mask = jnp.ones(tokens_BxL.shape, bool)
  if mask.shape != tokens_BxL.shape:
    raise ValueError(
        f'mask must have the shape of tokens_BxL {tokens_BxL.shape}, got'
        f' {mask.shape}.'
    )
  if cfg.is_oracle:
    return oracle.apply(params, tokens_BxL, cfg, mask, collect)
  if cfg.kind == 'recurrent':
    return recurrent.apply(params, tokens_BxL, cfg, mask, collect)
  if cfg.kind == 'none':
    return decode(params, tokens_BxL, None, cfg, mask, collect)
  past = (cfg.num_chunks - 1) * cfg.chunk_length
  past_held = layout.encode_chunks(
      params, tokens_BxL[:, :past], cfg, mask[:, :past], collect
  )
  return decode(params, tokens_BxL, past_held, cfg, mask)


def decode(
    params: Any,
    tokens_BxT: jax.Array,
    held: layout.Memories | None,
    cfg: MemoryConfig,
    mask_BxT: jax.Array | None = None,
    collect: str | None = None,
) -> outputs.Outputs:
  """Computes the logits of next tokens, given memories of the past chunks.

  Args:
    params: Of the model; 'decoder' and 'slot'.
    tokens_BxT: int [B, T].
    held: Memories of all chunks but the last; None for none.
    cfg: The model.
    mask_BxT: bool, the valid tokens; None for all.
    collect: What to collect of the decoder, where there are no memories.

  Returns:
    `Outputs`; what was collected is the encoder's, where there is one.
  """
  length, part = cfg.chunk_length, cfg.reader
  if mask_BxT is None:
    mask_BxT = jnp.ones(tokens_BxT.shape, bool)
  x_BxTxD = decoder.embed(
      params['decoder'], tokens_BxT, windows_lib.token_embedding(cfg)
  )
  windows = windows_lib.lay_out(
      None if held is None else held.vector_BxMxD,
      None if held is None else held.there_BxM,
      params['slot'],
      einops.rearrange(x_BxTxD, 'b (c l) d -> b c l d', l=length),
      einops.rearrange(mask_BxT, 'b (c l) -> b c l', l=length),
      cfg,
  )
  y_WxPxD, collected = stack.run(
      params['decoder'],
      windows_lib.placed(params, windows.x_WxPxD, cfg),
      part,
      mask=windows.present_WxP,
      segment_ids=windows.present_WxP.astype(jnp.int32),
      positions=windows.positions_WxP,
      collect=collect,
  )
  y_BxCxPxD = einops.rearrange(
      y_WxPxD, '(b c) p d -> b c p d', c=cfg.num_chunks
  )
  y_BxTxD = windows_lib.next_token_states(y_BxCxPxD, length)
  logits_BxTxV = decoder.head(params['decoder'], y_BxTxD, part)
  return outputs.Outputs(
      logits_BxTxV, *(collected if held is None else held.collected)
  )
