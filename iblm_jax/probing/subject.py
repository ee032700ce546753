"""Encoders and data to probe: those of a run, or GPT-2 weights and a text."""

import dataclasses
from typing import Any

from etils import epath

from iblm_jax.data import batches, sources
from iblm_jax.data.text import files as text_lib
from iblm_jax.data.text import packing
from iblm_jax.models import families
from iblm_jax.models.pretrained import gpt2_file
from iblm_jax.probing import decoder_probe as probing
from iblm_jax.training import config, data_record, restoring

_LENGTH = 16  # of a decoder, which has no length of its own
_HOLDOUT = 0.1


@dataclasses.dataclass(frozen=True)
class Subject:
  """An encoder and the data that it reads.

  Attributes:
    name: Name of the run, or of the weights.
    what: Family of the model.
    encoder: The frozen encoder.
    train: Rows that the probe's decoder is trained on.
    heldout: Rows that it is evaluated on.
    length: L, tokens of a sequence.
    position: The position whose state is the vector.
    step: Updates that the model has seen; None for weights from elsewhere.
  """

  name: str
  what: str
  encoder: probing.Encoder
  train: batches.Source
  heldout: batches.Source
  length: int
  position: str
  step: int | None = None

  def describe(self) -> dict[str, Any]:
    """The subject as JSON types."""
    return {
        'name': self.name,
        'family': self.what,
        'step': self.step,
        'length': self.length,
        'position': self.position,
        'vocab_size': self.encoder.vocab_size,
    }


def load(
    workdir: str,
    *,
    gpt2: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    position: str | None = None,
    step: int | None = None,
) -> Subject:
  """Reads a checkpoint, or GPT-2 weights, and opens the data.

  Args:
    workdir: Folder of the run.
    gpt2: Weights to take instead of a run.
    text: A file of text, with `gpt2`.
    tokenizer: The tokenizer, with `gpt2`; see `gpt2_file.load`.
    length: Tokens of a sequence; None for what the model encodes.
    position: See `decoder_probe.of_model`.
    step: The checkpoint, in updates; None for the newest one.

  Raises:
    ValueError: Something is missing or does not fit.
    CheckpointError: No checkpoint of the run is intact.
  """
  if (gpt2 is None) != (text is None):
    raise ValueError(
        f'gpt2 and text must be given together, got {gpt2=} and {text=}.'
    )
  if length is not None and length < 1:
    raise ValueError(f'length must be at least 1, got {length}.')
  if gpt2 is not None and text is not None:
    if step is not None:
      raise ValueError(f'step must be None with gpt2, got {step}.')
    return _gpt2(
        epath.Path(gpt2), text, tokenizer, length or _LENGTH, position
    )
  if tokenizer is not None:
    raise ValueError(f'tokenizer must be None without gpt2, got {tokenizer!r}.')
  run = config.read_run(workdir)
  families.encoder(run.model)
  own = families.lengths(run.model).measured
  if own is not None and length not in (None, own):
    raise ValueError(
        f'length must be {own}, which is what this model encodes, got {length}.'
    )
  names = sources.split_names(run.data)
  if len(names) < 2:
    raise ValueError('the data of the run must hold something out.')
  _check_length(length, families.lengths(run.model).longest)
  splits = sources.make_sources(run.data)
  # Else rows that it was trained on might be held out here.
  data_record.check_config(workdir, run.data)
  restored = restoring.restore_params(run, workdir, step=step)
  encoder = probing.of_model(run.model, restored.params, position)
  return Subject(
      epath.Path(workdir).resolve().name,
      families.name(run.model),
      encoder,
      splits['train'],
      splits[names[1]],
      own or length or min(_LENGTH, splits['train'].length),
      position or getattr(run.model, 'position', 'last_valid'),
      restored.step,
  )


def _check_length(length: int | None, most: int | None) -> None:
  if length is not None and most is not None and length > most:
    raise ValueError(
        f'length must be at most {most}, the positions of the model, got'
        f' {length}.'
    )


def _gpt2(path: epath.Path, text: str, tokenizer, length, position) -> Subject:
  name, model, params, loaded = gpt2_file.load(path, tokenizer)
  _check_length(length, model.max_length)
  documents = text_lib.read_documents(text_lib.TextConfig(paths=(text,)))
  sides = text_lib.split_documents(documents, _HOLDOUT)
  train, heldout = (
      packing.pack_text(
          side, loaded, seq_len=length, batch_size=64, train=is_train
      )
      for side, is_train in zip(sides, (True, False), strict=True)
  )
  return Subject(
      name,
      'gpt2',
      probing.of_model(model, params, position),
      train,
      heldout,
      length,
      position or 'last_valid',
  )
