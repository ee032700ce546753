"""Embedding and head: tokens to the residual stream, and that to logits."""

import functools

import einops
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.models import config as model_config
from iblm_jax.models.nn import layers


class Embed(nn.Module):
  """Token and, where asked for, learned position embeddings."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(self, tokens_BxL, positions_BxL):
    """Returns the residual stream [B, L, D] before the first block."""
    cfg = self.cfg
    normal = nn.initializers.normal(0.02)
    table_VxD = self.param(
        'tokens',
        layers.annotated(normal, ('vocab', 'embed')),
        (cfg.vocab_size, cfg.width),
        jnp.float32,
    )
    # Every device looks up all tokens of its `fsdp` group, in its columns of
    # the tables: what moves is tokens and activations, never a table.
    lookup = functools.partial(
        nn.with_logical_constraint, logical_axis_resources=('lookup', 'length')
    )
    x_BxLxD = jnp.take(table_VxD, lookup(tokens_BxL), axis=0)
    if cfg.embedding_scale != 1.0:
      x_BxLxD = x_BxLxD * cfg.embedding_scale
    if cfg.positions == 'learned':
      positions_TxD = self.param(
          'positions',
          layers.annotated(normal, ('length', 'embed')),
          (cfg.max_length, cfg.width),
          jnp.float32,
      )
      x_BxLxD = x_BxLxD + jnp.take(
          positions_TxD, lookup(positions_BxL), axis=0
      )
    x_BxLxD = nn.with_logical_constraint(
        x_BxLxD, ('lookup', 'length', 'embed')
    )
    x_BxLxD = nn.with_logical_constraint(
        x_BxLxD, ('batch', 'length', 'residual')
    )
    x_BxLxD = x_BxLxD.astype(cfg.compute_dtype)
    if cfg.embedding_norm:
      x_BxLxD = layers.rms_normalize(x_BxLxD)
    return nn.with_logical_constraint(
        x_BxLxD, ('batch', 'length', 'residual')
    )


class Head(nn.Module):
  """Final norm and the map to logits."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(self, x_BxLxD, table_VxD):
    """Returns float32 logits [B, L, V]; the table is used when tied."""
    cfg = self.cfg
    x_BxLxD = layers.Norm(cfg, name='norm')(x_BxLxD)
    if not cfg.tie_embeddings:
      scale = 0.0 if cfg.zero_init_outputs else 1.0
      table_VxD = self.param(
          'kernel',
          layers.annotated(
              layers.kernel_init(scale, (0,), (1,)), ('embed', 'vocab')
          ),
          (cfg.width, cfg.vocab_size),
          jnp.float32,
      ).T
    table_VxD = layers.gathered(
        table_VxD.astype(cfg.compute_dtype), ('vocab', 'embed')
    )
    logits_BxLxV = jnp.einsum(
        'nd,vd->nv',
        einops.rearrange(x_BxLxD, 'b l d -> (b l) d'),
        table_VxD,
        preferred_element_type=jnp.float32,
    ).reshape(*x_BxLxD.shape[:2], cfg.vocab_size)
    if cfg.logit_softcap is not None:
      logits_BxLxV = cfg.logit_softcap * jnp.tanh(
          logits_BxLxV / cfg.logit_softcap
      )
    return nn.with_logical_constraint(
        logits_BxLxV, ('batch', 'length', 'vocab')
    )
