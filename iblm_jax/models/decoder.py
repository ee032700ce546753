"""The GPT family: `init` and `apply` over a plain dict of parameters.

Block parameters are stacked over layers under the one name `blocks`, whether
the loop over them is compiled as a scan or unrolled, so a parameter's path
does not depend on either.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.information import entropy
from iblm_jax.models import attention, blocks, outputs
from iblm_jax.models import config as model_config

Params = dict[str, Any]
DecoderConfig = model_config.DecoderConfig

_POLICIES = {
    'none': None,
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Embed(nn.Module):
  """Token and, where asked for, learned position embeddings."""

  cfg: DecoderConfig

  @nn.compact
  def __call__(self, tokens_BxL, positions_BxL):
    """Returns the residual stream [B, L, D] before the first block."""
    cfg = self.cfg
    normal = nn.initializers.normal(0.02)
    table_VxD = self.param(
        'tokens',
        blocks.annotated(normal, ('vocab', 'embed')),
        (cfg.vocab_size, cfg.width),
        jnp.float32,
    )
    # Every device looks up all tokens of its `fsdp` group, in its columns of
    # the tables: what moves is tokens and activations, never a table.
    lookup = functools.partial(
        nn.with_logical_constraint, logical_axis_resources=('lookup', 'length')
    )
    x_BxLxD = jnp.take(table_VxD, lookup(tokens_BxL), axis=0)
    if cfg.positions == 'learned':
      positions_TxD = self.param(
          'positions',
          blocks.annotated(normal, ('length', 'embed')),
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
      x_BxLxD = blocks.rms_normalize(x_BxLxD)
    return nn.with_logical_constraint(
        x_BxLxD, ('batch', 'length', 'residual')
    )


class Head(nn.Module):
  """Final norm and the map to logits."""

  cfg: DecoderConfig

  @nn.compact
  def __call__(self, x_BxLxD, table_VxD):
    """Returns float32 logits [B, L, V]; the table is used when tied."""
    cfg = self.cfg
    x_BxLxD = blocks.Norm(cfg, name='norm')(x_BxLxD)
    if not cfg.tie_embeddings:
      scale = 0.0 if cfg.zero_init_outputs else 1.0
      table_VxD = self.param(
          'kernel',
          blocks.annotated(
              blocks.kernel_init(scale, (0,), (1,)), ('embed', 'vocab')
          ),
          (cfg.width, cfg.vocab_size),
          jnp.float32,
      ).T
    table_VxD = blocks.gathered(
        table_VxD.astype(cfg.compute_dtype), ('vocab', 'embed')
    )
    logits_BxLxV = jnp.einsum(
        'nd,vd->nv',
        x_BxLxD.reshape(-1, cfg.width),
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


def _boxed_init(rng: jax.Array, cfg: DecoderConfig) -> Params:
  """Parameters whose leaves still carry their logical axis names."""
  embed_rng, block_rng, head_rng = jax.random.split(rng, 3)
  tokens_BxL = jnp.zeros([1, 1], jnp.int32)
  x_BxLxD = jnp.zeros([1, 1, cfg.width], cfg.compute_dtype)
  table_VxD = jnp.zeros([cfg.vocab_size, cfg.width])
  values = jnp.zeros([1, 1, cfg.num_heads, cfg.head_width], cfg.compute_dtype)

  def init_block(key):
    angles = _angles(tokens_BxL, cfg)
    attend = lambda q, k, v: (v, None)
    return blocks.Block(cfg).init(
        key, x_BxLxD, x_BxLxD, angles, attend, values, True
    )

  stacked = jax.lax.map(init_block, jax.random.split(block_rng, cfg.num_layers))
  params = {
      'embed': Embed(cfg).init(embed_rng, tokens_BxL, tokens_BxL)['params'],
      'blocks': nn.meta.add_axis(
          stacked['params'], 0, {nn.PARTITION_NAME: 'layers'}
      ),
      'head': Head(cfg).init(head_rng, x_BxLxD, table_VxD).get('params', {}),
  }
  if cfg.unet_skips:
    ones = blocks.annotated(nn.initializers.ones_init(), (None,))
    params['skip_weights'] = ones(rng, (cfg.num_layers // 2,), jnp.float32)
  return params


def init(rng: jax.Array, cfg: DecoderConfig) -> Params:
  """Fresh parameters.

  Args:
    rng: a PRNG key.
    cfg: the model.

  Returns:
    A nested dict of float32 arrays; leaves under 'blocks' have a leading axis
    of size num_layers.

  Example:
    >>> cfg = DecoderConfig(vocab_size=8, num_layers=2, width=16, num_heads=2)
    >>> params = jax.eval_shape(lambda key: init(key, cfg), jax.random.key(0))
    >>> params['blocks']['mlp']['up']['kernel'].shape
    (2, 16, 64)
  """
  return nn.meta.unbox(_boxed_init(rng, cfg))


def logical_axes(cfg: DecoderConfig) -> Any:
  """Logical axis names of every parameter: `init`'s tree of PartitionSpecs."""
  boxed = jax.eval_shape(
      functools.partial(_boxed_init, cfg=cfg), jax.random.key(0)
  )
  return nn.get_partition_spec(boxed)


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
  """Logits of the next token at every position.

  Args:
    params: from `init`.
    tokens_BxL: int [B, L] in [0, V).
    cfg: the model, static under jit.
    mask: bool [B, L], the valid tokens; others are left out of the entropy.
    segment_ids: int [B, L], the document of each token. Attention stays within
      a document if `cfg.document_mask`; entropy windows always do.
    positions: int [B, L], position of each token in its document; by default
      0 .. L - 1.
    collect: None, 'hidden' (the residual stream after every block), 'entropy'
      (only its entropy per layer: no layer's stream is kept for it) or
      'entropy_and_norm' (and the log of its norm).

  Returns:
    `Outputs`: logits[:, t] predict token t + 1.

  Raises:
    ValueError: for shapes that do not fit, a sequence longer than learned
      positions, or an unknown `collect`.

  Example:
    >>> cfg = DecoderConfig(vocab_size=8, num_layers=2, width=16, num_heads=2)
    >>> def entropy_of_layers(key, tokens_BxL):
    ...   params = init(key, cfg)
    ...   return apply(params, tokens_BxL, cfg, collect='entropy').entropy
    >>> tokens_BxL = jnp.zeros([1, 16], jnp.int32)
    >>> jax.eval_shape(entropy_of_layers, jax.random.key(0), tokens_BxL).shape
    (2,)
  """
  _check(tokens_BxL, cfg, mask, segment_ids, positions, collect)
  implementation = attention.resolve(
      cfg.attention, jax.default_backend(), cfg.compute_dtype
  )

  def attend(q, k, v):
    mixed = attention.causal_attention(
        q,
        k,
        v,
        segment_ids_BxL=segment_ids if cfg.document_mask else None,
        window=cfg.window,
        implementation=implementation,
    )
    return mixed, None

  def measure(x_BxLxD):
    if collect is None:
      return outputs.Collected()
    if collect == 'hidden':
      return outputs.Collected(hidden=x_BxLxD)
    s = entropy.patch_entropy(
        x_BxLxD,
        patch_size=cfg.entropy.patch_size,
        alpha=cfg.entropy.alpha,
        mask=mask,
        segment_ids=segment_ids,
        center=cfg.entropy.center,
        normalize=cfg.entropy.normalize,
    )
    if collect == 'entropy':
      return outputs.Collected(entropy=s)
    return outputs.Collected(entropy=s, log_norm=_log_rms(x_BxLxD, mask))

  if positions is None:
    positions = jnp.broadcast_to(
        jnp.arange(tokens_BxL.shape[1])[None], tokens_BxL.shape
    )
  x_BxLxD = blocks.call(Embed(cfg), params['embed'], tokens_BxL, positions)
  x_BxLxD, collected, _ = run_blocks(
      params, x_BxLxD, cfg, _angles(positions, cfg), attend, measure
  )
  logits_BxLxV = head(params, x_BxLxD, cfg)
  return outputs.Outputs(logits_BxLxV, *collected)


