"""Causal attention behind one function, with the best path per backend.

All paths compute the same thing: softmax over the keys that lie at or before
the query, within the window, in the same segment.
"""

import math

import jax
import jax.numpy as jnp

# Query rows per block of the CPU path: half the work of the full square, and
# one block's scores stay in cache.
_BLOCK = 64


def resolve(implementation: str, platform: str, dtype: jnp.dtype) -> str:
  """Turns 'auto' into the path for a platform ('cpu', 'gpu', 'cuda', 'tpu')."""
  if implementation != 'auto':
    return implementation
  if platform == 'cpu':
    return 'blocked'
  fused = platform in ('gpu', 'cuda') and dtype in (jnp.bfloat16, jnp.float16)
  return 'cudnn' if fused else 'xla'


def allowed(
    query_positions: jax.Array,
    key_positions: jax.Array,
    window: int | None,
) -> jax.Array:
  """Which keys a query may see by order alone: bool [..., queries, keys]."""
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
    implementation: str = 'xla',
) -> jax.Array:
  """Causal self-attention, optionally windowed and within documents.

  Args:
    q_BxLxHxK: queries [B, L, H, K], K the head width.
    k_BxLxHxK: keys, the same shape.
    v_BxLxHxK: values, the same shape.
    segment_ids_BxL: int [B, L], the document of each token; None for one.
    window: tokens a query may look back to, itself included; None for all.
    implementation: 'xla', 'blocked' or 'cudnn'.

  Returns:
    [B, L, H, K] in the dtype of the values; the softmax is in float32.

  Raises:
    ValueError: for an unknown implementation.

  Example:
    >>> x = jnp.ones([1, 3, 2, 4])
    >>> bool((causal_attention(x, x, x) == 1).all())
    True
  """
  if implementation == 'blocked':
    return _blocked(q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL, window)
  if implementation not in ('xla', 'cudnn'):
    raise ValueError(
        "attention must be 'xla', 'blocked' or 'cudnn' here, got"
        f' {implementation!r}.'
    )
  mask_Bx1xLxL = None
  if segment_ids_BxL is not None:
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
    q_BxTxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    mask_BxTxS: jax.Array,
) -> jax.Array:
  """Attention of T queries over S keys under an explicit mask.

  Args:
    q_BxTxHxK: queries.
    k_BxSxHxK: keys.
    v_BxSxHxK: values.
    mask_BxTxS: bool, broadcastable; every query needs at least one key.

  Returns:
    [B, T, H, K] in the dtype of the values.
  """
  scale = 1.0 / math.sqrt(q_BxTxHxK.shape[-1])
  scores_BxHxTxS = jnp.einsum(
      'bthk,bshk->bhts',
      q_BxTxHxK * jnp.asarray(scale, q_BxTxHxK.dtype),
      k_BxSxHxK,
      preferred_element_type=jnp.float32,
  )
  scores_BxHxTxS = jnp.where(
      mask_BxTxS[:, None], scores_BxHxTxS, jnp.finfo(jnp.float32).min
  )
  weights_BxHxTxS = jax.nn.softmax(scores_BxHxTxS, axis=-1)
  return jnp.einsum(
      'bhts,bshk->bthk', weights_BxHxTxS.astype(v_BxSxHxK.dtype), v_BxSxHxK
  )


def _blocked(q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL, window):
  """Blocks of queries, each against just the keys it may see."""
  length = q_BxLxHxK.shape[1]
  outputs = []
  for start in range(0, length, _BLOCK):
    stop = min(start + _BLOCK, length)
    first = 0 if window is None else max(0, start - window + 1)
    queries, keys = slice(start, stop), slice(first, stop)
    mask_1xTxS = allowed(
        jnp.arange(start, stop), jnp.arange(first, stop), window
    )[None]
    if segment_ids_BxL is not None:
      same_BxTxS = (
          segment_ids_BxL[:, queries, None] == segment_ids_BxL[:, None, keys]
      )
      mask_1xTxS = mask_1xTxS & same_BxTxS
    outputs.append(
        masked_attention(
            q_BxLxHxK[:, queries], k_BxLxHxK[:, keys], v_BxLxHxK[:, keys],
            mask_1xTxS,
        )
    )
  return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=1)
