"""Static description of a projector, apart from its arrays; hashable."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iblm_jax.typing import PyTree


class Leaf(NamedTuple):
  """A leaf that is projected."""

  path: str
  shape: tuple[int, ...]  # of the whole leaf
  layers: int | None  # size of the leading axis if it counts layers
  spec: tuple[Any, ...]  # mesh axes of every axis; () if nothing is known

  @property
  def size(self) -> int:
    """Entries of the leaf."""
    return math.prod(self.shape)

  @property
  def matrix_shape(self) -> tuple[int, ...]:
    """Shape of one layer."""
    return self.shape if self.layers is None else self.shape[1:]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Static description of a projector.

  Attributes:
    kind: Name of the construction.
    dims: (d1, d2) with d1 d2 = d, the numbers that are projected.
    leaves: The leaves of the tree that are projected.
    mesh: Mesh that the leaves are sharded over; None: one device or unknown.
    entries: Distribution of the numbers in random factors.
    hold: Keep the factors; otherwise they are drawn anew at each use.
    taps: Taps of a parameter in the kind 'sparse'.
  """

  kind: str
  dims: tuple[int, int]
  leaves: tuple[Leaf, ...]
  mesh: Mesh | None = None
  entries: str = 'normal'
  hold: bool = True
  taps: int = 4

  @property
  def size(self) -> int:
    """Length d of the vector that is projected."""
    return self.dims[0] * self.dims[1]

  @property
  def num_rows(self) -> int:
    """Entries of all projected leaves, D."""
    return sum(leaf.size for leaf in self.leaves)


# What a kind draws: a tree of arrays, or the key where factors are not held.
Factors: TypeAlias = PyTree
Leaves: TypeAlias = tuple[jax.Array, ...]


class Kind(NamedTuple):
  """A construction: three pure functions."""

  draw: Callable[[Layout, jax.Array], Factors]  # factors to hold, from a key
  apply: Callable[[Layout, Factors, jax.Array], Leaves]  # w_d -> float32 leaves
  transpose: Callable[[Layout, Factors, Leaves], jax.Array]  # leaves -> w_d
  redraws: bool = True  # whether factors may be drawn at each use


def flat_kind(
    draw: Callable[[Layout, jax.Array], Factors],
    apply: Callable[[Layout, Factors, jax.Array], jax.Array],
    transpose: Callable[[Layout, Factors, jax.Array], jax.Array],
    redraws: bool = True,
) -> Kind:
  """Makes a kind of functions that take all leaves as one vector [D]."""

  def apply_flat(layout, factors, w_d):
    shapes = [leaf.shape for leaf in layout.leaves]
    return unflat(apply(layout, factors, w_d), shapes)

  def transpose_flat(layout, factors, leaves):
    return transpose(layout, factors, flat(leaves))

  return Kind(draw, apply_flat, transpose_flat, redraws)


