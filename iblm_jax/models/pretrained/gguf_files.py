"""Tensors, settings and the tokenizer of a `.gguf` file, memory-mapped."""

import functools
import math
from typing import Any

import numpy as np
from etils import epath

from iblm_jax.data.text import gguf_header, gguf_tokenizer
from iblm_jax.models import config as model_config
from iblm_jax.models.nn import blocks
from iblm_jax.models.pretrained import gguf_numbers, layout, tables

_SCALING = 'rope.scaling.type'
# What else a file may say of itself; no logit depends on it.
_ELSEWHERE = ('general.', 'tokenizer.', 'GGUF.', 'quantize.', 'split.')


class GgufFile:
  """A file; its tensors are read one at a time, see `layout.Tensors`.

  Attributes:
    found: Shapes and quantisations by name.
    architecture: What `general.architecture` says.
  """

  def __init__(self, path: epath.Path):
    """Reads the head of a file.

    Raises:
      ValueError: The file is missing or damaged, or the package gguf is not
        installed.
    """
    self._path, self.paths = path, [path]
    try:
      import gguf
    except ImportError as error:
      raise ValueError(
          f'{str(path)!r} needs the package gguf: run'
          " `pip install 'iblm-jax[gguf]'`."
      ) from error
    self._gguf = gguf
    self._data, self._values, self._places = gguf_header.of_file(path)
    kinds = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
    self.found = {
        name: layout.Tensor(place.shape, kinds.get(place.kind, str(place.kind)))
        for name, place in self._places.items()
    }
    self.architecture = self.value('general.architecture', None)

  def value(self, key: str, default: Any) -> Any:
    """Gives what a key says, or the default."""
    return self._values.get(key, default)

  def check(self, name: str) -> None:
    """Raises ValueError for an unknown quantisation, or bytes that lack."""
    raw = self._raw(name)
    self._numbers(name, raw[:1] if raw.ndim > 1 else raw)

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor as float32."""
    return self._numbers(name, self._raw(name))

  def _raw(self, name: str) -> np.ndarray:
    """The bytes of a tensor, one row for each of its last axis."""
    place, kind = self._places[name], self.found[name].dtype
    sizes = self._gguf.GGML_QUANT_SIZES
    known = self._gguf.GGMLQuantizationType.__members__.get(kind)
    if known is None or known not in sizes:
      raise ValueError(f'{name} has the unknown quantisation {kind}.')
    numbers, size = sizes[known]
    *rows, last = place.shape
    if last % numbers:
      raise ValueError(
          f'{name} must have rows of a multiple of {numbers} numbers for'
          f' {kind}, got {place.shape}.'
      )
    count = math.prod(rows) * (last // numbers) * size
    raw = self._data[place.start : place.start + count]
    if raw.size < count:
      raise ValueError(
          f'{name} needs {count} bytes from {place.start} on, the file has'
          f' {self._data.size}.'
      )
    return np.asarray(raw).reshape(*rows, last // numbers * size)

  def _numbers(self, name: str, raw: np.ndarray) -> np.ndarray:
    kind = self._gguf.GGMLQuantizationType[self.found[name].dtype]
    if kind.name in gguf_numbers.KINDS:
      return gguf_numbers.dequantize(raw, kind.name)
    try:
      return self._gguf.dequantize(raw, kind)
    except NotImplementedError as error:
      raise ValueError(
          f'{name} has the unknown quantisation {kind.name}.'
      ) from error

  def config(self) -> model_config.DecoderConfig:
    """Makes the config of the model.

    Raises:
      ValueError: The architecture is not built, a key is missing, or one is
        unknown that may change the computation.
    """
    kind = self.architecture
    if kind not in tuple(tables.GGUF):  # a list is no key
      raise ValueError(
          f'general.architecture must be one of {tuple(tables.GGUF)}, got'
          f' {kind!r}.'
      )
    used = set()

    def take(key: str, default: Any = None) -> Any:
      used.add(f'{kind}.{key}')
      value = self.value(f'{kind}.{key}', default)
      if value is None:
        raise ValueError(f'{kind}.{key} must be given.')
      if key != _SCALING and not (
          isinstance(value, int | float) and value > 0
      ):
        raise ValueError(
            f'{kind}.{key} must be one number above 0, got {value!r:.80}.'
        )
      return value

    width, heads = take('embedding_length'), take('attention.head_count')
    head_dim = take('attention.key_length', width // heads)
    for key, only in (
        ('attention.value_length', head_dim),
        ('rope.dimension_count', head_dim),
    ):
      if take(key, only) != only:
        raise ValueError(f'{kind}.{key} must be {only}, got {take(key)}.')
    shared = take('attention.head_count_kv', heads)
    embedding = self.found.get('token_embd.weight')
    if embedding is None:
      raise ValueError('it lacks token_embd.weight.')
    found = model_config.DecoderConfig(
        vocab_size=take('vocab_size', embedding.shape[0]),
        num_layers=take('block_count'),
        width=width,
        num_heads=heads,
        num_kv_heads=None if shared == heads else shared,
        head_dim=None if head_dim * heads == width else head_dim,
        mlp_width=take('feed_forward_length'),
        max_length=take('context_length'),
        norm='rms',
        norm_epsilon=take('attention.layer_norm_rms_epsilon'),
        rotary_base=take('rope.freq_base', 10_000.0),
        rotary_scaling=self._scaling(take, head_dim),
        activation='swiglu',
        tie_embeddings='output.weight' not in self.found,
        qkv_biases=True if kind == 'qwen2' else None,
        qk_norm=kind == 'qwen3',
        qk_norm_scale=kind == 'qwen3',
        document_mask=False,
    )
    unknown = sorted(
        key
        for key in self._values.keys() - used
        if not key.startswith(_ELSEWHERE)
    )
    if unknown:
      raise ValueError(
          'unknown keys, which may change the computation:'
          f' {layout.some(unknown)}.'
      )
    return found

  def tokenizer(self) -> Any:
    """Builds the `tokenizers.Tokenizer` that the file describes.

    Raises:
      ValueError: It is no byte-level BPE, its pre-tokenizer is not known, or
        the package tokenizers is not installed.
    """
    return gguf_tokenizer.build(str(self._path), self.value)

  def _scaling(self, take, width) -> model_config.RotaryScaling | None:
    kind = take(_SCALING, 'none')
    factor = take('rope.scaling.factor', 1.0)
    if kind not in ('none', 'linear'):
      raise ValueError(
          f"rope.scaling.type must be one of ('none', 'linear'), got {kind!r}."
      )
    name = tables.ROPE_FACTORS
    if kind == 'linear' and factor != 1.0:
      if name in self.found:
        raise ValueError(f"rope.scaling.type must be 'none' with {name}.")
      return model_config.RotaryScaling('linear', factor=float(factor))
    if name not in self.found:
      return None
    shape = (width // 2,)
    if self.found[name].shape != shape:
      raise ValueError(
          f'{name} must have shape {shape}, got {self.found[name].shape}.'
      )
    # Only what the numbers of Llama 3 give is in the file, not they themselves.
    self.check(name)
    found = self.read(name)
    factor = float(np.nan_to_num(found).max(initial=1.0))
    found_as = model_config.RotaryScaling('llama3', factor=factor)
    of_base = functools.partial(
        blocks.rotary_frequencies, width, take('rope.freq_base', 10_000.0)
    )
    expected = np.asarray(of_base() / of_base(found_as))
    if not np.allclose(found, expected, rtol=1e-5):
      raise ValueError(
          f'{name} must be how {found_as} stretches wavelengths, which is not'
          ' so.'
      )
    return found_as
