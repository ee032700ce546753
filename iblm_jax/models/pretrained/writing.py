"""Models in the layout in which others publish them."""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.data.text import tokenizers
from iblm_jax.models import config as model_config
from iblm_jax.models.pretrained import (
  layout,
  loading,
  tables,
  writing_settings,
  writing_text,
)

SHARD_BYTES = 5 * 10**9
_DTYPES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}
# The trunk of a GPT-2 has a prefix, which tables leave out.
_TRUNKS = {'gpt2': 'transformer.'}


class Written(NamedTuple):
  """What is known of a tensor before it is made.

  Attributes:
    shape: In the file.
    dtype: 'float32', 'bfloat16' or 'float16'.
    make: Gives the numbers.
  """

  shape: tuple[int, ...]
  dtype: str
  make: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """Bytes in the file."""
    return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


def save(
    params: Any,
    cfg: model_config.DecoderConfig,
    tokenizer: tokenizers.Tokenizer | None,
    out: epath.PathLike,
    *,
    family: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    like: loading.Head | None = None,
) -> str:
  """Writes a model as a folder that `transformers` loads, and so does `load`.

  Parameters are written one after the other, each as soon as it is converted,
  and the folder gets its name when all of it is on the disk.

  Args:
    params: The parameters, in the tree of `models.init`.
    cfg: The model.
    tokenizer: Gives the ids that the model takes; None writes none. One that
      has no such form (SentencePiece) is left out, and a warning says so.
    out: The folder, empty or not there yet.
    family: See `writing_settings.from_config`.
    dtype: 'float32', 'bfloat16' or 'float16'; None keeps that of the
      parameters.
    shard_bytes: Most bytes of numbers in a file, unless one tensor has more; a
      larger model is written to several files with an index.
    like: Head of the published model that the tokenizer is of. What its files
      say of text is taken: files of tokenizer and generation as they are, of a
      GGUF the end of text and the chat template.

  Returns:
    The family.

  Raises:
    ValueError: No family has a switch of the model, the parameters are not
      those of the config, a number is not finite, the tokenizer has ids that
      the model does not, or `out` holds something.

  Example:
    >>> import jax, tempfile
    >>> from iblm_jax import models
    >>> cfg = models.llama(8, num_layers=1, width=8, num_heads=2)
    >>> params = models.init(jax.random.key(0), cfg)
    >>> out = epath.Path(tempfile.mkdtemp()) / 'out'
    >>> save(params, cfg, None, out)
    'llama'
    >>> sorted(path.name for path in out.iterdir())
    ['config.json', 'generation_config.json', 'model.safetensors']
  """
  if dtype is not None and dtype not in _DTYPES:
    raise ValueError(f'dtype must be one of {tuple(_DTYPES)}, got {dtype!r}.')
  settings = writing_settings.from_config(cfg, family)
  kind = settings['model_type']
  tensors = _tensors(params, cfg, kind, dtype)
  text = writing_text.of_tokenizer(tokenizer, cfg, like)
  settings |= text.settings
  settings |= {'torch_dtype': next(iter(tensors.values())).dtype}
  with files.new_folder('out', out) as folder:
    write_tensors(folder, 'model', tensors, shard_bytes)
    for name, contents in text.contents.items():
      files.write_bytes(folder / name, contents)
    files.write_json(folder / 'config.json', settings)
  return kind


def write_tensors(
    folder: epath.Path,
    stem: str,
    tensors: Mapping[str, Written],
    shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes tensors to one safetensors file, or to several and their index.

  Args:
    folder: Of the files.
    stem: Their name, 'model' for a model.
    tensors: By their names in the files.
    shard_bytes: See `save`.

  Raises:
    ValueError: A number is not finite.
  """
  shards = list(_shards(tensors, shard_bytes))
  if len(shards) == 1:
    _write(folder / f'{stem}.safetensors', tensors)
    return
  where = {}
  for i, names in enumerate(shards, 1):
    file = f'{stem}-{i:05}-of-{len(shards):05}.safetensors'
    _write(folder / file, {name: tensors[name] for name in names})
    where |= dict.fromkeys(names, file)
  size = sum(tensor.nbytes for tensor in tensors.values())
  files.write_json(
      folder / f'{stem}.safetensors.index.json',
      {'metadata': {'total_size': size}, 'weight_map': where},
  )


def full_name(family: str, name: str) -> str:
  """Gives the name of a table as it is within a model with its head."""
  is_head = name.split('.')[0] == 'lm_head'
  return name if is_head else _TRUNKS.get(family, '') + name


def _tensors(params, cfg, kind, dtype) -> dict[str, Written]:
  """All tensors of a model, by their names."""
  leaves = layout.by_path(params)
  wanted = layout.of_model(tables.SAFETENSORS[kind], cfg)
  for path, (_, expected) in wanted.items():
    found = leaves.get(path)
    if found is None or found.shape != expected.shape:
      raise ValueError(
          f'params must have {path} of shape {expected.shape}, got'
          f' {found if found is None else found.shape}.'
      )
  if unknown := sorted(leaves.keys() - wanted.keys()):
    raise ValueError(
        f'params must be of the model, got {layout.some(unknown)} besides.'
    )
  held: dict[str, list[tuple[layout.Entry, int]]] = {}
  for entry, _ in wanted.values():
    for n, name in enumerate(layout.their_names(entry, cfg.num_layers)):
      held.setdefault(name, []).append((entry, n))

  def make(parts):
    def ours(entry, n):
      leaf = leaves[entry.path]
      return np.asarray(leaf[n] if '{n}' in entry.name else leaf)

    return layout.to_theirs([(e, ours(e, n)) for e, n in parts], cfg)

  return {
      full_name(kind, name): Written(
          layout.their_shape(parts[0][0], cfg),
          dtype or str(leaves[parts[0][0].path].dtype),
          lambda parts=parts: make(parts),
      )
      for name, parts in held.items()
  }


def _shards(
    tensors: Mapping[str, Written], shard_bytes: int
) -> Iterator[list[str]]:
  """Names of tensors that fit into one file."""
  names: list[str] = []
  size = 0
  for name, tensor in tensors.items():
    if names and size + tensor.nbytes > shard_bytes:
      yield names
      names, size = [], 0
    names.append(name)
    size += tensor.nbytes
  yield names


def _write(path: epath.Path, tensors: Mapping[str, Written]) -> None:
  """Writes one file; the package takes all numbers at once for it."""
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  end = 0
  for name, tensor in tensors.items():
    start, end = end, end + tensor.nbytes
    header[name] = {
        'dtype': _DTYPES[tensor.dtype],
        'shape': tensor.shape,
        'data_offsets': [start, end],
    }
  raw = json.dumps(header).encode()
  raw += b' ' * (-len(raw) % 8)
  with open(path, 'wb') as file:
    file.write(struct.pack('<Q', len(raw)) + raw)
    for name, tensor in tensors.items():
      array = np.ascontiguousarray(tensor.make(), jnp.dtype(tensor.dtype))
      if not np.isfinite(array).all():
        raise ValueError(f'{name} must be finite, got NaN or an infinity.')
      file.write(array.reshape(-1).view(np.uint8).data)
      del array
  files.sync(path)