def local_kind(
    draw: Callable[[Layout, jax.Array], Factors],
    draw_leaf: Callable[[Layout, Leaf, jax.Array], Factors],
    specs: Callable[[Layout, Leaf], tuple[PyTree, PartitionSpec]],
    apply_leaf: Callable[[Layout, Leaf, Factors, jax.Array], jax.Array],
    transpose_leaf: Callable[[Layout, Leaf, Factors, jax.Array], jax.Array],
    scale: Callable[[Layout], float],
) -> Kind:
  """Makes a kind in which each device computes the entries that it holds.

  Args:
    draw: Returns the factors of all leaves, to be held.
    draw_leaf: Returns those of one leaf, where it will be used.
    specs: Returns how the factors of a leaf and the leaf are sharded.
    apply_leaf: Returns a leaf's entries from its factors and all of w.
    transpose_leaf: Returns what a leaf's entries add to w, [d].
    scale: Returns a number that the map is multiplied by.
  """

  def all_specs(layout):
    pairs = (specs(layout, leaf) for leaf in layout.leaves)
    return tuple(zip(*pairs, strict=True))

  def where_used(layout, factors):
    if layout.hold:
      return tuple(factors)
    drawn = []
    for leaf in layout.leaves:
      part = draw_leaf(layout, leaf, factors)
      if layout.mesh is not None:
        shardings = jax.tree.map(
            lambda s: NamedSharding(layout.mesh, s),
            specs(layout, leaf)[0],
            is_leaf=lambda s: isinstance(s, PartitionSpec),
        )
        part = jax.lax.with_sharding_constraint(part, shardings)
      drawn.append(part)
    return tuple(drawn)

  def apply(layout, factors, w_d):
    def local(factors, w_d):
      pairs = zip(layout.leaves, factors, strict=True)
      return tuple(apply_leaf(layout, leaf, part, w_d) for leaf, part in pairs)

    factors = where_used(layout, factors)
    w_d = w_d * np.float32(scale(layout))
    if layout.mesh is None:
      return local(factors, w_d)
    factor_specs, leaf_specs = all_specs(layout)
    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(factor_specs, PartitionSpec()),
        out_specs=leaf_specs,
        check_vma=False,
    )(factors, w_d)

  def transpose(layout, factors, leaves):
    factor_specs, leaf_specs = all_specs(layout)
    used = tuple(dict.fromkeys(a for s in leaf_specs for a in _axes(s)))

    def local(factors, leaves):
      w_d = functools.reduce(operator.add, (
          _share(layout, spec, used)
          * transpose_leaf(layout, leaf, part, entries)
          for leaf, spec, part, entries in zip(
              layout.leaves, leaf_specs, factors, leaves, strict=True
          )
      ))
      # One sum of d numbers over devices.
      return jax.lax.psum(w_d, used) if layout.mesh and used else w_d

    factors, leaves = where_used(layout, factors), tuple(leaves)
    if layout.mesh is None:
      w_d = local(factors, leaves)
    else:
      w_d = jax.shard_map(
          local,
          mesh=layout.mesh,
          in_specs=(factor_specs, leaf_specs),
          out_specs=PartitionSpec(),
          check_vma=False,
      )(factors, leaves)
    return w_d * np.float32(scale(layout))

  return Kind(draw, apply, transpose)


def _axes(spec):
  return [axis for entry in spec for axis in mesh_axes(entry)]


def _share(layout, spec, used):
  """Returns 1 / the number of devices, of those summed, with equal entries."""
  if layout.mesh is None:
    return np.float32(1.0)
  held = _axes(spec)
  copies = math.prod(layout.mesh.shape[a] for a in used if a not in held)
  return np.float32(1.0 / copies)


def whole_spec(spec: Iterable[Any], ndim: int) -> tuple[Any, ...]:
  """Returns the mesh axes of every axis of an array, None if not split."""
  return (*spec, *[None] * ndim)[:ndim]


def mesh_axes(entry: Any) -> tuple[str, ...]:
  """Returns the mesh axes that one axis of an array is split over."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def pieces(entry: Any, mesh: Mesh) -> int:
  """Returns the number of pieces that one axis of an array is split into."""
  return math.prod(mesh.shape[axis] for axis in mesh_axes(entry))


def sharding_of(leaves: Sequence[Any]) -> tuple[Mesh | None, list[tuple]]:
  """Returns the mesh (None if no leaf is split) and each leaf's spec.

  Args:
    leaves: Arrays or ShapeDtypeStructs.

  Raises:
    ValueError: If leaves lie on different meshes.
  """
  shardings = [getattr(leaf, 'sharding', None) for leaf in leaves]
  named = [s for s in shardings if isinstance(s, NamedSharding)]
  meshes = {s.mesh for s in named if isinstance(s.mesh, Mesh)}
  if len(meshes) > 1:
    raise ValueError(f'leaves must lie on one mesh, got {len(meshes)}.')
  if not meshes or not any(_axes(s.spec) for s in named):
    return None, [()] * len(leaves)
  (mesh,) = meshes
  specs = [
      whole_spec(s.spec if isinstance(s, NamedSharding) else (), leaf.ndim)
      for leaf, s in zip(leaves, shardings, strict=True)
  ]
  return mesh, specs


def flat(leaves: Iterable[jax.Array]) -> jax.Array:
  """Returns all entries, in the order of the leaves, as float32 [D]."""
  return jnp.concatenate([x.reshape(-1).astype(jnp.float32) for x in leaves])


def unflat(x_D: jax.Array, shapes: Sequence[tuple[int, ...]]) -> Leaves:
  """Cuts a vector into arrays of these shapes, the inverse of `flat`."""
  if not shapes:
    return ()
  parts = jnp.split(x_D, np.cumsum([math.prod(s) for s in shapes])[:-1])
  return tuple(x.reshape(s) for x, s in zip(parts, shapes, strict=True))
