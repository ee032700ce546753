"""Makes device meshes, and maps logical axes of arrays onto them."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from iblm_jax import fields

Rules = tuple[tuple[str, Any], ...]

_AXES = ('data', 'fsdp', 'tensor')

DEFAULT_RULES: Rules = (
    ('batch', ('data', 'fsdp')),
    ('lookup', 'data'),
    ('embed', 'fsdp'),
    ('heads', 'tensor'),
    ('mlp', 'tensor'),
    ('vocab', 'tensor'),
    ('residual', None),
    ('length', None),
    ('kv', None),
    ('layers', None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Shape of the device mesh and the rules from logical to mesh axes.

  Attributes:
    data: replicas that share nothing but gradients; -1 takes all devices that
      the other axes leave.
    fsdp: devices over which the batch and every parameter are split.
    tensor: devices over which heads, MLP width and vocabulary are split.
    rules: pairs (logical axis, mesh axis, axes or None).

  Raises:
    ValueError: for an axis size that is neither positive nor -1 (data only),
      or a rule that is no such pair.
  """

  data: int = fields.field(-1, low=1, also=(-1,))
  fsdp: int = fields.field(1, low=1)
  tensor: int = fields.field(1, low=1)
  rules: Rules = DEFAULT_RULES

  def __post_init__(self):
    fields.check(self)
    for rule in self.rules:
      if not _is_rule(rule):
        raise ValueError(
            'rules must be pairs of a logical axis and None, one or several of'
            f' {_AXES}, got {rule!r:.80}.'
        )


def _is_rule(rule: Any) -> bool:
  if not isinstance(rule, tuple) or len(rule) != 2:
    return False
  name, axes = rule
  axes = axes if isinstance(axes, tuple) else (axes,)
  known = axes == (None,) or all(axis in _AXES for axis in axes)
  return isinstance(name, str) and known


def make_mesh(cfg: MeshConfig, devices: Any = None) -> Mesh:
  """Makes a mesh with axes data, fsdp and tensor; one device is a mesh too.

  Args:
    cfg: The axis sizes.
    devices: The devices to use; by default all.

  Returns:
    The mesh, with Auto axes.

  Raises:
    ValueError: The sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  rest = cfg.fsdp * cfg.tensor
  data = len(devices) // rest if cfg.data == -1 else cfg.data
  if data * rest != len(devices):
    raise ValueError(
        f'mesh of data={cfg.data}, fsdp={cfg.fsdp}, tensor={cfg.tensor} does'
        f' not fit {len(devices)} devices: the sizes must multiply to it.'
    )
  shape, names = (data, cfg.fsdp, cfg.tensor), _AXES
  auto = (AxisType.Auto,) * 3
  try:
    return jax.make_mesh(shape, names, axis_types=auto, devices=devices)
  except NotImplementedError:
    # No axis of the slice may be cut in two: 2 x 64 on 4 x 4 x 8 chips must.
    grid = mesh_utils.create_device_mesh(
        shape, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, names, axis_types=auto)


def batch_sharding(mesh: Mesh, cfg: MeshConfig) -> NamedSharding:
  """Says how a batch array [B, ...] is split."""
  spec = nn.logical_to_mesh_axes(('batch',), cfg.rules) or PartitionSpec(None)
  return NamedSharding(mesh, spec)


def replicated(mesh: Mesh) -> NamedSharding:
  """Says that every device holds the same array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh, cfg: MeshConfig) -> int:
  """Counts the pieces that a batch is split into."""
  return _pieces('batch', mesh, cfg)


def _pieces(axis: str, mesh: Mesh, cfg: MeshConfig) -> int:
  spec = nn.logical_to_mesh_axes((axis,), cfg.rules) or PartitionSpec(None)
  axes = (spec[0],) if isinstance(spec[0], str) else (spec[0] or ())
  return math.prod(mesh.shape[axis] for axis in axes)


def check_model(
    sizes: dict[str, tuple[str, int]], mesh: Mesh, cfg: MeshConfig
) -> None:
  """Makes sure that the mesh splits a model's axes evenly.

  Args:
    sizes: By logical axis, the name of the option that sets it and its size.
    mesh: The mesh.
    cfg: The rules.

  Raises:
    ValueError: It does not; the message names the option, its value and the
      number of pieces.
  """
  for axis, (option, size) in sizes.items():
    pieces = _pieces(axis, mesh, cfg)
    if size % pieces:
      raise ValueError(
          f'{option} must be a multiple of the {pieces} pieces that the mesh'
          f' splits it into, got {size}.'
      )


def state_shardings(
    abstract_state: Any, logical_axes: Any, mesh: Mesh, cfg: MeshConfig
) -> Any:
  """Gives the shardings of a training state: moments follow their parameter.

  Args:
    abstract_state: A tree with a field `params`, whose leaves have a shape.
    logical_axes: A tree like the params, of PartitionSpecs of logical names.
    mesh: The mesh.
    cfg: The rules.

  Returns:
    A tree of NamedSharding like the state. A leaf whose path ends in the path
    of a parameter of the same shape is split like it; every other leaf is
    replicated. A dimension that its mesh axes do not divide is not split.
  """
  is_spec = lambda x: isinstance(x, PartitionSpec)
  specs = nn.logical_to_mesh(logical_axes, cfg.rules)
  by_path = {
      _names(path): spec
      for path, spec in jax.tree_util.tree_leaves_with_path(
          specs, is_leaf=is_spec
      )
  }
  shapes = {
      _names(path): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(
          abstract_state.params
      )
  }

  def sharding(path, leaf):
    names = _names(path)
    for start in range(len(names)):
      tail = names[start:]
      if tail in by_path and shapes[tail] == leaf.shape:
        return NamedSharding(mesh, _divisible(by_path[tail], leaf.shape, mesh))
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def _names(path) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _divisible(spec: PartitionSpec, shape, mesh: Mesh) -> PartitionSpec:
  kept = []
  for size, axes in zip(shape, (*spec, *[None] * len(shape)), strict=False):
    names = (axes,) if isinstance(axes, str) else (axes or ())
    pieces = math.prod(mesh.shape[name] for name in names)
    kept.append(axes if size % pieces == 0 else None)
  return PartitionSpec(*kept)


@functools.cache  # Every batch asks again.
def local_rows(batch_size: int, sharding: NamedSharding) -> tuple[int, ...]:
  """Lists the rows of a global batch that the devices of this process hold.

  Devices of several processes may hold the same rows (along `tensor`), and the
  rows of one process need not be neighbours.
  """
  held = sharding.addressable_devices_indices_map((batch_size,)).values()
  rows = {row for index in held if index for row in range(batch_size)[index[0]]}
  return tuple(sorted(rows))


def put_batch(
    batch: dict[str, np.ndarray],
    sharding: NamedSharding,
    batch_size: int | None = None,
) -> dict[str, jax.Array]:
  """Makes global arrays [B, ...] of the rows that this process holds.

  Args:
    batch: Arrays [b, ...] of the `local_rows`.
    sharding: The sharding of the global arrays.
    batch_size: B, rows of the global batch; may be left out where there is one
      process, which holds them all.
  """
  if jax.process_count() == 1 or batch_size is None:
    return jax.device_put(batch, sharding)
  held = np.asarray(local_rows(batch_size, sharding))

  def put(rows):
    def shard(index):
      wanted = np.arange(batch_size)[index[0]]
      return rows[np.searchsorted(held, wanted)]

    shape = (batch_size, *rows.shape[1:])
    return jax.make_array_from_callback(shape, sharding, shard)

  return {name: put(rows) for name, rows in batch.items()}
