"""The projector of a few signed taps of w for each parameter.

θ_i = √(d / (D s)) Σ_k σ_ik w[h_ik], where signs σ and taps h are bits of a hash
of the leaf's path, the layer and i. Local to a row, so local to a device.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from iblm_jax.sublora import layout as plan_lib
from iblm_jax.sublora import prng as draws


def _request(leaf):
  return leaf.path, leaf.layers or 1, leaf.matrix_shape


def _draw(plan, key):
  if not plan.hold:
    return key
  if plan.mesh is None:
    requests = [_request(leaf) for leaf in plan.leaves]
    drawn = draws.draw_all(key, requests, plan.taps, 'bits')
    return tuple(_signed(plan, bits) for bits in drawn)
  specs, _ = _specs(plan)
  return tuple(
      draws.run_once(
          functools.partial(_draw_leaf, plan, leaf),
          key,
          out_shardings=NamedSharding(plan.mesh, spec),
      )
      for leaf, spec in zip(plan.leaves, specs, strict=True)
  )


def _draw_leaf(plan, leaf, key):
  bits = draws.draw_leaf(key, *_request(leaf), plan.taps, 'bits')
  return _signed(plan, bits)


@functools.partial(jax.jit, static_argnums=0)
def _signed(plan, bits):
  """±(h + 1) as int32: one bit is the sign, the other 31 choose h."""
  tap = (bits >> 1) % np.uint32(plan.size) + np.uint32(1)
  return jnp.where(bits & 1, 1, -1) * tap.astype(jnp.int32)


def _specs(plan):
  factor_specs, leaf_specs = [], []
  for leaf in plan.leaves:
    spec = plan_lib.whole_spec(leaf.spec, len(leaf.shape))
    leading = (None,) if leaf.layers is None else ()
    factor_specs.append(PartitionSpec(*leading, *spec, None))
    leaf_specs.append(PartitionSpec(*spec))
  return factor_specs, leaf_specs


def _factors(plan, factors):
  specs, _ = _specs(plan)
  draw_leaf = functools.partial(_draw_leaf, plan)
  return plan_lib.where_used(plan, factors, specs, draw_leaf)


def _scale(plan):
  return np.float32(math.sqrt(plan.size / (plan.num_rows * plan.taps)))


def _apply(plan, factors, w_d):
  def apply_leaf(leaf, taps, w_d):
    sign = jnp.sign(taps).astype(jnp.float32)
    chosen = w_d.at[jnp.abs(taps) - 1].get(mode='promise_in_bounds')
    theta = jnp.sum(sign * chosen, axis=-1)
    return theta[0] if leaf.layers is None else theta

  return plan_lib.run_local(
      plan, apply_leaf, *_specs(plan), _factors(plan, factors),
      w_d * _scale(plan),
  )


def _transpose(plan, factors, leaves):
  def transpose_leaf(leaf, taps, entries):
    if leaf.layers is None:
      entries = entries[None]
    sign = jnp.sign(taps).astype(jnp.float32)
    g = sign * entries.astype(jnp.float32)[..., None]
    return jax.ops.segment_sum(
        g.reshape(-1), jnp.abs(taps).reshape(-1) - 1, plan.size
    )

  w_d = plan_lib.sum_local(
      plan, transpose_leaf, *_specs(plan), _factors(plan, factors), leaves
  )
  return w_d * _scale(plan)


KIND = plan_lib.Kind(_draw, _apply, _transpose)
