"""Gives devices of TPU slices that are not there, to compile for."""

import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

# Chips a slice of a kind can have, and its shape.
_PLANE = {
    4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16',
    256: '16x16',
}
_CUBE = {
    4: '2x2x1', 8: '2x2x2', 16: '2x2x4', 32: '2x4x4', 64: '4x4x4',
    128: '4x4x8', 256: '4x8x8', 512: '8x8x8',
}
_SHAPES = {'v5e': _PLANE, 'v6e': _PLANE, 'v5p': _CUBE}
_NAME = re.compile(r'(v5e|v5p|v6e)(?::(\d+(?:x\d+)*)|-(\d+))')
_EXAMPLES = 'v5e:8x8 or v5e-64, v6e:16x16 or v6e-256, v5p:4x4x8 or v5p-256'


def devices(name: str) -> list[jax.Device]:
  """Gives devices of a TPU slice; they can be compiled for, not computed on.

  It sets environment variables that keep the TPU library from looking for a
  TPU, so this is for processes that have no other use for one.

  Args:
    name: A kind, v5e, v5p or v6e, with its shape (`v5e:8x8`) or the number in
      its product name (`v5e-64`; that of v5p counts cores, two a chip).

  Returns:
    One device a chip.

  Raises:
    ValueError: The name is unknown, the package `libtpu` is missing, or the TPU
      library refuses the name.
  """
  shape = slice_shape(name)
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
        f'topology {name!r} needs the TPU compiler, package libtpu: install the'
        " extra 'aot' (about 700 MB), pip install 'iblm-jax[aot]'."
    )
  for variable, value in (
      ('TPU_SKIP_MDS_QUERY', '1'),
      ('TPU_ACCELERATOR_TYPE', 'v5litepod-16'),
      ('TPU_WORKER_HOSTNAMES', 'localhost'),
      # No chip is touched, so two compilations may run side by side.
      ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(variable, value)
  try:
    found = topologies.get_topology_desc(
        platform='tpu', topology_name=f'{name[:3]}:{shape}'
    ).devices
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f'topology {name!r}: {error}') from error
  return list(found)


def slice_shape(name: str) -> str:
  """Gives the shape of a named slice; see `devices`.

  >>> slice_shape('v5p-256')
  '4x4x8'
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise ValueError(f'topology must be like {_EXAMPLES}, got {name!r}.')
  kind, shape, number = match.groups()
  shapes = _SHAPES[kind]
  if number is not None:
    chips = int(number) / (2 if kind == 'v5p' else 1)
    if chips not in shapes:
      numbers = [n * (2 if kind == 'v5p' else 1) for n in shapes]
      raise ValueError(
          f'topology {kind}-N must have N in {numbers}, got {name!r}.'
      )
    return shapes[int(chips)]
  sides = shape.split('x')
  dimensions = len(next(iter(shapes.values())).split('x'))
  if len(sides) != dimensions or not math.prod(map(int, sides)):
    raise ValueError(
        f'topology {kind} must have {dimensions} sides of at least 1, like'
        f' {kind}:{shapes[16]}, got {name!r}.'
    )
  return shape
