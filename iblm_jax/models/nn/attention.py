"""Causal attention behind one function, with the best path per backend.

All paths compute the same thing: softmax over the keys that lie at or before
the query, within the window, in the same segment.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from iblm_jax.models import config as model_config
from iblm_jax.models.nn import splash

# Query rows per block of the CPU path: half the work of the full square, and
# one block's scores stay in cache.
_BLOCK = 64


def resolve(implementation: str, platform: str, dtype: jnp.dtype) -> str:
  """Turns 'auto' into the path for a platform ('cpu', 'gpu', 'cuda', 'tpu')."""
  if implementation != 'auto':
    return implementation
  if platform == 'cpu':
    return 'blocked'
  if platform == 'tpu':
    return 'splash'
  fused = platform in ('gpu', 'cuda') and dtype in (jnp.bfloat16, jnp.float16)
  return 'cudnn' if fused else 'xla'


def of_config(
    cfg: model_config.DecoderConfig, segment_ids_BxL: jax.Array | None
) -> Callable[..., jax.Array]:
  """Gives `causal_attention` as a model's options have it on this backend.

  Its fourth argument, a bool [], says whether the layer has no window; None
  where the config has all layers alike.
  """
  attend = functools.partial(
      causal_attention,
      segment_ids_BxL=segment_ids_BxL,
      softcap=cfg.attention_softcap,
      implementation=resolve(
          cfg.attention, jax.default_backend(), cfg.compute_dtype
      ),
  )
  near = functools.partial(attend, window=cfg.window)
  return lambda q, k, v, is_full: (
      near(q, k, v)
      if is_full is None
      else jax.lax.cond(is_full, attend, near, q, k, v)
  )


def allowed(
    query_positions: jax.Array,
    key_positions: jax.Array,
    window: int | None,
) -> jax.Array:
  """Says which keys a query may see by order: bool [..., queries, keys]."""
  distance = query_positions[..., :, None] - key_positions[..., None, :]
  mask = distance >= 0
  return mask if window is None else mask & (distance < window)


def causal_attention(
    q_BxLxHxK: jax.Array,
    k_BxLxHxK: jax.Array,
    v_BxLxHxK: jax.Array,
    *,
    segment_ids_BxL: jax.Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    implementation: str = 'xla',
) -> jax.Array:
  """Computes causal self-attention, within a window and documents if asked.

  Args:
    q_BxLxHxK: Queries [B, L, H, K], K the head width.
    k_BxLxHxK: Keys, of the same shape or with G heads, each for the H / G
      heads of queries that follow each other.
    v_BxLxHxK: Values, of the shape of the keys.
    segment_ids_BxL: int [B, L], the document of each token; None for one.
    window: Tokens a query may look back to, itself included; None for all.
    softcap: c of `c * tanh(scores / c)`; None for no cap.
    implementation: 'xla', 'blocked' (for CPUs), 'cudnn' (for GPUs; rows of an
      odd number of tokens that have documents take 'xla', and so do caps) or
      'splash' (for TPUs; rows that are no multiple of 128 tokens take 'xla').

  Returns:
    [B, L, H, K] in the dtype of the values; the softmax is in float32.

  Raises:
    ValueError: The implementation is unknown.

  Example:
    >>> x = jnp.ones([1, 3, 2, 4])
    >>> bool((causal_attention(x, x, x) == 1).all())
    True
  """
  if implementation == 'blocked':
    return _blocked(
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL, window, softcap
    )
  if implementation == 'splash':
    if q_BxLxHxK.shape[1] % splash.TILE == 0:
      return splash.causal_attention(
          q_BxLxHxK,
          k_BxLxHxK,
          v_BxLxHxK,
          segment_ids_BxL=segment_ids_BxL,
          window=window,
          softcap=softcap,
      )
    implementation = 'xla'
  if implementation not in ('xla', 'cudnn'):
    raise ValueError(
        "attention must be 'xla', 'blocked', 'cudnn' or 'splash' here, got"
        f' {implementation!r}.'
    )
  if softcap is not None:  # as one block: none of the others has a cap
    return _blocked(
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL, window, softcap,
        block=q_BxLxHxK.shape[1],
    )
  mask_Bx1xLxL = None
  if segment_ids_BxL is not None:
    if implementation == 'cudnn' and q_BxLxHxK.shape[1] % 2:
      implementation = 'xla'  # cuDNN has no gradient for such masks
    same_BxLxL = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    mask_Bx1xLxL = same_BxLxL[:, None]
  return jax.nn.dot_product_attention(
      q_BxLxHxK,
      k_BxLxHxK,
      v_BxLxHxK,
      mask=mask_Bx1xLxL,
      is_causal=True,
      local_window_size=None if window is None else (window - 1, 0),
      implementation=implementation,
  )


def masked_attention(
    q_BxHxTxK: jax.Array,
    k_BxHxSxK: jax.Array,
    v_BxHxSxK: jax.Array,
    mask_BxTxS: jax.Array,
    softcap: float | None = None,
) -> jax.Array:
  """Computes attention of T queries over S keys under an explicit mask.

  `mask_BxTxS` is bool and broadcastable; every query needs at least one key.
  Keys and values may have fewer heads, see `causal_attention`.

  Returns:
    [B, H, T, K] in the dtype of the values.
  """
  batch, heads, length, width = q_BxHxTxK.shape
  kv_heads = k_BxHxSxK.shape[1]
  if kv_heads < heads:  # queries of one head of keys are rows of one product
    grouped = masked_attention(
        q_BxHxTxK.reshape(batch, kv_heads, -1, width),
        k_BxHxSxK,
        v_BxHxSxK,
        jnp.tile(mask_BxTxS, (1, heads // kv_heads, 1)),
        softcap,
    )
    return grouped.reshape(batch, heads, length, width)
  scale = jnp.asarray(1.0 / math.sqrt(q_BxHxTxK.shape[-1]), q_BxHxTxK.dtype)
  scores_BxHxTxS = jnp.einsum(
      'bhtk,bhsk->bhts',
      q_BxHxTxK * scale,
      k_BxHxSxK,
      preferred_element_type=jnp.float32,
  )
  if softcap is not None:
    scores_BxHxTxS = softcap * jnp.tanh(scores_BxHxTxS / softcap)
  lowest = jnp.finfo(jnp.float32).min
  scores_BxHxTxS = jnp.where(mask_BxTxS[:, None], scores_BxHxTxS, lowest)
  top = jnp.max(scores_BxHxTxS, axis=-1, keepdims=True)
  weights_BxHxTxS = jnp.exp(scores_BxHxTxS - jax.lax.stop_gradient(top))
  total = jnp.sum(weights_BxHxTxS, axis=-1, keepdims=True)
  mixed_BxHxTxK = jnp.einsum(
      'bhts,bhsk->bhtk',
      weights_BxHxTxS.astype(v_BxHxSxK.dtype),
      v_BxHxSxK,
      preferred_element_type=jnp.float32,
  )
  # Divided after the product: K numbers a query instead of S.
  return (mixed_BxHxTxK / total).astype(v_BxHxSxK.dtype)


def heads_first(x_BxLxHxK: jax.Array) -> jax.Array:
  """Turns [B, L, H, K] into [B, H, L, K], and back."""
  return x_BxLxHxK.swapaxes(1, 2)


def _blocked(
    q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL, window, softcap,
    block=_BLOCK,
):
  """Blocks of queries, each against just the keys it may see."""
  q, k, v = map(heads_first, (q_BxLxHxK, k_BxLxHxK, v_BxLxHxK))
  length = q_BxLxHxK.shape[1]
  outputs = []
  for start in range(0, length, block):
    stop = min(start + block, length)
    first = 0 if window is None else max(0, start - window + 1)
    queries, keys = slice(start, stop), slice(first, stop)
    mask = allowed(jnp.arange(start, stop), jnp.arange(first, stop), window)
    mask_BxTxS = mask[None]
    if segment_ids_BxL is not None:
      mask_BxTxS &= (
          segment_ids_BxL[:, queries, None] == segment_ids_BxL[:, None, keys]
      )
    outputs.append(
        masked_attention(
            q[:, :, queries], k[:, :, keys], v[:, :, keys], mask_BxTxS, softcap
        )
    )
  return heads_first(jnp.concatenate(outputs, axis=2))
