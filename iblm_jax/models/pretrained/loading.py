"""Models that others trained: parameters, config and tokenizer from a path."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from iblm_jax import files
from iblm_jax.data.text import published, tokenizers
from iblm_jax.models import config as model_config
from iblm_jax.models.pretrained import (
  gguf_files,
  gpt2_weights,
  layout,
  safetensors_files,
  tables,
)
from iblm_jax.models.pretrained import settings as settings_lib

DTYPES = ('float32', 'bfloat16')


class Pretrained(NamedTuple):
  """A model from files.

  Attributes:
    params: The parameters, in the tree of `models.init`.
    cfg: What `models.apply` takes.
    tokenizer: Gives the ids that the model takes.
  """

  params: Any
  cfg: model_config.DecoderConfig
  tokenizer: tokenizers.Tokenizer


def load(
    path: epath.PathLike,
    *,
    dtype: str = 'float32',
    tokenizer: str | None = None,
    shardings: Callable[[model_config.DecoderConfig], Any] | None = None,
) -> Pretrained:
  """Reads a published model: a folder of safetensors, or a GGUF.

  Names, shapes and settings are checked before the first number is read, and
  parameters are placed one after the other, so that a model is never twice in
  the host's memory.

  Args:
    path: A folder with `config.json` (a GPT-2 may lack it, or the name of its
      family in it), `model.safetensors` (or its shards and
      their index) and `tokenizer.json`; a `.safetensors` file in one; a
      `.gguf`; or 'package:NAME', the `.gguf` in an installed distribution.
      Families: gpt2, llama (SmolLM2 too), mistral, qwen2, qwen3, gpt_neox
      (Pythia), gemma, gemma2, gemma3_text; as GGUF llama, qwen2, qwen3.
    dtype: 'float32' or 'bfloat16', of the parameters and of what the model
      computes with; `cfg.dtype` can be replaced afterwards.
    tokenizer: As in `data.text.tokenizers.load_tokenizer`; None takes the one
      of the folder or file.
    shardings: `cfg -> tree` of `jax.sharding.Sharding`, where each parameter
      goes; None puts all on the default device.

  Returns:
    `(params, cfg, tokenizer)`. Tokens attend across documents, as where the
    model was trained; replace `cfg.document_mask` to change it.

  Raises:
    ValueError: A file is missing or damaged, the family, a setting, a dtype or
      a quantisation is not known, a tensor is missing or of another shape, a
      number is not finite, or the tokenizer has ids that the model does not.

  Example:
    >>> params, cfg, tokenizer = load(folder)  # doctest: +SKIP
    >>> tokens_1xL = tokenizer.encode('Paris')[None]  # doctest: +SKIP
    >>> models.apply(params, tokens_1xL, cfg).logits_BxLxV  # doctest: +SKIP
  """
  _check_dtype(dtype)
  found = read_head(path)
  with _named(found.path):
    if tokenizer is None:
      loaded = found.tokenizer()
    else:
      loaded = tokenizers.load_tokenizer(tokenizer)
    check_ids(loaded, found.cfg)
  params = read_params(found, dtype=dtype, shardings=shardings)
  return Pretrained(params, dataclasses.replace(found.cfg, dtype=dtype), loaded)


def check_ids(
    tokenizer: tokenizers.Tokenizer, model: model_config.DecoderConfig
) -> None:
  """Raises ValueError for a tokenizer of more ids than a model takes."""
  if tokenizer.vocab_size > model.vocab_size:
    raise ValueError(
        f'the tokenizer has {tokenizer.vocab_size} ids, the model takes'
        f' {model.vocab_size}.'
    )


class Head(NamedTuple):
  """What is known of a model before a number of it is read.

  Attributes:
    path: The folder or file.
    family: 'llama', 'qwen2', ..., as the files name it.
    cfg: What `models.apply` takes.
    tokenizer: Gives the tokenizer of the folder or file, or raises ValueError.
    tensors: The files.
    table: Where parameters are in them.
  """

  path: epath.Path
  family: str
  cfg: model_config.DecoderConfig
  tokenizer: Callable[[], tokenizers.Tokenizer]
  tensors: Any
  table: Any

  @property
  def folder(self) -> epath.Path | None:
    """What a folder of safetensors is; a GGUF has none."""
    if self.path.suffix == '.gguf':
      return None
    return self.path if self.path.is_dir() else self.path.parent

  def sha256(self) -> str:
    """Returns the SHA-256 of a file, or that of the lines of `sha256sum`.

    In a folder, those lines are of `config.json` and the files of weights.
    """
    paths = list(self.tensors.paths)
    config = paths[0].parent / 'config.json'
    if self.path.suffix != '.gguf' and config.exists():
      paths.append(config)
    if len(paths) == 1:
      return files.sha256(paths[0])
    paths.sort(key=lambda path: path.name)
    text = ''.join(f'{files.sha256(path)}  {path.name}\n' for path in paths)
    return hashlib.sha256(text.encode()).hexdigest()


def read_head(path: epath.PathLike) -> Head:
  """Reads what a published model is, and checks all names and shapes.

  Args:
    path: As for `load`.

  Raises:
    ValueError: As `load`, but for what only the numbers or the tokenizer say.
  """
  source = published.located(path)
  opened = _gguf if source.suffix == '.gguf' else _safetensors
  with _named(source):
    family, tensors, table, cfg, own = opened(source)
    layout.check(tensors, table, cfg, tables.ignored(cfg))
  return Head(source, family, cfg, own, tensors, table)


def read_params(
    head: Head,
    *,
    dtype: str = 'float32',
    shardings: Callable[[model_config.DecoderConfig], Any] | None = None,
) -> Any:
  """Reads the parameters of a model; see `load`."""
  _check_dtype(dtype)
  with _named(head.path):
    return layout.read(
        head.tensors,
        head.table,
        head.cfg,
        jnp.dtype(dtype),
        _placing(head.cfg, shardings),
    )


def _check_dtype(dtype: str) -> None:
  if dtype not in DTYPES:
    raise ValueError(f'dtype must be one of {DTYPES}, got {dtype!r}.')


@contextlib.contextmanager
def _named(path: epath.Path):
  """Says which model an error is about."""
  try:
    yield
  except (ValueError, OverflowError) as error:
    text = str(error)
    if isinstance(error, OverflowError):
      text = f'a size in it is too large: {text}.'
    elif str(path) in text:
      raise
    raise ValueError(f'{path}: {text}') from error


def _gguf(path: epath.Path):
  file = gguf_files.GgufFile(path)
  cfg = file.config()
  own = lambda: tokenizers.of_object(file.tokenizer(), str(path))
  kind = file.architecture
  return kind, file, tables.GGUF[kind], cfg, own


def _safetensors(path: epath.Path):
  folder = path if path.is_dir() else path.parent
  config = folder / 'config.json'
  given = files.read_object(config) if config.exists() else {}
  kind = str(given.get('model_type', 'gpt2'))
  if kind == 'gpt2':
    tensors, cfg = _gpt2(path, config, given)
  else:
    cfg = settings_lib.to_config(given)
    tensors = safetensors_files.SafetensorsFiles(path)
  own = lambda: _beside(folder, given.get('eos_token_id'))
  return kind, tensors, tables.SAFETENSORS[kind], cfg, own


def _gpt2(path: epath.Path, config: epath.Path, given: dict[str, Any]):
  """A GPT-2, which its tensors tell from others where no config does."""
  try:
    tensors = safetensors_files.SafetensorsFiles(
        path, gpt2_weights.without_prefix
    )
    return tensors, gpt2_weights.of_tensors(tensors, given)
  except ValueError as error:
    if 'model_type' in given:
      raise
    lacks = 'names no model_type' if given else 'does not exist'
    raise ValueError(
        f'{config} {lacks}, which says what the model is, and'
        f' {path} is not a GPT-2: {error}'
    ) from error


def _beside(folder: epath.Path, eos_id: Any) -> tokenizers.Tokenizer:
  """The tokenizer of a folder; one without the model's eos is another's."""
  path = folder / 'tokenizer.json'
  if not path.exists():
    raise ValueError(
        f'tokenizer must be given: there is no {path} beside the weights.'
    )
  loaded = tokenizers.load_tokenizer(str(path))
  ends = eos_id if isinstance(eos_id, list) else [eos_id]
  for end in ends:
    if end is not None and (not isinstance(end, int) or end < 0):
      raise ValueError(
          f'eos_token_id must be one or several ids >= 0, got {eos_id!r:.60}.'
      )
    if end is not None and end >= loaded.vocab_size:
      raise ValueError(
          f'{path} must hold the eos_token_id {end} of the config, got'
          f' {loaded.vocab_size} ids: it is of another vocabulary.'
      )
  return loaded


def _placing(cfg, shardings) -> layout.Place:
  """Puts a parameter on its devices, and waits: copies hold what they copy."""
  if shardings is None:
    return lambda _, host: jax.block_until_ready(jax.device_put(host))
  where = layout.by_path(shardings(cfg))
  # Every process cuts out what its own devices hold.
  return lambda path, host: jax.block_until_ready(
      jax.make_array_from_callback(
          host.shape, where[path], lambda index: host[index]
      )
  )
