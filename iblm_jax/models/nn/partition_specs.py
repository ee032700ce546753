"""Shapes and axis names of a family's parameters, traced once for a config."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn


@functools.cache
def _traced(boxed_init: Callable[..., Any], cfg: Any) -> Any:
  boxed = jax.eval_shape(
      functools.partial(boxed_init, cfg=cfg), jax.random.key(0)
  )
  # Without shardings, which are of the mesh that is set at the moment.
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), boxed
  )


def shapes(boxed_init: Callable[..., Any], cfg: Any) -> Any:
  """What `init` returns, as a tree of `jax.ShapeDtypeStruct`."""
  return nn.meta.unbox(_traced(boxed_init, cfg))


def logical_axes(boxed_init: Callable[..., Any], cfg: Any) -> Any:
  """Logical axis names of every parameter: `init`'s tree of PartitionSpecs."""
  return nn.get_partition_spec(_traced(boxed_init, cfg))
