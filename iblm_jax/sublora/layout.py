"""What a projector is, apart from its arrays: static and hashable."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Leaf(NamedTuple):
  """One leaf that is projected."""

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
class Plan:
  """Static description of a projector.

  Attributes:
    kind: name of the construction.
    dims: (d1, d2) with d1 d2 = d, the numbers that are projected.
    leaves: of the tree, those that are projected.
    mesh: that the leaves are sharded over; None: one device or unknown.
    entries: what random factors are made of.
    hold: keep the factors; otherwise they are drawn anew at each use.
    taps: of the kind 'sparse'.
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
    """D, entries of all projected leaves."""
    return sum(leaf.size for leaf in self.leaves)


class Kind(NamedTuple):
  """A construction: three pure functions.

  Attributes:
    draw: (plan, key) -> factors to hold, a pytree of arrays.
    apply: (plan, factors, w_d) -> tuple of leaves, float32.
    transpose: (plan, factors, tuple of leaves) -> w_d.
  """

  draw: Callable[[Plan, jax.Array], Any]
  apply: Callable[[Plan, Any, jax.Array], tuple[jax.Array, ...]]
  transpose: Callable[[Plan, Any, tuple[jax.Array, ...]], jax.Array]


def whole_spec(spec: Iterable[Any], ndim: int) -> tuple[Any, ...]:
  """The mesh axes of every axis of an array, None where it is not split."""
  return (*spec, *[None] * ndim)[:ndim]


def mesh_axes(entry: Any) -> tuple[str, ...]:
  """Mesh axes that one axis of an array is split over."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def pieces(entry: Any, mesh: Mesh) -> int:
  """Number of pieces that one axis of an array is split into."""
  return math.prod(mesh.shape[axis] for axis in mesh_axes(entry))


def sharding_of(leaves: Sequence[Any]) -> tuple[Mesh | None, list[tuple]]:
  """The mesh and the specs that leaves are sharded with.

  Args:
    leaves: arrays or ShapeDtypeStructs.

  Returns:
    None where no leaf is split; and the spec of each.

  Raises:
    ValueError: if leaves lie on different meshes.
  """
  shardings = [getattr(leaf, 'sharding', None) for leaf in leaves]
  named = [s for s in shardings if isinstance(s, NamedSharding)]
  meshes = {s.mesh for s in named if isinstance(s.mesh, Mesh)}
  if len(meshes) > 1:
    raise ValueError(f'leaves must lie on one mesh, got {len(meshes)}.')
  split = any(mesh_axes(entry) for s in named for entry in s.spec)
  if not meshes or not split:
    return None, [()] * len(leaves)
  (mesh,) = meshes
  specs = [
      whole_spec(s.spec, len(leaf.shape))
      if isinstance(s, NamedSharding)
      else (None,) * len(leaf.shape)
      for leaf, s in zip(leaves, shardings, strict=True)
  ]
  return mesh, specs


def where_used(
    plan: Plan,
    factors: Any,
    specs: Sequence[Any],
    draw_leaf: Callable[[Leaf, Any], Any],
) -> Any:
  """The factors: those that are held, or drawn where they will be used.

  Args:
    plan: of the projector.
    factors: of each leaf if they are held; otherwise the key.
    specs: of each leaf's factors, a tree like what `draw_leaf` returns.
    draw_leaf: (leaf, key) -> factors of the leaf.
  """
  if plan.hold:
    return factors
  drawn = []
  for leaf, spec in zip(plan.leaves, specs, strict=True):
    part = draw_leaf(leaf, factors)
    if plan.mesh is not None:
      shardings = jax.tree.map(
          lambda s: NamedSharding(plan.mesh, s),
          spec,
          is_leaf=lambda s: isinstance(s, PartitionSpec),
      )
      part = jax.lax.with_sharding_constraint(part, shardings)
    drawn.append(part)
  return tuple(drawn)


def run_local(
    plan: Plan,
    apply_leaf: Callable[[Leaf, Any, jax.Array], jax.Array],
    factor_specs: Sequence[Any],
    leaf_specs: Sequence[PartitionSpec],
    factors: Sequence[Any],
    w_d: jax.Array,
) -> tuple[jax.Array, ...]:
  """Each device computes the entries that it holds, from all of w."""

  def local(factors, w_d):
    return tuple(
        apply_leaf(leaf, part, w_d)
        for leaf, part in zip(plan.leaves, factors, strict=True)
    )

  if plan.mesh is None:
    return local(factors, w_d)
  return jax.shard_map(
      local,
      mesh=plan.mesh,
      in_specs=(tuple(factor_specs), PartitionSpec()),
      out_specs=tuple(leaf_specs),
      check_vma=False,
  )(tuple(factors), w_d)


def sum_local(
    plan: Plan,
    transpose_leaf: Callable[[Leaf, Any, jax.Array], jax.Array],
    factor_specs: Sequence[Any],
    leaf_specs: Sequence[PartitionSpec],
    factors: Sequence[Any],
    leaves: Sequence[jax.Array],
) -> jax.Array:
  """The transpose of `run_local`: one sum of d numbers over devices."""

  def local(factors, leaves):
    parts = [
        _share(plan, spec, used) * transpose_leaf(leaf, part, entries)
        for leaf, spec, part, entries in zip(
            plan.leaves, leaf_specs, factors, leaves, strict=True
        )
    ]
    return functools.reduce(operator.add, parts)

  used = tuple({
      axis: None
      for spec in leaf_specs
      for entry in spec
      for axis in mesh_axes(entry)
  })
  if plan.mesh is None:
    return local(factors, leaves)
  return jax.shard_map(
      lambda *args: jax.lax.psum(local(*args), used) if used else local(*args),
      mesh=plan.mesh,
      in_specs=(tuple(factor_specs), tuple(leaf_specs)),
      out_specs=PartitionSpec(),
      check_vma=False,
  )(tuple(factors), tuple(leaves))


def _share(plan, spec, used):
  """1 / the number of devices, of those that are summed, with equal entries."""
  held = {axis for entry in spec for axis in mesh_axes(entry)}
  if plan.mesh is None:
    return np.float32(1.0)
  copies = math.prod(plan.mesh.shape[a] for a in used if a not in held)
  return np.float32(1.0 / copies)


def flat(leaves: Sequence[jax.Array]) -> jax.Array:
  """All entries, in the order of the leaves, float32 [D]."""
  return jnp.concatenate([x.reshape(-1).astype(jnp.float32) for x in leaves])


def unflat(plan: Plan, theta_D: jax.Array) -> tuple[jax.Array, ...]:
  """The inverse of `flat`."""
  ends = np.cumsum([leaf.size for leaf in plan.leaves])[:-1]
  return tuple(
      part.reshape(leaf.shape)
      for part, leaf in zip(jnp.split(theta_D, ends), plan.leaves, strict=True)
  )
