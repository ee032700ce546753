"""GPT-2 as it is published: a `model.safetensors` to our parameters."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.models import config as model_config
from iblm_jax.models import decoder
from iblm_jax.models.pretrained import layout, safetensors_files, tables
from iblm_jax.models.pretrained import settings as settings_lib

# Head width of every published size, where no config.json gives their number.
_HEAD_WIDTH = 64
# Prefixes of the trunk in files of different origin.
_PREFIX = 'transformer.'
_LAYER = re.compile(r'h\.(\d+)\..+')
_HEAD = 'lm_head.weight'


def load_gpt2(
    path: epath.PathLike,
) -> tuple[model_config.DecoderConfig, decoder.Params]:
  """Reads GPT-2 from a local safetensors file.

  Args:
    path: The file, or a folder with a `model.safetensors`. Sizes come
      from the arrays; heads, the norm's epsilon and what must not differ come
      from a `config.json` beside it, or are those of GPT-2 (heads of 64).

  Returns:
    The model's config, and its parameters as float32 NumPy arrays, in the tree
    that `decoder.init` gives.

  Raises:
    ValueError: A file is missing, is no safetensors or holds another
      architecture, or the package safetensors is not installed.
  """
  path = epath.Path(path)
  if path.is_dir():
    path = path / 'model.safetensors'
  tensors = safetensors_files.SafetensorsFiles(path, without_prefix)
  beside = path.parent / 'config.json'
  settings = files.read_object(beside) if beside.exists() else {}
  try:
    cfg = of_tensors(tensors, settings)
    return cfg, _read(tensors, cfg)
  except ValueError as error:
    raise ValueError(f'{path} is not a GPT-2: {error}') from error


def convert_gpt2(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> tuple[model_config.DecoderConfig, decoder.Params]:
  """Converts arrays under their published names to config and parameters.

  Args:
    tensors: With or without the prefix `transformer.`; linear maps are [in,
      out], queries, keys and values in one.
    settings: From `config.json`; may be empty.

  Returns:
    As `load_gpt2`.

  Raises:
    ValueError: A name is missing or unknown, a shape does not fit, or under a
      setting the architecture is another one.
  """
  held = _Arrays(tensors)
  cfg = of_tensors(held, settings)
  return cfg, _read(held, cfg)


def without_prefix(name: str) -> str:
  """Takes the name of the trunk off a parameter's name."""
  return name.removeprefix(_PREFIX)


def of_tensors(
    tensors: layout.Tensors, settings: Mapping[str, Any]
) -> model_config.DecoderConfig:
  """Makes the config; the arrays say sizes that the settings leave out.

  Raises:
    ValueError: As `convert_gpt2`, but for shapes and numbers.
  """
  found = {
      name: tensor.shape
      for name, tensor in tensors.found.items()
      if not tables.BUFFERS.fullmatch(name)
  }
  layers = {int(m[1]) for name in found if (m := _LAYER.fullmatch(name))}
  expected = {
      name
      for entry in tables.SAFETENSORS['gpt2']
      for name in layout.their_names(entry, len(layers))
  } - {_HEAD}
  layout.check_names(found, expected, frozenset({_HEAD}))
  for name in ('wte.weight', 'wpe.weight', 'h.0.mlp.c_fc.weight'):
    if len(found[name]) != 2:
      raise ValueError(f'{name} must be a matrix, got {found[name]}.')
  vocab_size, width = found['wte.weight']
  num_heads = settings.get('n_head')
  if num_heads is None and width % _HEAD_WIDTH:
    raise ValueError(
        f'heads of {_HEAD_WIDTH} do not divide the width {width}; a'
        ' config.json with n_head must lie beside it.'
    )
  return settings_lib.to_config({
      'vocab_size': vocab_size,
      'n_embd': width,
      'n_layer': len(layers),
      'n_head': num_heads or width // _HEAD_WIDTH,
      'n_inner': found['h.0.mlp.c_fc.weight'][1],
      'n_positions': found['wpe.weight'][0],
      **{name: value for name, value in settings.items() if value is not None},
      'model_type': 'gpt2',
      'tie_word_embeddings': _is_tied(tensors),
  })


def _is_tied(tensors: layout.Tensors) -> bool:
  return _HEAD not in tensors.found or np.array_equal(
      tensors.read(_HEAD), tensors.read('wte.weight')
  )


def _read(tensors, cfg) -> decoder.Params:
  table = tables.SAFETENSORS['gpt2']
  layout.check(tensors, table, cfg, tables.ignored(cfg))
  return layout.read(tensors, table, cfg, np.float32, lambda _, array: array)


class _Arrays:
  """Arrays at hand, see `layout.Tensors`."""

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self._arrays = {without_prefix(k): array for k, array in arrays.items()}
    self.found = {
        name: layout.Tensor(array.shape, str(array.dtype))
        for name, array in self._arrays.items()
    }

  def check(self, name: str) -> None:
    """All dtypes of NumPy are read."""

  def read(self, name: str) -> np.ndarray:
    """Gives one array."""
    return self._arrays[name]
