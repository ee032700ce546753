"""Shapes and axis names of a model's parameters, traced once for a config."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn


@functools.cache
def _traced(init: Callable[..., Any], cfg: Any) -> Any:
  made = jax.eval_shape(lambda key: init(key, cfg), jax.random.key(0))
  # Without shardings, which are of the mesh that is set at the moment.
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), made
  )


def shapes(init: Callable[..., Any], cfg: Any) -> Any:
  """Gives a tree of `jax.ShapeDtypeStruct` of the parameters.

  Args:
    init: `(key, cfg) -> params`; leaves may be boxed with their axis names.
    cfg: A hashable config.
  """
  return nn.meta.unbox(_traced(init, cfg))


def logical_axes(init: Callable[..., Any], cfg: Any) -> Any:
  """Gives a tree of PartitionSpecs of logical axis names; empty if unboxed."""
  return nn.get_partition_spec(_traced(init, cfg))
