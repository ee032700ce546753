"""The GPT family: `init` and `apply` over a plain dict of parameters.

Block parameters are stacked over layers under the one name `blocks`, whether
the loop over them is compiled as a scan or unrolled, so a parameter's path
does not depend on either.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.models import config as model_config
from iblm_jax.models import outputs
from iblm_jax.models.nn import blocks, layers, partition_specs, stack
from iblm_jax.models.nn.embedding_head import Embed, Head

Params = dict[str, Any]
DecoderConfig = model_config.DecoderConfig


def partitioned_init(rng: jax.Array, cfg: DecoderConfig) -> Params:
  """Makes parameters whose leaves still carry their logical axis names."""
  embed_rng, block_rng, head_rng = jax.random.split(rng, 3)
  tokens_BxL = jnp.zeros([1, 1], jnp.int32)
  x_BxLxD = jnp.zeros([1, 1, cfg.width], cfg.compute_dtype)
  table_VxD = jnp.zeros([cfg.vocab_size, cfg.width])
  values = jnp.zeros([1, 1, cfg.kv_heads, cfg.head_width], cfg.compute_dtype)

  def init_block(key):
    angles, _ = stack.angles(tokens_BxL, cfg)
    attend = lambda q, k, v: (q, None)
    return blocks.Block(cfg).init(
        key, x_BxLxD, x_BxLxD, angles, attend, values, True, None
    )

  embed, head = Embed(cfg), Head(cfg)
  stacked = jax.lax.map(init_block, jax.random.split(block_rng, cfg.num_layers))
  params = {
      'embed': embed.init(embed_rng, tokens_BxL, tokens_BxL)['params'],
      'blocks': nn.meta.add_axis(
          stacked['params'], 0, {nn.PARTITION_NAME: 'layers'}
      ),
      'head': head.init(head_rng, x_BxLxD, table_VxD).get('params', {}),
  }
  if cfg.unet_skips:
    ones = layers.annotated(nn.initializers.ones_init(), (None,))
    params['skip_weights'] = ones(rng, (cfg.num_layers // 2,), jnp.float32)
  return params


def init(rng: jax.Array, cfg: DecoderConfig) -> Params:
  """Makes fresh parameters.

  Returns:
    A nested dict of float32 arrays; leaves under 'blocks' have a leading axis
    of size num_layers.

  Example:
    >>> cfg = DecoderConfig(vocab_size=8, num_layers=2, width=16, num_heads=2)
    >>> params = jax.eval_shape(lambda key: init(key, cfg), jax.random.key(0))
    >>> params['blocks']['mlp']['up']['kernel'].shape
    (2, 16, 64)
  """
  return nn.meta.unbox(partitioned_init(rng, cfg))


def logical_axes(cfg: DecoderConfig) -> Any:
  """Gives the logical axis names of every parameter, as PartitionSpecs."""
  return partition_specs.logical_axes(partitioned_init, cfg)


def apply(
    params: Params,
    tokens_BxL: jax.Array,
    cfg: DecoderConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    collect: str | None = None,
) -> outputs.Outputs:
  """Computes the logits of the next token at every position.

  Args:
    params: From `init`.
    tokens_BxL: int [B, L] in [0, V).
    cfg: The model, static under jit.
    mask: bool [B, L], the valid tokens; others are left out of the entropy.
    segment_ids: int [B, L], the document of each token. Attention stays within
      a document if `cfg.document_mask`; entropy windows always do.
    positions: int [B, L], the position of each token in its document; by
      default 0 .. L - 1.
    collect: None, 'hidden' (the residual stream after every block), 'entropy'
      (only its entropy per layer: no layer's stream is kept for it) or
      'entropy_and_norm' (and the log of its norm).

  Returns:
    `Outputs`: logits[:, t] predict token t + 1.

  Raises:
    ValueError: Shapes do not fit, a sequence is longer than the learned
      positions, or `collect` is unknown.

  Example:
    >>> cfg = DecoderConfig(vocab_size=8, num_layers=2, width=16, num_heads=2)
    >>> def entropy_of_layers(key, tokens_BxL):
    ...   params = init(key, cfg)
    ...   return apply(params, tokens_BxL, cfg, collect='entropy').entropy
    >>> tokens_BxL = jnp.zeros([1, 16], jnp.int32)
    >>> jax.eval_shape(entropy_of_layers, jax.random.key(0), tokens_BxL).shape
    (2,)
  """
  options = dict(mask=mask, segment_ids=segment_ids, positions=positions)
  x_BxLxD, collected = _run(params, tokens_BxL, cfg, collect, **options)
  return outputs.Outputs(head(params, x_BxLxD, cfg), *collected)


def encode(
    params: Params,
    tokens_BxL: jax.Array,
    cfg: DecoderConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    collect: str | None = None,
) -> tuple[jax.Array, outputs.Collected]:
  """Computes what the head reads: the normalised residual stream.

  Args and errors are those of `apply`; an untied head's matrix is not needed.

  Returns:
    [B, L, D] in the compute dtype, and what was collected.
  """
  options = dict(mask=mask, segment_ids=segment_ids, positions=positions)
  x_BxLxD, collected = _run(params, tokens_BxL, cfg, collect, **options)
  return final_norm(params, x_BxLxD, cfg), collected


def _run(params, tokens_BxL, cfg, collect, **options):
  """The residual stream after the last block, and what was collected."""
  if tokens_BxL.ndim != 2:
    raise ValueError(
        f'tokens_BxL must have shape [B, L], got {tokens_BxL.shape}.'
    )
  for name, array in options.items():
    if array is not None and array.shape != tokens_BxL.shape:
      raise ValueError(
          f'{name} must have the shape of tokens_BxL {tokens_BxL.shape}, got'
          f' {array.shape}.'
      )
  if cfg.positions == 'learned' and tokens_BxL.shape[1] > cfg.max_length:
    raise ValueError(
        f'a sequence of {tokens_BxL.shape[1]} tokens is longer than max_length'
        f' {cfg.max_length}.'
    )
  x_BxLxD = embed(params, tokens_BxL, cfg, options['positions'])
  return stack.run(params, x_BxLxD, cfg, collect=collect, **options)


def embed(
    params: Params,
    tokens_BxL: jax.Array,
    cfg: DecoderConfig,
    positions: jax.Array | None = None,
) -> jax.Array:
  """Computes the residual stream before the first block, [B, L, D]."""
  if positions is None:
    positions = stack.default_positions(tokens_BxL)
  module = Embed(cfg)
  return layers.call(module, params['embed'], tokens_BxL, positions)


def final_norm(
    params: Params, x_BxLxD: jax.Array, cfg: DecoderConfig
) -> jax.Array:
  """Applies the norm of the head alone."""
  return layers.call(layers.Norm(cfg), params['head'].get('norm', {}), x_BxLxD)


def head(params: Params, x_BxLxD: jax.Array, cfg: DecoderConfig) -> jax.Array:
  """Computes the final norm and the logits, float32 [B, L, V]."""
  table_VxD = params['embed']['tokens'] if cfg.tie_embeddings else None
  return layers.call(Head(cfg), params['head'], x_BxLxD, table_VxD)
