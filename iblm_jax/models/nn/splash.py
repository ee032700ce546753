"""Causal attention by the fused TPU kernel that ships with JAX.

The kernel cannot be partitioned by the compiler, so on a mesh every device runs
it on its own rows and heads.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental.pallas.ops.tpu import splash_attention

# The kernel works on tiles of so many tokens, or multiples of it.
TILE = 128
_LARGEST_TILE = 512


def causal_attention(
    q_BxLxHxK: jax.Array,
    k_BxLxHxK: jax.Array,
    v_BxLxHxK: jax.Array,
    *,
    segment_ids_BxL: jax.Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
  """Computes what `attention.causal_attention` does, of L a multiple of `TILE`.

  `interpret` runs the kernel without a TPU, slowly, for tests.

  Raises:
    ValueError: L is no multiple of `TILE`.

  References:
    FlashAttention, arXiv 2205.14135; the kernel is
    `jax.experimental.pallas.ops.tpu.splash_attention`.
  """
  length = q_BxLxHxK.shape[1]
  if length % TILE:
    raise ValueError(
        f'the length of a row must be a multiple of {TILE}, got {length}.'
    )

  def attend(q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL):
    shared = q_BxLxHxK.shape[2] // k_BxLxHxK.shape[2]
    if shared > 1:  # the kernel wants as many keys as queries
      k_BxLxHxK, v_BxLxHxK = (
          jnp.repeat(a, shared, axis=2) for a in (k_BxLxHxK, v_BxLxHxK)
      )
    heads = q_BxLxHxK.shape[2]
    kernel = _kernel(heads, length, window, softcap, interpret)
    scale = 1.0 / math.sqrt(q_BxLxHxK.shape[-1])

    def one_row(q_LxHxK, k_LxHxK, v_LxHxK, segment_ids_L):
      segments = None
      if segment_ids_L is not None:
        segments = splash_attention.SegmentIds(segment_ids_L, segment_ids_L)
      q, k, v = (a.swapaxes(0, 1) for a in (q_LxHxK, k_LxHxK, v_LxHxK))
      # The kernel does not scale by itself.
      mixed: Any = kernel(q * scale, k, v, segment_ids=segments)
      return mixed.swapaxes(0, 1)

    segments_axis = None if segment_ids_BxL is None else 0
    rows = jax.vmap(one_row, in_axes=(0, 0, 0, segments_axis))
    return rows(q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL)

  arguments = (q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, segment_ids_BxL)
  if jax.sharding.get_abstract_mesh().empty or not nn.get_logical_axis_rules():
    return attend(*arguments)
  heads = nn.logical_to_mesh_axes(('batch', 'length', 'heads', 'kv'))
  rows = nn.logical_to_mesh_axes(('batch', 'length'))
  return jax.shard_map(
      attend,
      in_specs=(heads, heads, heads, None if segment_ids_BxL is None else rows),
      out_specs=heads,
      # The kernel does not say over which axes its results vary.
      check_vma=False,
  )(*arguments)


def _kernel(num_heads, length, window, softcap, interpret):
  side = (length, length)
  mask = (
      splash_attention.CausalMask(side)
      if window is None
      else splash_attention.LocalMask(side, (window - 1, 0), 0)
  )
  tile = max(t for t in range(TILE, _LARGEST_TILE + 1, TILE) if not length % t)
  blocks = splash_attention.BlockSizes(
      block_q=tile,
      block_kv=tile,
      block_q_dkv=tile,
      block_kv_dkv=tile,
      block_q_dq=tile,
      block_kv_dq=tile,
  )
  return splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([mask] * num_heads),
      head_shards=1,
      q_seq_shards=1,
      block_sizes=blocks,
      attn_logits_soft_cap=softcap,
      interpret=interpret,
  )
