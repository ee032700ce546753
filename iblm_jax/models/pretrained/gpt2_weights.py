"""GPT-2 as it is published: a `model.safetensors` to our parameters."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.models import config as model_config
from iblm_jax.models import decoder

# Head width of every published size, where no config.json gives their number.
_HEAD_WIDTH = 64
# Prefixes of the trunk in files of different origin.
_PREFIX = 'transformer.'
# Buffers, not weights: the causal mask and what it fills in.
_BUFFER = re.compile(r'h\.\d+\.attn\.(bias|masked_bias)')
_LAYER = re.compile(r'h\.(\d+)\.(.+)')
_OUTSIDE = {
    'wte.weight', 'wpe.weight', 'ln_f.weight', 'ln_f.bias', 'lm_head.weight',
}
_WITHIN = {
    f'{module}.{part}'
    for module in (
        'ln_1', 'attn.c_attn', 'attn.c_proj', 'ln_2', 'mlp.c_fc', 'mlp.c_proj'
    )
    for part in ('weight', 'bias')
}
# GELU with tanh, under its two names; ours has no other.
_ACTIVATIONS = ('gelu_new', 'gelu_pytorch_tanh')
# Settings under which the architecture is another one.
_FIXED = {
    'scale_attn_weights': True,
    'scale_attn_by_inverse_layer_idx': False,
    'add_cross_attention': False,
}


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
  tensors = _read(path)
  beside = path.parent / 'config.json'
  settings = files.read_object(beside) if beside.exists() else {}
  try:
    return convert_gpt2(tensors, settings)
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
  named = {
      name.removeprefix(_PREFIX): array
      for name, array in tensors.items()
      if not _BUFFER.fullmatch(name.removeprefix(_PREFIX))
  }
  num_layers = _check_names(named)
  cfg = _config(named, settings, num_layers)
  _check_shapes(named, cfg)
  float32 = lambda name: np.asarray(named[name], np.float32)

  def stack(name: str, shape: Callable[..., Any] = lambda a: a) -> np.ndarray:
    layers = [float32(f'h.{n}.{name}') for n in range(num_layers)]
    return np.stack([shape(layer) for layer in layers])

  d, h, k = cfg.width, cfg.num_heads, cfg.head_width

  def part(index: int) -> dict[str, np.ndarray]:
    columns = slice(index * d, (index + 1) * d)
    return {
        'kernel': stack(
            'attn.c_attn.weight', lambda a: a[:, columns].reshape(d, h, k)
        ),
        'bias': stack('attn.c_attn.bias', lambda a: a[columns].reshape(h, k)),
    }

  pair = lambda name, weight: {
      weight: stack(f'{name}.weight'), 'bias': stack(f'{name}.bias')
  }
  head: dict[str, Any] = {
      'norm': {'scale': float32('ln_f.weight'), 'bias': float32('ln_f.bias')}
  }
  if not cfg.tie_embeddings:
    head['kernel'] = float32('lm_head.weight').T
  return cfg, {
      'embed': {
          'tokens': float32('wte.weight'), 'positions': float32('wpe.weight')
      },
      'blocks': {
          'attention_norm': pair('ln_1', 'scale'),
          'attention': {
              'query': part(0),
              'key': part(1),
              'value': part(2),
              'out': {
                  'kernel': stack(
                      'attn.c_proj.weight', lambda a: a.reshape(h, k, d)
                  ),
                  'bias': stack('attn.c_proj.bias'),
              },
          },
          'mlp_norm': pair('ln_2', 'scale'),
          'mlp': {
              'up': pair('mlp.c_fc', 'kernel'),
              'down': pair('mlp.c_proj', 'kernel'),
          },
      },
      'head': head,
  }


def _read(path: epath.Path) -> dict[str, np.ndarray]:
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
  tensors, name = {}, None
  try:
    with safetensors.safe_open(str(path), framework='numpy') as file:
      for name in file.keys():
        tensors[name] = file.get_tensor(name)
  except safetensors.SafetensorError as error:
    raise ValueError(
        f'file {str(path)!r} is no safetensors file, or damaged: {error}.'
    ) from error
  except (AttributeError, TypeError) as error:  # such as FP8
    raise ValueError(
        f'file {str(path)!r}: {name} is of a dtype that numpy lacks ({error});'
        ' convert it to float32, float16 or bfloat16.'
    ) from error
  return tensors


def _check_names(named: Mapping[str, np.ndarray]) -> int:
  """Number of layers; ValueError unless the names are exactly GPT-2's."""
  layers = {int(m[1]) for name in named if (m := _LAYER.fullmatch(name))}
  expected = _OUTSIDE | {
      f'h.{n}.{name}' for n in range(len(layers)) for name in _WITHIN
  }
  missing = sorted(expected - named.keys() - {'lm_head.weight'})
  unknown = sorted(named.keys() - expected)
  if missing or unknown or not layers:
    raise ValueError(
        f'it lacks {_some(missing)} and holds {_some(unknown)} besides.'
    )
  return len(layers)


def _some(names: list[str]) -> str:
  rest = f', ... ({len(names)} in all)' if len(names) > 3 else ''
  return ', '.join(names[:3]) + rest if names else 'nothing'


def _config(named, settings, num_layers) -> model_config.DecoderConfig:
  for name, value in _FIXED.items():
    if settings.get(name, value) != value:
      raise ValueError(f'{name} must be {value}, got {settings[name]!r}.')
  activation = settings.get('activation_function', _ACTIVATIONS[0])
  if activation not in _ACTIVATIONS:
    raise ValueError(
        f'activation_function must be one of {_ACTIVATIONS}, got'
        f' {activation!r}.'
    )
  for name in ('wte.weight', 'wpe.weight', 'h.0.mlp.c_fc.weight'):
    if named[name].ndim != 2:
      raise ValueError(f'{name} must be a matrix, got {named[name].shape}.')
  vocab_size, width = named['wte.weight'].shape
  num_heads = settings.get('n_head')
  if num_heads is None:
    if width % _HEAD_WIDTH:
      raise ValueError(
          f'heads of {_HEAD_WIDTH} do not divide the width {width}; a'
          ' config.json with n_head must lie beside it.'
      )
    num_heads = width // _HEAD_WIDTH
  return model_config.gpt2(
      vocab_size=vocab_size,
      width=width,
      num_layers=num_layers,
      num_heads=num_heads,
      mlp_width=named['h.0.mlp.c_fc.weight'].shape[1],
      max_length=named['wpe.weight'].shape[0],
      norm_epsilon=settings.get('layer_norm_epsilon', 1e-5),
      tie_embeddings=_is_tied(named),
  )


def _is_tied(named) -> bool:
  head = named.get('lm_head.weight')
  return head is None or np.array_equal(head, named['wte.weight'])


def _check_shapes(named, cfg) -> None:
  d, f = cfg.width, cfg.hidden_width
  within = {
      'attn.c_attn': (d, 3 * d),
      'attn.c_proj': (d, d),
      'mlp.c_fc': (d, f),
      'mlp.c_proj': (f, d),
  }
  expected = {
      'wte.weight': (cfg.vocab_size, d),
      'wpe.weight': (cfg.max_length, d),
      'lm_head.weight': (cfg.vocab_size, d),
  }
  for name, array in named.items():
    module, _, part = re.sub(r'^h\.\d+\.', '', name).rpartition('.')
    if module in within:
      shape = within[module] if part == 'weight' else within[module][1:]
    else:
      shape = expected.get(name, (d,))
    if array.shape != shape:
      raise ValueError(f'{name} must have shape {shape}, got {array.shape}.')
