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

from iblm_jax.sublora import layout as layout_lib
from iblm_jax.sublora import prng


def _request(leaf):
  return leaf.path, leaf.layers or 1, leaf.matrix_shape


def _draw(layout, key):
  if layout.mesh is None:
    requests = [_request(leaf) for leaf in layout.leaves]
    drawn = prng.draw_all(key, requests, layout.taps, 'bits')
    return tuple(_signed(layout, bits) for bits in drawn)
  return tuple(
      prng.run_once(
          functools.partial(_draw_leaf, layout, leaf),
          key,
          out_shardings=NamedSharding(layout.mesh, _specs(layout, leaf)[0]),
      )
      for leaf in layout.leaves
  )


def _draw_leaf(layout, leaf, key):
  bits = prng.draw_leaf(key, *_request(leaf), layout.taps, 'bits')
  return _signed(layout, bits)


@functools.partial(jax.jit, static_argnums=0)
def _signed(layout, bits):
  """Returns ±(h + 1) as int32: one bit is the sign, the others choose h."""
  tap = (bits >> 1) % np.uint32(layout.size) + np.uint32(1)
  return jnp.where(bits & 1, 1, -1) * tap.astype(jnp.int32)


def _specs(layout, leaf):
  del layout
  spec = layout_lib.whole_spec(leaf.spec, len(leaf.shape))
  leading = (None,) if leaf.layers is None else ()
  return PartitionSpec(*leading, *spec, None), PartitionSpec(*spec)


def _apply_leaf(layout, leaf, taps, w_d):
  del layout
  sign = jnp.sign(taps).astype(jnp.float32)
  chosen = w_d.at[jnp.abs(taps) - 1].get(mode='promise_in_bounds')
  theta = jnp.sum(sign * chosen, axis=-1)
  return theta[0] if leaf.layers is None else theta


def _transpose_leaf(layout, leaf, taps, entries):
  if leaf.layers is None:
    entries = entries[None]
  sign = jnp.sign(taps).astype(jnp.float32)
  g = sign * entries.astype(jnp.float32)[..., None]
  return jax.ops.segment_sum(
      g.reshape(-1), jnp.abs(taps).reshape(-1) - 1, layout.size
  )


KIND = layout_lib.local_kind(
    _draw, _draw_leaf, _specs, _apply_leaf, _transpose_leaf,
    lambda layout: math.sqrt(layout.size / (layout.num_rows * layout.taps)),
)