def run_blocks(
    params: Params,
    x_BxLxD: jax.Array,
    cfg: DecoderConfig,
    angles: Any,
    attend: Callable[..., Any],
    measure: Callable[[jax.Array], Any],
    per_layer: Any = None,
) -> tuple[jax.Array, Any, Any]:
  """The loop over layers.

  Args:
    params: of the whole model.
    x_BxLxD: residual stream before the first block.
    cfg: the model.
    angles: of the rotary embedding, or None.
    attend: `(q, k, v, *layer) -> (mixed, extra)`, where `layer` is this layer's
      slice of `per_layer`.
    measure: what to keep of the residual stream after each block.
    per_layer: None or a tuple of arrays with a leading layer axis.

  Returns:
    The last residual stream, `measure`'s and `attend`'s extra results, stacked
    over layers.
  """

  embedded_BxLxD = x_BxLxD

  def block(layer_params, x_BxLxD, skip_BxLxD, first_v, is_first, layer):
    if skip_BxLxD is not None:
      x_BxLxD = x_BxLxD + skip_BxLxD
    bound = lambda q, k, v: attend(q, k, v, *(layer or ()))
    return blocks.call(
        blocks.Block(cfg),
        layer_params,
        x_BxLxD,
        embedded_BxLxD,
        angles,
        bound,
        first_v,
        is_first,
    )

  policy = _POLICIES[cfg.remat]
  if policy is not None:
    block = jax.checkpoint(block, policy=policy, prevent_cse=False)

  def step(keep_stream, carry, xs):
    x_BxLxD, first_v = carry
    layer_params, is_first, layer, skip = xs
    if skip is not None:
      skip_weight, skip_BxLxD = skip
      skip = skip_weight.astype(x_BxLxD.dtype) * skip_BxLxD
    x_BxLxD, first_v, extra = block(
        layer_params, x_BxLxD, skip, first_v, is_first, layer
    )
    kept = x_BxLxD if keep_stream else None
    measured = measure(x_BxLxD)
    if cfg.entropy.uses_eigenvalues and not cfg.scan_layers:
      # LAPACK calls of two layers that overlap can wait for each other's
      # threads for ever on a CPU with few of them.
      x_BxLxD, measured = jax.lax.optimization_barrier((x_BxLxD, measured))
    return (x_BxLxD, first_v), (measured, extra, kept)

  def scan(keep_stream, carry, xs) -> Any:
    return jax.lax.scan(
        functools.partial(step, keep_stream),
        carry,
        xs,
        unroll=1 if cfg.scan_layers else True,
    )

  first_v = None
  if cfg.value_residual:
    shape = (*x_BxLxD.shape[:2], cfg.num_heads, cfg.head_width)
    first_v = jnp.zeros(shape, cfg.compute_dtype)
  carry = (x_BxLxD, first_v)
  is_first_N = jnp.arange(cfg.num_layers) == 0
  xs = (params['blocks'], is_first_N, per_layer)
  if not cfg.unet_skips:
    carry, (measured, extra, _) = scan(False, carry, (*xs, None))
    return carry[0], measured, extra

  half = cfg.num_layers // 2
  lower = jax.tree.map(lambda a: a[:half], xs)
  upper = jax.tree.map(lambda a: a[half:], xs)
  carry, (measured, extra, streams) = scan(True, carry, (*lower, None))
  skips = (params['skip_weights'], streams[::-1])
  carry, (measured_, extra_, _) = scan(False, carry, (*upper, skips))
  join = lambda a, b: jnp.concatenate([a, b])
  return (
      carry[0],
      jax.tree.map(join, measured, measured_),
      jax.tree.map(join, extra, extra_),
  )


