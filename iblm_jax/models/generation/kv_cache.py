"""Keys and values of what a decoder has read, to read on from there.

Those of every layer are arrays of their own, heads first: a slice of a stack of
them, what a loop over layers stacks again, and a transposition are copies of
all that is held, for every token.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.models import config as model_config
from iblm_jax.models.nn import attention, stack


class Cache(NamedTuple):
  """Keys and values of the inputs so far; S slots."""

  k_BxHxSxK: tuple[jax.Array, ...]  # of every layer, compute dtype
  v_BxHxSxK: tuple[jax.Array, ...]  # of every layer, compute dtype
  length: jax.Array  # int32 scalar, slots in use


def init_cache(
    cfg: model_config.DecoderConfig, batch_size: int, size: int
) -> Cache:
  """Makes an empty cache for `size` tokens in each of `batch_size` rows.

  Raises:
    ValueError: The model is a mixer, which has no keys and values to keep.

  Example:
    >>> cfg = model_config.DecoderConfig(8, num_layers=2, width=8, num_heads=1)
    >>> cache = init_cache(cfg, batch_size=3, size=4)
    >>> [k.shape for k in cache.k_BxHxSxK]
    [(3, 1, 4, 8), (3, 1, 4, 8)]
  """
  _check(cfg)
  shape = (batch_size, cfg.kv_heads, size, cfg.head_width)
  # Arrays of their own, so that they can be given away.
  make = lambda: tuple(
      jnp.zeros(shape, cfg.compute_dtype) for _ in range(cfg.num_layers)
  )
  return Cache(make(), make(), jnp.zeros([], jnp.int32))


def layers_apart(params: Any) -> Any:
  """Cuts a decoder's blocks into a list of layers, for many tokens.

  Everything here takes either form. A loop over tokens would cut the layers
  from their stack, a copy of them all, for every token.
  """
  stacked = params['blocks']
  num_layers = jax.tree.leaves(stacked)[0].shape[0]
  layer = lambda n: jax.tree.map(lambda a: a[n], stacked)
  return {**params, 'blocks': [layer(n) for n in range(num_layers)]}


def prefill(
    params: Any,
    x_BxTxD: jax.Array,
    cfg: model_config.DecoderConfig,
    size: int,
    *,
    visible_T: jax.Array | None = None,
    positions_T: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
  """Feeds the first T inputs, at the cost of a forward pass.

  Args:
    params: Of the decoder.
    x_BxTxD: Embedded inputs, compute dtype.
    cfg: The model.
    size: Slots of the new cache, at least T.
    visible_T: bool, inputs that the visible ones may see; None for all. What
      others see, and so what comes out at them, is of no use.
    positions_T: int, of the rotary embedding; None for 0 .. T - 1.

  Returns:
    The last residual stream [B, T, D] and the cache.

  Raises:
    ValueError: There are more inputs than slots, or a mixer.
  """
  _check(cfg)
  batch, length, _ = x_BxTxD.shape
  if length > size:
    raise ValueError(f'size must be at least {length} inputs, got {size}.')
  segment_ids = None
  if visible_T is not None:
    segment_ids = jnp.broadcast_to(
        visible_T.astype(jnp.int32)[None], (batch, length)
    )
  heads_first = attention.heads_first

  mix = attention.of_config(cfg, segment_ids)
  def attend(q, k, v, is_full):
    return mix(q, k, v, is_full), (heads_first(k), heads_first(v))

  if positions_T is None:
    positions_T = jnp.arange(length)
  x_BxTxD, kept = _run(params, x_BxTxD, cfg, positions_T, attend, None)
  if not isinstance(kept, list):
    kept = [(kept[0][n], kept[1][n]) for n in range(cfg.num_layers)]
  room = ((0, 0), (0, 0), (0, size - length), (0, 0))
  k, v = zip(*jax.tree.map(lambda a: jnp.pad(a, room), kept), strict=True)
  return x_BxTxD, Cache(k, v, jnp.full([], length, jnp.int32))


def extend(
    params: Any,
    x_BxTxD: jax.Array,
    cache: Cache,
    cfg: model_config.DecoderConfig,
    *,
    visible_S: jax.Array | None = None,
    positions_T: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
  """Feeds T more inputs.

  Args:
    params: Of the decoder.
    x_BxTxD: Embedded inputs, compute dtype.
    cache: Keys and values so far; `cache.length + T` must not exceed its size.
    cfg: The model.
    visible_S: bool, slots that anything but the slot itself may see; None for
      all.
    positions_T: int, of the rotary embedding; None for those of the slots.

  Returns:
    The last residual stream [B, T, D] and the longer cache.

  Raises:
    ValueError: The model is a mixer.
  """
  _check(cfg)
  num_new = x_BxTxD.shape[1]
  slots_S = jnp.arange(cache.k_BxHxSxK[0].shape[2])
  slots_T = cache.length + jnp.arange(num_new)
  heads_first = attention.heads_first

  def seen(window):
    mask_TxS = attention.allowed(slots_T, slots_S, window)
    if visible_S is not None:
      mask_TxS &= visible_S[None] | (slots_T[:, None] == slots_S[None])
    return mask_TxS[None]

  near_1xTxS, all_1xTxS = seen(cfg.window), seen(None)

  def attend(q, k, v, is_full, k_BxHxSxK, v_BxHxSxK):
    mask_1xTxS = near_1xTxS
    if is_full is not None:
      mask_1xTxS = jnp.where(is_full, all_1xTxS, near_1xTxS)
    # Written first: nothing reads what was there, so it is done in place.
    write = functools.partial(
        jax.lax.dynamic_update_slice_in_dim,
        start_index=cache.length,
        axis=2,
    )
    k_BxHxSxK = write(k_BxHxSxK, heads_first(k))
    v_BxHxSxK = write(v_BxHxSxK, heads_first(v))
    mixed = attention.masked_attention(
        heads_first(q),
        k_BxHxSxK,
        v_BxHxSxK,
        mask_1xTxS,
        cfg.attention_softcap,
    )
    return heads_first(mixed), (k_BxHxSxK, v_BxHxSxK)

  if positions_T is None:
    positions_T = slots_T
  held = list(zip(cache.k_BxHxSxK, cache.v_BxHxSxK, strict=True))
  x_BxTxD, held = _run(params, x_BxTxD, cfg, positions_T, attend, held)
  k, v = zip(*held, strict=True)
  return x_BxTxD, Cache(k, v, cache.length + num_new)


def _run(params, x_BxTxD, cfg, positions_T, attend, per_layer):
  positions_BxT = jnp.broadcast_to(positions_T[None], x_BxTxD.shape[:2])
  x_BxTxD, _, kept = stack.run_blocks(
      params,
      x_BxTxD,
      cfg,
      stack.angles(positions_BxT, cfg),
      attend,
      measure=lambda _: None,
      per_layer=per_layer,
  )
  return x_BxTxD, kept


def _check(cfg):
  if cfg.mixer is not None:
    raise ValueError(
        'a cache is for attention; a mixer has no keys and values, got'
        f' mixer={cfg.mixer}.'
    )
