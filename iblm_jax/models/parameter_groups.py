"""Which parameters an optimizer treats how, by path."""

from typing import Any

import jax
import optax.contrib


def _names(path) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def group(path) -> str:
  """Gives 'embedding', 'head', 'matrix' (in a block) or 'scalar' (the rest)."""
  names = _names(path)
  if 'embed' in names:
    return 'embedding'
  if names[-1:] != ('kernel',):
    return 'scalar'
  return 'head' if 'head' in names else 'matrix'


def group_labels(params: Any) -> Any:
  """Gives a tree of `group` names, for learning rates per group."""
  return jax.tree_util.tree_map_with_path(lambda p, _: group(p), params)


def decay_mask(params: Any) -> Any:
  """Says what weight decay shrinks: matrices, no embedding, scale or bias."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: group(path) in ('matrix', 'head'), params
  )


def muon_dimension_numbers(params: Any) -> Any:
  """Says which axes of a kernel form a matrix; None leaves it to AdamW.

  In blocks, axis 0 is the stack of layers: query, key and value maps
  [N, D, H, K] are one matrix D x (H K) per layer, the output map [N, H, K, D]
  is (H K) x D. Elsewhere kernels are matrices.
  """

  def numbers(path, leaf):
    del leaf
    if group(path) != 'matrix':
      return None
    names = _names(path)
    if 'blocks' not in names:
      return optax.contrib.MuonDimensionNumbers(0, 1)
    match names[-2]:
      case 'query' | 'key' | 'value' | 'project':
        axes = (1, (2, 3))
      case 'out':
        axes = ((1, 2), 3)
      case _:
        axes = (1, 2)
    return optax.contrib.MuonDimensionNumbers(*axes)

  return jax.tree_util.tree_map_with_path(numbers, params)
