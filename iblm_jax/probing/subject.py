"""Models and data to probe: those of a run, or a published model and a text."""

import dataclasses
from typing import Any

import jax
from etils import epath

from iblm_jax.data import batches, sources
from iblm_jax.data.text import files as text_lib
from iblm_jax.data.text import packing
from iblm_jax.models import families
from iblm_jax.models.pretrained import gpt2_file, published
from iblm_jax.probing import decoder_probe as probing
from iblm_jax.training import (
  checkpoint_paths,
  config,
  data_record,
  restoring,
)

_LENGTH = 16  # of a decoder, which has no length of its own
_HOLDOUT = 0.1


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model and the data that it reads.

  Attributes:
    name: Name of the run, or of the weights.
    what: Family of the model.
    model: Its config.
    params: Its parameters.
    train: Rows that the probe's decoder is trained on.
    heldout: Rows that it is evaluated on.
    length: L, tokens of a sequence.
    position: The position whose state is the vector.
    step: Updates that the model has seen; None for weights from elsewhere.
  """

  name: str
  what: str
  model: families.ModelConfig
  params: Any
  train: batches.Source
  heldout: batches.Source
  length: int
  position: str | int
  step: int | None = None

  def encoder(self, block: int | None = None) -> probing.Encoder:
    """Makes the frozen encoder, see `decoder_probe.of_model`."""
    return probing.of_model(self.model, self.params, self.position, block)

  def untrained(self, seed: int) -> 'Subject':
    """Returns the same model with fresh parameters."""
    init = jax.jit(families.init, static_argnums=1)
    params = init(jax.random.key(seed), self.model)
    return dataclasses.replace(self, params=params)

  def describe(self) -> dict[str, Any]:
    """The subject as JSON types."""
    return {
        'name': self.name,
        'family': self.what,
        'step': self.step,
        'length': self.length,
        'position': self.position,
        'vocab_size': self.model.vocab_size,
    }


def load(
    workdir: str,
    *,
    checkpoint: str | None = None,
    gpt2: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    position: str | int | None = None,
    step: int | None = None,
) -> Subject:
  """Reads a checkpoint, or a published model, and opens the data.

  Args:
    workdir: Folder of the run, unless `checkpoint` or `gpt2` is given.
    checkpoint: What to read instead, see `checkpoint_paths.find_run`.
    gpt2: Weights of GPT-2 to read instead.
    text: A file of text, for a published model.
    tokenizer: That of the text; None for the model's own.
    length: Tokens of a sequence; None for what the model encodes.
    position: See `decoder_probe.of_model`.
    step: The checkpoint of a run, in updates; None for the newest one.

  Raises:
    ValueError: Something is missing or does not fit.
    CheckpointError: No checkpoint of the run is intact.
  """
  if gpt2 is not None and checkpoint is not None:
    raise ValueError(
        f'one of checkpoint and gpt2 must be given, got {checkpoint=} and'
        f' {gpt2=}.'
    )
  if checkpoint is None and (gpt2 is None) != (text is None):
    raise ValueError(
        f'gpt2 and text must be given together, got {gpt2=} and {text=}.'
    )
  if length is not None and length < 1:
    raise ValueError(f'length must be at least 1, got {length}.')
  run = checkpoint_paths.Run(epath.Path(workdir), None)
  if checkpoint is not None:
    run = checkpoint_paths.find_run(checkpoint)
  if gpt2 is None and run is not None:
    if text is not None:
      raise ValueError(
          'text must be None for a run, which reads its own data, got'
          f' {text!r}.'
      )
    if tokenizer is not None:
      raise ValueError(
          f'tokenizer must be None without gpt2, got {tokenizer!r}.'
          if checkpoint is None
          else f'tokenizer must be None for a run, got {tokenizer!r}.'
      )
    return _of_run(run, length, position, step)
  name = 'gpt2' if checkpoint is None else 'a published model'
  if step is not None:
    raise ValueError(f'step must be None with {name}, got {step}.')
  if text is None:
    raise ValueError('text must be given: a model from files names no data.')
  if gpt2 is not None:
    found, family = gpt2_file.load(epath.Path(gpt2), tokenizer), 'gpt2'
  else:
    assert checkpoint is not None
    found = published.load(checkpoint, tokenizer)
    family = families.name(found.model)
  return _published(found, family, text, length or _LENGTH, position)


def _of_run(run, length, position, step) -> Subject:
  if run.step is not None:
    if step not in (None, run.step):
      raise ValueError(
          f'step must be that of the checkpoint, {run.step}, got {step}.'
      )
    step = run.step
  workdir = run.folder
  cfg = config.read_run(workdir)
  families.encoder(cfg.model)
  own = families.lengths(cfg.model).measured
  if own is not None and length not in (None, own):
    raise ValueError(
        f'length must be {own}, which is what this model encodes, got {length}.'
    )
  names = sources.split_names(cfg.data)
  if len(names) < 2:
    raise ValueError('the data of the run must hold something out.')
  _check_length(length, families.lengths(cfg.model).longest)
  splits = sources.make_sources(cfg.data)
  # Else rows that it was trained on might be held out here.
  data_record.check_config(workdir, cfg.data)
  restored = restoring.restore_params(cfg, workdir, step=step)
  if position is None:
    position = getattr(cfg.model, 'position', 'last_valid')
  return Subject(
      workdir.resolve().name,
      families.name(cfg.model),
      cfg.model,
      restored.params,
      splits['train'],
      splits[names[1]],
      own or length or min(_LENGTH, splits['train'].length),
      position,
      restored.step,
  )


def _check_length(length: int | None, most: int | None) -> None:
  if length is not None and most is not None and length > most:
    raise ValueError(
        f'length must be at most {most}, the positions of the model, got'
        f' {length}.'
    )


def _published(
    found: published.Published, family: str, text: str, length: int, position
) -> Subject:
  _check_length(length, found.model.max_length)
  documents = text_lib.read_documents(text_lib.TextConfig(paths=(text,)))
  sides = text_lib.split_documents(documents, _HOLDOUT)
  train, heldout = (
      packing.pack_text(
          side, found.tokenizer, seq_len=length, batch_size=64, train=is_train
      )
      for side, is_train in zip(sides, (True, False), strict=True)
  )
  return Subject(
      found.name,
      family,
      found.model,
      found.params,
      train,
      heldout,
      length,
      'last_valid' if position is None else position,
  )
