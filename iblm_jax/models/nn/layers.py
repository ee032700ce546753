"""Linear maps and norms in linen; axes carry logical names, no mesh names."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from iblm_jax.models import config as model_config


def call(module: nn.Module, params: Any, *args: Any) -> Any:
  """Applies a linen module to its own parameters."""
  return module.apply({'params': params}, *args)


def annotated(init, axes: tuple[str | None, ...]) -> Any:
  """Makes an initialiser whose parameter carries logical axis names."""
  return nn.with_logical_partitioning(init, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(weight: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
  """Gathers a weight as it is multiplied: whole along 'embed' alone.

  Parameters are stored split along 'embed' (by the default rules over `fsdp`).
  Said here, once a layer and in the compute dtype, the partitioner neither
  gathers all layers at once nor moves activations instead. The gradient goes
  straight back to the stored split, so that it is reduced and scattered, not
  summed whole on every device.

  `axes` are the logical names of the axes of the stored weight.
  """
  whole = tuple('residual' if axis == 'embed' else axis for axis in axes)
  return nn.with_logical_constraint(weight, whole)


def _gathered_fwd(weight, axes):
  return gathered(weight, axes), None


def _gathered_bwd(axes, _, cotangent):
  return (nn.with_logical_constraint(cotangent, axes),)


gathered.defvjp(_gathered_fwd, _gathered_bwd)


def kernel_init(scale: float, in_axis: Sequence[int], out_axis: Sequence[int]):
  """Makes a normal initialiser of variance scale / fan-in; zeros for 0."""
  if scale == 0.0:
    return nn.initializers.zeros_init()
  return nn.initializers.variance_scaling(
      scale, 'fan_in', 'normal', in_axis=in_axis, out_axis=out_axis
  )


def output_scale(cfg: model_config.DecoderConfig) -> float:
  """Gives the variance of maps into the stream: 2 N of them add up."""
  return 0.0 if cfg.zero_init_outputs else 1.0 / (2 * cfg.num_layers)


class Adapted(NamedTuple):
  """A kernel of `Linear` that is trained through two narrow matrices alone.

  The gradient of the kernel, from which that of the two would follow, costs as
  much as a forward pass; it is never made.
  """

  kernel: jax.Array  # [..., *inputs, *outputs], with the product b a in it
  a_RxI: jax.Array  # [..., R, inputs], float32
  b_OxR: jax.Array  # [..., outputs, R], float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _adapted_product(to_matrix, x_TxI, adapted):
  return x_TxI @ to_matrix(adapted.kernel)


def _adapted_product_fwd(to_matrix, x_TxI, adapted):
  return _adapted_product(to_matrix, x_TxI, adapted), (x_TxI, adapted)


def _adapted_product_bwd(to_matrix, saved, dy_TxO):
  x_TxI, (kernel, a_RxI, b_OxR) = saved
  dh_TxR = dy_TxO @ b_OxR
  h_TxR = x_TxI @ a_RxI.T
  dx_TxI = dy_TxO @ to_matrix(kernel).T
  nothing = jnp.zeros_like(kernel)
  return dx_TxI, Adapted(nothing, dh_TxR.T @ x_TxI, dy_TxO.T @ h_TxR)


_adapted_product.defvjp(_adapted_product_fwd, _adapted_product_bwd)


class Linear(nn.Module):
  """A linear map of the last axes, float32 parameters, compute dtype.

  Not `nn.DenseGeneral`: on a mesh that one applies the logical names of a
  kernel with more than two axes to its flattened form, and fails.
  """

  cfg: model_config.DecoderConfig
  shape: tuple[int, ...]  # of the kernel: input axes, then output axes
  axes: tuple[str, ...]  # their logical names
  num_in: int = 1  # how many of them are input axes
  scale: float = 1.0
  biases: bool | None = None  # None as the config has it

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., *inputs] to [..., *outputs]."""
    cfg, n = self.cfg, self.num_in
    order = range(len(self.shape))
    init = kernel_init(self.scale, order[:n], order[n:])
    kernel = self.param(
        'kernel', annotated(init, self.axes), self.shape, jnp.float32
    )
    # One matrix product over all tokens: XLA's CPU backend is up to half
    # slower where the operand keeps its leading axes.
    inputs = math.prod(self.shape[:n])

    def to_matrix(kernel):
      matrix = kernel.astype(cfg.compute_dtype).reshape(inputs, -1)
      return gathered(matrix, (self.axes[0], self.axes[n]))

    rows = x.reshape(-1, inputs)
    if isinstance(kernel, Adapted):
      rows = _adapted_product(to_matrix, rows, kernel)
    else:
      rows = rows @ to_matrix(kernel)
    y = rows.reshape(x.shape[: x.ndim - n] + self.shape[n:])
    if cfg.biases if self.biases is None else self.biases:
      zeros = annotated(nn.initializers.zeros_init(), self.axes[n:])
      bias = self.param('bias', zeros, self.shape[n:], jnp.float32)
      y = y + bias.astype(y.dtype).reshape((1,) * (x.ndim - n) + bias.shape)
    return y


def _scale(module: Any, axis: str, size: int) -> jax.Array:
  """The learned scale of a norm, [size]."""
  ones = nn.initializers.ones_init()
  if module.cfg.norm_plus_one:
    ones = nn.initializers.zeros_init()
  scale = module.param('scale', annotated(ones, (axis,)), (size,), jnp.float32)
  return 1.0 + scale.astype(jnp.float32) if module.cfg.norm_plus_one else scale


class Norm(nn.Module):
  """RMS or layer norm over the last axis, in float32."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(self, x_D: jax.Array) -> jax.Array:
    """Normalises the last axis; the dtype stays."""
    y_D = x_D.astype(jnp.float32)
    if self.cfg.norm == 'layer':
      y_D = y_D - jnp.mean(y_D, axis=-1, keepdims=True)
    y_D = y_D * jax.lax.rsqrt(
        jnp.mean(y_D * y_D, axis=-1, keepdims=True) + self.cfg.norm_epsilon
    )
    shape = (1,) * (x_D.ndim - 1) + (-1,)
    if self.cfg.norm_scale:
      scale_D = _scale(self, 'embed', x_D.shape[-1])
      y_D = y_D * scale_D.reshape(shape)
    if self.cfg.norm == 'layer' and self.cfg.biases:
      zeros = annotated(nn.initializers.zeros_init(), ('embed',))
      bias_D = self.param('bias', zeros, (x_D.shape[-1],), jnp.float32)
      y_D = y_D + bias_D.reshape(shape)
    return y_D.astype(x_D.dtype)


def rms_normalize(x_K: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """Scales the last axis to root mean square one; no parameters."""
  y_K = x_K.astype(jnp.float32)
  y_K = y_K * jax.lax.rsqrt(
      jnp.mean(y_K * y_K, axis=-1, keepdims=True) + epsilon
  )
  return y_K.astype(x_K.dtype)


class HeadNorm(nn.Module):
  """RMS norm of every head of queries or keys, one scale for all heads."""

  cfg: model_config.DecoderConfig

  @nn.compact
  def __call__(self, x_BxLxHxK: jax.Array) -> jax.Array:
    """Normalises the last axis; the dtype stays."""
    if not self.cfg.qk_norm_scale:
      return rms_normalize(x_BxLxHxK)
    scale_K = _scale(self, 'kv', x_BxLxHxK.shape[-1])
    y_BxLxHxK = rms_normalize(
        x_BxLxHxK.astype(jnp.float32), self.cfg.norm_epsilon
    )
    return (y_BxLxHxK * scale_K[None, None, None]).astype(x_BxLxHxK.dtype)
