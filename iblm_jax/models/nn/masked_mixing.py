"""Causal mixing of positions by learned weights: a masked convolution.

The channels of the convolution are positions and its spatial axis are the
features: what position f gets is a weighted sum over positions t <= f of their
features, and of `kernel` features around each. The mask is applied to the
weights wherever they are used; their values above the diagonal are never read,
so they get a gradient of exactly zero.
"""

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.models import config as model_config
from iblm_jax.models.nn import layers


def mix(
    weights_FxTxK: jax.Array, bias_F: jax.Array, x_BxTxD: jax.Array
) -> jax.Array:
  """Mixes positions and neighbouring features.

  y[b, f, d] = bias[f] + sum over t, k of W[f, t, k] x[b, t, d + k - left].

  Args:
    weights_FxTxK: float [F, T, K], masked by the caller. left is (K - 1) // 2;
      features beyond the edge are zero.
    bias_F: float [F].
    x_BxTxD: float [B, T, D].

  Returns:
    [B, F, D] in the dtype of x.

  Example:
    >>> x = jnp.array([[[1.0], [2.0]]])
    >>> w = jnp.array([[1.0, 0.0], [1.0, 1.0]])[:, :, None]
    >>> mix(w, jnp.zeros(2), x)[0, :, 0].tolist()
    [1.0, 3.0]
  """
  batch, length, width = x_BxTxD.shape
  kernel = weights_FxTxK.shape[2]
  left = (kernel - 1) // 2
  if kernel > 1:
    padded = jnp.pad(x_BxTxD, ((0, 0), (0, 0), (left, kernel - 1 - left)))
    # [B, T K, D]: each shift of the features is one more position to mix.
    x_BxTxD = jnp.stack(
        [padded[:, :, k : k + width] for k in range(kernel)], axis=2
    ).reshape(batch, length * kernel, width)
  weights = weights_FxTxK.reshape(weights_FxTxK.shape[0], length * kernel)
  # One matrix product for all rows: the positions first, rows and features as
  # its columns.
  columns = einops.rearrange(x_BxTxD, 'b t d -> t (b d)')
  y_FxBxD = (weights.astype(columns.dtype) @ columns).reshape(
      -1, batch, width
  )
  y_FxBxD = y_FxBxD + bias_F.astype(y_FxBxD.dtype)[:, None, None]
  return y_FxBxD.swapaxes(0, 1)


def causal_mask(length: int, expansion: int = 1) -> jax.Array:
  """Says which positions a hidden position sees: bool [length E, length].

  >>> causal_mask(2).tolist()
  [[True, False], [True, True]]
  """
  position = jnp.arange(length * expansion) // expansion
  return position[:, None] >= jnp.arange(length)[None, :]


class MaskedMixing(nn.Module):
  """Mixes positions within each head, from the past only."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(
      self, x_BxLxD: jax.Array, present_BxL: jax.Array | None
  ) -> jax.Array:
    """Maps [B, L, D] to [B, L, D]; positions not present are not mixed in."""
    cfg, mixer = self.cfg, self.cfg.mixer
    assert mixer is not None
    batch, length, width = x_BxLxD.shape
    if length > mixer.length:
      raise ValueError(
          f'a sequence of {length} tokens is longer than mixer.length'
          f' {mixer.length}.'
      )
    if mixer.num_heads > 1:
      heads = (mixer.num_heads, width // mixer.num_heads)
      x_BxLxHxK = layers.Linear(
          cfg, (width, *heads), ('embed', 'heads', 'kv'), name='project'
      )(x_BxLxD)
    else:
      heads = (1, width)
      x_BxLxHxK = x_BxLxD[:, :, None]
    if present_BxL is not None:
      x_BxLxHxK = jnp.where(present_BxL[:, :, None, None], x_BxLxHxK, 0)
    scale = layers.output_scale(cfg) if mixer.num_heads == 1 else 1.0
    expansion = mixer.expansion
    if expansion is None:
      y_BxLxHxK = self._mix('mix', x_BxLxHxK, length, 1, False, scale)
    else:
      hidden = self._mix('mix', x_BxLxHxK, length, expansion, False, 1.0)
      hidden = nn.gelu(hidden)
      y_BxLxHxK = self._mix(
          'mix_out', hidden, length, expansion, True, scale
      )
    if mixer.num_heads == 1:
      return y_BxLxHxK[:, :, 0]
    return layers.Linear(
        cfg,
        (*heads, width),
        ('heads', 'kv', 'embed'),
        num_in=2,
        scale=layers.output_scale(cfg),
        name='out',
    )(y_BxLxHxK)

  def _mix(self, name, x_BxTxHxK, length, expansion, contracts, scale):
    """One masked map; `contracts` goes from hidden positions back."""
    mixer = self.cfg.mixer
    assert mixer is not None
    heads, full = mixer.num_heads, mixer.length
    mask = causal_mask(full, expansion)
    if contracts:  # hidden positions of t are seen from t on
      position = jnp.arange(full * expansion) // expansion
      mask = jnp.arange(full)[:, None] >= position[None, :]
    rows, columns = mask.shape

    def init(key, shape, dtype):
      # As many inputs as the mask leaves, so that no position starts louder.
      fan_in = mask.sum(axis=1)[None, :, None, None] * mixer.kernel
      normal = jax.random.normal(key, shape, dtype)
      return normal * jnp.sqrt(scale / fan_in.astype(dtype))

    weights_HxFxTxK = self.param(
        name,
        layers.annotated(init, ('heads', None, None, None)),
        (heads, rows, columns, mixer.kernel),
        jnp.float32,
    )
    bias_HxF = self.param(
        f'{name}_bias',
        layers.annotated(nn.initializers.zeros_init(), ('heads', None)),
        (heads, rows),
        jnp.float32,
    )
    weights_HxFxTxK = jnp.where(mask[None, :, :, None], weights_HxFxTxK, 0.0)
    # A shorter sequence takes the first positions.
    outputs = length if contracts else length * expansion
    inputs = length * expansion if contracts else length
    weights_HxFxTxK = weights_HxFxTxK[:, :outputs, :inputs]
    mixed = [
        mix(weights_HxFxTxK[h], bias_HxF[h, :outputs], x_BxTxHxK[:, :, h])
        for h in range(heads)
    ]
    return jnp.stack(mixed, axis=2)