def head(params: Params, x_BxLxD: jax.Array, cfg: DecoderConfig) -> jax.Array:
  """Final norm and logits, float32 [B, L, V]."""
  return blocks.call(
      Head(cfg), params['head'], x_BxLxD, params['embed']['tokens']
  )


def _log_rms(x_BxLxD, mask):
  """Log of the root mean square entry of the valid tokens."""
  x_BxLxD = x_BxLxD.astype(jnp.float32)
  count = x_BxLxD.size
  if mask is not None:
    x_BxLxD = jnp.where(mask[..., None], x_BxLxD, 0.0)
    count = x_BxLxD.shape[-1] * jnp.maximum(jnp.sum(mask), 1)
  square = jnp.sum(x_BxLxD * x_BxLxD) / count
  return 0.5 * jnp.log(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))


def _angles(positions_BxL, cfg):
  if cfg.positions != 'rotary':
    return None
  return blocks.rotary_angles(positions_BxL, cfg.head_width, cfg.rotary_base)


def _check(tokens_BxL, cfg, mask, segment_ids, positions, collect):
  if tokens_BxL.ndim != 2:
    raise ValueError(
        f'tokens_BxL must have shape [B, L], got {tokens_BxL.shape}.'
    )
  for name, array in (
      ('mask', mask), ('segment_ids', segment_ids), ('positions', positions)
  ):
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
  if collect not in outputs.COLLECT:
    raise ValueError(
        f'collect must be one of {outputs.COLLECT}, got {collect!r}.'
    )
