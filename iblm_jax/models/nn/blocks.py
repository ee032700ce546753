"""Transformer and mixer blocks in linen."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.models import config as model_config
from iblm_jax.models.nn import layers, masked_mixing

# (q, k, v) -> attended values and whatever the caller wants back (a cache).
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


def rotary_frequencies(
    head_width: int,
    base: float,
    scaling: model_config.RotaryScaling | None = None,
) -> jax.Array:
  """Gives the radians of a position, float32 [K/2]."""
  half = head_width // 2
  frequency_K = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling is not None:
    kept_K = 0.0  # share of a frequency that is not stretched
    if scaling.kind == 'llama3':
      waves_K = scaling.original_length * frequency_K / (2 * math.pi)
      kept_K = (waves_K - scaling.low) / (scaling.high - scaling.low)
    kept_K = jnp.clip(kept_K, 0.0, 1.0)
    frequency_K = frequency_K * (kept_K + (1.0 - kept_K) / scaling.factor)
  return frequency_K


def rotary_angles(
    positions_BxL: jax.Array,
    head_width: int,
    base: float,
    scaling: model_config.RotaryScaling | None = None,
):
  """Gives cosine and sine, float32 [B, L, 1, K/2], of every position."""
  frequency_K = rotary_frequencies(head_width, base, scaling)
  angle_BxLxK = (
      positions_BxL.astype(jnp.float32)[..., None] * frequency_K[None, None]
  )
  return jnp.cos(angle_BxLxK)[:, :, None], jnp.sin(angle_BxLxK)[:, :, None]


def rotate(x_BxLxHxK: jax.Array, angles) -> jax.Array:
  """Applies rotary positions (arXiv 2104.09864), halves convention.

  Features beyond those that have angles stay.
  """
  cos, sin = angles
  if 2 * cos.shape[-1] < x_BxLxHxK.shape[-1]:
    turned, rest = jnp.split(x_BxLxHxK, [2 * cos.shape[-1]], axis=-1)
    return jnp.concatenate([rotate(turned, angles), rest], axis=-1)
  x1, x2 = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
  return rotated.astype(x_BxLxHxK.dtype)


class Attention(nn.Module):
  """Multi-head attention; what attends to what is the caller's function."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(self, x_BxLxD, angles, attend: Attend, first_v, is_first):
    """Returns output [B, L, D], the first block's values, attend's extra."""
    cfg = self.cfg
    heads = (cfg.num_heads, cfg.head_width)

    def project(name, num_heads):
      return layers.Linear(
          cfg,
          (cfg.width, num_heads, cfg.head_width),
          ('embed', 'heads', 'kv'),
          biases=cfg.qkv_biases,
          name=name,
      )(x_BxLxD)

    q = project('query', cfg.num_heads)
    k = project('key', cfg.kv_heads)
    v = project('value', cfg.kv_heads)
    names = ('batch', 'length', 'heads', 'kv')
    q, k, v = (nn.with_logical_constraint(a, names) for a in (q, k, v))
    if cfg.value_residual:
      half = layers.annotated(nn.initializers.constant(0.5), ())
      mix = self.param('value_mix', half, (), jnp.float32).astype(v.dtype)
      first_v = jnp.where(is_first, v, first_v)
      v = (1 - mix) * v + mix * first_v
    if cfg.qk_norm:
      q = layers.HeadNorm(cfg, name='query_norm')(q)
      k = layers.HeadNorm(cfg, name='key_norm')(k)
    if cfg.positions == 'rotary':
      q, k = rotate(q, angles), rotate(k, angles)
    if cfg.attention_width is not None:
      # What attends divides by the root of the head width.
      q = q * math.sqrt(cfg.head_width / cfg.attention_width)
    mixed, extra = attend(q, k, v)
    out_BxLxD = layers.Linear(
        cfg,
        (*heads, cfg.width),
        ('heads', 'kv', 'embed'),
        num_in=2,
        scale=layers.output_scale(cfg),
        biases=cfg.out_biases,
        name='out',
    )(mixed)
    return out_BxLxD, first_v, extra


class Mlp(nn.Module):
  """Position-wise MLP."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(self, x_BxLxD):
    """Maps [B, L, D] to [B, L, D]."""
    cfg = self.cfg
    up = functools.partial(
        layers.Linear,
        cfg,
        (cfg.width, cfg.hidden_width),
        ('embed', 'mlp'),
        biases=cfg.mlp_biases,
    )
    h_BxLxF = up(name='up')(x_BxLxD)
    match cfg.activation:
      case 'gelu':
        h_BxLxF = nn.gelu(h_BxLxF)
      case 'relu2':
        h_BxLxF = jnp.square(nn.relu(h_BxLxF))
      case 'swiglu':
        h_BxLxF = nn.silu(up(name='gate')(x_BxLxD)) * h_BxLxF
      case 'gelu_exact':
        h_BxLxF = nn.gelu(h_BxLxF, approximate=False)
      case 'geglu':
        h_BxLxF = nn.gelu(up(name='gate')(x_BxLxD)) * h_BxLxF
    h_BxLxF = nn.with_logical_constraint(h_BxLxF, ('batch', 'length', 'mlp'))
    return layers.Linear(
        cfg,
        (cfg.hidden_width, cfg.width),
        ('mlp', 'embed'),
        scale=layers.output_scale(cfg),
        biases=cfg.mlp_biases,
        name='down',
    )(h_BxLxF)


class Block(nn.Module):
  """Pre-norm attention and MLP around a residual stream."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(
      self,
      x_BxLxD,
      embedded_BxLxD,
      angles,
      attend: Attend,
      first_v,
      is_first,
      present_BxL,
  ):
    """Returns the residual stream, the first block's values, attend's extra."""
    if self.cfg.embedding_residual:
      start = lambda *_: jnp.array([1.0, 0.0])
      mix = self.param('stream_mix', layers.annotated(start, (None,)), (2,))
      mix = mix.astype(x_BxLxD.dtype)
      x_BxLxD = mix[0] * x_BxLxD + mix[1] * embedded_BxLxD
    norm = functools.partial(layers.Norm, self.cfg)
    if self.cfg.mixer is None:
      y_BxLxD, first_v, extra = Attention(self.cfg, name='attention')(
          norm(name='attention_norm')(x_BxLxD),
          angles,
          attend,
          first_v,
          is_first,
      )
    else:
      extra = None
      y_BxLxD = masked_mixing.MaskedMixing(self.cfg, name='mixer')(
          norm(name='mixer_norm')(x_BxLxD), present_BxL
      )
    if self.cfg.output_norms:
      kind = 'attention' if self.cfg.mixer is None else 'mixer'
      y_BxLxD = norm(name=f'{kind}_output_norm')(y_BxLxD)
    attended_BxLxD = x_BxLxD + y_BxLxD
    if not self.cfg.parallel_residual:
      x_BxLxD = attended_BxLxD
    y_BxLxD = Mlp(self.cfg, name='mlp')(norm(name='mlp_norm')(x_BxLxD))
    if self.cfg.output_norms:
      y_BxLxD = norm(name='mlp_output_norm')(y_BxLxD)
    x_BxLxD = attended_BxLxD + y_BxLxD
    x_BxLxD = nn.with_logical_constraint(
        x_BxLxD, ('batch', 'length', 'residual')
    )
    return x_BxLxD, first_v, extra
