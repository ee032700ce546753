"""The loop over blocks: from embedded inputs to the last residual stream."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.models import config as model_config
from iblm_jax.models import outputs
from iblm_jax.models.nn import attention, blocks, layers

_POLICIES = {
    'none': None,
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def run(
    params: Any,
    x_BxLxD: jax.Array,
    cfg: model_config.DecoderConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    collect: str | None = None,
) -> tuple[jax.Array, outputs.Collected]:
  """Runs all blocks over whole sequences.

  Args:
    params: With 'blocks'.
    x_BxLxD: Embedded inputs, compute dtype.
    cfg: The model.
    mask: bool [B, L], the valid positions: others are left out of the entropy,
      and a mixer does not mix them in.
    segment_ids: int [B, L]; attention stays within a segment if
      `cfg.document_mask`, entropy windows always do. None for one.
    positions: int [B, L], by default 0 .. L - 1.
    collect: See `decoder.apply`.

  Returns:
    The residual stream after the last block, and what was collected.

  Raises:
    ValueError: `collect` is unknown.
  """
  outputs.check_collect(collect)
  mix = attention.of_config(cfg, segment_ids if cfg.document_mask else None)
  attend = lambda q, k, v, is_full: (mix(q, k, v, is_full), None)

  def measure(x_BxLxD):
    return outputs.measure(
        x_BxLxD, collect, cfg.entropy, mask=mask, segment_ids=segment_ids
    )

  if positions is None:
    positions = default_positions(x_BxLxD)
  x_BxLxD, collected, _ = run_blocks(
      params,
      x_BxLxD,
      cfg,
      angles(positions, cfg),
      attend,
      measure,
      present_BxL=mask,
  )
  return x_BxLxD, collected


def default_positions(x_BxL: jax.Array) -> jax.Array:
  """Gives 0 .. L - 1 in every row, int32 [B, L]."""
  shape = x_BxL.shape[:2]
  return jnp.broadcast_to(jnp.arange(shape[1])[None], shape)


def run_blocks(
    params: Any,
    x_BxLxD: jax.Array,
    cfg: model_config.DecoderConfig,
    angles: Any,
    attend: Callable[..., Any],
    measure: Callable[[jax.Array], Any],
    per_layer: Any = None,
    present_BxL: jax.Array | None = None,
) -> tuple[jax.Array, Any, Any]:
  """Loops over layers.

  Args:
    params: Of the whole model; 'blocks' may be a list of layers.
    x_BxLxD: The residual stream before the first block.
    cfg: The model.
    angles: From `angles`.
    attend: `(q, k, v, is_full, *layer) -> (mixed, extra)`, where `layer` is
      this layer's slice of `per_layer`, and `is_full` says whether it has no
      window (None where all layers are alike).
    measure: What to keep of the residual stream after each block.
    per_layer: None, a tuple of arrays with a leading layer axis, or a list of
      tuples, one a layer.
    present_BxL: bool [B, L], positions that a mixer mixes in; None for all.

  Returns:
    The last residual stream, `measure`'s and `attend`'s extra results, stacked
    over layers. With a list of layers or of what they get, layers are not
    looped over and `attend`'s results are a list: to cut a stack into layers
    and to build one are copies.
  """

  embedded_BxLxD = x_BxLxD
  angles, near_angles = angles

  def block(layer_params, x_BxLxD, skip_BxLxD, first_v, place, layer):
    is_first, is_full = place
    if skip_BxLxD is not None:
      x_BxLxD = x_BxLxD + skip_BxLxD
    bound = lambda q, k, v: attend(q, k, v, is_full, *(layer or ()))
    turned = angles
    if near_angles is not None:
      choose = functools.partial(jnp.where, is_full)
      turned = jax.tree.map(choose, angles, near_angles)
    return layers.call(
        blocks.Block(cfg),
        layer_params,
        x_BxLxD,
        embedded_BxLxD,
        turned,
        bound,
        first_v,
        is_first,
        present_BxL,
    )

  policy = _POLICIES[cfg.remat]
  if policy is not None:
    block = jax.checkpoint(block, policy=policy, prevent_cse=False)

  def step(keep_stream, carry, xs):
    x_BxLxD, first_v = carry
    layer_params, place, layer, skip = xs
    if skip is not None:
      skip_weight, skip_BxLxD = skip
      skip = skip_weight.astype(x_BxLxD.dtype) * skip_BxLxD
    x_BxLxD, first_v, extra = block(
        layer_params, x_BxLxD, skip, first_v, place, layer
    )
    kept = x_BxLxD if keep_stream else None
    measured = measure(x_BxLxD)
    if cfg.entropy.uses_eigenvalues and not cfg.scan_layers:
      # LAPACK calls of two layers that overlap can wait for each other's
      # threads for ever on a CPU with few of them.
      x_BxLxD, measured = jax.lax.optimization_barrier((x_BxLxD, measured))
    return (x_BxLxD, first_v), (measured, extra, kept)

  def at(xs, index):
    return jax.tree.map(lambda a: a[index], xs, is_leaf=_is_list)

  def scan(keep_stream, carry, xs) -> Any:
    body = functools.partial(step, keep_stream)
    if not any(map(_is_list, xs)):
      unroll = 1 if cfg.scan_layers else True
      return jax.lax.scan(body, carry, xs, unroll=unroll)
    ys = []
    for n in range(xs[1][0].size):
      carry, y = body(carry, at(xs, n))
      ys.append(y)
    measured, extra, kept = zip(*ys, strict=True)
    stacked = lambda trees: jax.tree.map(lambda *a: jnp.stack(a), *trees)
    return carry, (stacked(measured), list(extra), stacked(kept))

  first_v = None
  if cfg.value_residual:
    shape = (*x_BxLxD.shape[:2], cfg.kv_heads, cfg.head_width)
    first_v = jnp.zeros(shape, cfg.compute_dtype)
  carry = (x_BxLxD, first_v)
  order = np.arange(1, cfg.num_layers + 1)
  is_first_N = jnp.arange(cfg.num_layers) == 0
  is_full_N = None if cfg.full_every is None else order % cfg.full_every == 0
  xs = (params['blocks'], (is_first_N, is_full_N), per_layer)
  if not cfg.unet_skips:
    carry, (measured, extra, _) = scan(False, carry, (*xs, None))
    return carry[0], measured, extra

  half = cfg.num_layers // 2
  lower, upper = at(xs, slice(half)), at(xs, slice(half, None))
  carry, (measured, extra, streams) = scan(True, carry, (*lower, None))
  skips = (params['skip_weights'], streams[::-1])
  carry, (measured_, extra_, _) = scan(False, carry, (*upper, skips))
  join = lambda a, b: (
      a + b if isinstance(a, list) else jnp.concatenate([a, b])
  )
  joined = functools.partial(jax.tree.map, join, is_leaf=_is_list)
  return carry[0], joined(measured, measured_), joined(extra, extra_)


def _is_list(x):
  return isinstance(x, list)


def angles(positions_BxL: jax.Array, cfg: model_config.DecoderConfig):
  """Gives cosine and sine of the rotary embedding, None for others.

  The second pair is of layers with a window, None where they have the same.
  """
  if cfg.positions != 'rotary':
    return None, None
  of_base = functools.partial(
      blocks.rotary_angles, positions_BxL, cfg.rotary_width
  )
  near = cfg.window_rotary_base
  return (
      of_base(cfg.rotary_base, cfg.rotary_scaling),
      None if near is None else of_base(near),
  )
