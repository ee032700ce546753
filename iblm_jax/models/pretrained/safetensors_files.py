"""Tensors of one or more `.safetensors` files, memory-mapped."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.models.pretrained import layout

DTYPES = ('F32', 'F16', 'BF16')
_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'


class SafetensorsFiles:
  """Tensors of files, read one at a time; see `layout.Tensors`."""

  def __init__(
      self, path: epath.Path, rename: Callable[[str], str] = lambda name: name
  ):
    """Reads the heads of files.

    Args:
      path: A file, or a folder with `model.safetensors` or the index of several
        files.
      rename: Makes a name of the table from one of the file.

    Raises:
      ValueError: A file is missing or damaged, lacks what the index says, or
        the package safetensors is not installed.
    """
    self.found: dict[str, layout.Tensor] = {}
    self._slices: dict[str, Any] = {}
    self.paths = []
    for file, names in _files(path).items():
      self.paths.append(file)
      opened = _open(file)
      held = set(opened.keys())
      missing = sorted(set(names or ()) - held)
      if missing:
        raise ValueError(
            f'{file} must hold {layout.some(missing)}, which the index says.'
        )
      for name in held:
        tensor = opened.get_slice(name)
        ours = rename(name)
        self.found[ours] = layout.Tensor(
            tuple(tensor.get_shape()), tensor.get_dtype()
        )
        self._slices[ours] = opened, name

  def check(self, name: str) -> None:
    """Raises ValueError for a dtype that is not read."""
    dtype = self.found[name].dtype
    if dtype not in DTYPES:
      raise ValueError(
          f'{name} is of dtype {dtype}; convert it to float32, float16 or'
          f' bfloat16: {DTYPES}.'
      )

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor."""
    self.check(name)
    opened, theirs = self._slices[name]
    return opened.get_tensor(theirs)


def _files(path: epath.Path) -> dict[epath.Path, list[str] | None]:
  """Files and the names that each must hold; None for any."""
  if not path.is_dir():
    return {path: None}
  index = path / _INDEX
  if (path / _SINGLE).exists() or not index.exists():
    return {path / _SINGLE: None}
  where = files.read_object(index).get('weight_map')
  if not isinstance(where, dict) or not where:
    raise ValueError(f'{index} must have a weight_map of names to files.')
  shards: dict[epath.Path, list[str] | None] = {}
  for name, file in where.items():
    if not isinstance(file, str) or '/' in file or not file:
      raise ValueError(f'{index} must name files beside it, got {file!r}.')
    names = shards.setdefault(path / file, [])
    assert names is not None
    names.append(name)
  for file in shards:
    if not file.exists():
      raise ValueError(f'file {str(file)!r} does not exist; {index} needs it.')
  return shards


def _open(path: epath.Path) -> Any:
  if not os.path.isfile(path):  # a pipe would be waited for
    what = 'is no file' if path.exists() else 'does not exist'
    raise ValueError(f'file {str(path)!r} {what}.')
  try:
    import safetensors
  except ImportError as error:
    raise ValueError(
        f'{str(path)!r} needs the package safetensors: run'
        " `pip install 'iblm-jax[hf]'`."
    ) from error
  try:
    return safetensors.safe_open(str(path), framework='numpy').__enter__()
  except safetensors.SafetensorError as error:
    raise ValueError(
        f'file {str(path)!r} is no safetensors file, or damaged: {error}.'
    ) from error
