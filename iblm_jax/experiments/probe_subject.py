"""What a probe is about: a run of ours, or GPT-2 weights with a text."""

import dataclasses
from typing import Any

from etils import epath

from iblm_jax import config
from iblm_jax.data import batches, packing, sources, tokenizers
from iblm_jax.data import text as text_lib
from iblm_jax.experiments import probing
from iblm_jax.models import families, gpt2_weights
from iblm_jax.training import restoring

_LENGTH = 16  # of a decoder, which has no length of its own
_HOLDOUT = 0.1


@dataclasses.dataclass(frozen=True)
class Subject:
  """An encoder and what it reads.

  Attributes:
    name: of the run.
    what: the family of the model.
    encoder: frozen.
    train: rows for the probe's decoder.
    heldout: rows for its evaluation.
    length: L, tokens of a sequence.
    position: which position is the vector.
  """

  name: str
  what: str
  encoder: probing.Encoder
  train: batches.Source
  heldout: batches.Source
  length: int
  position: str

  def describe(self) -> dict[str, Any]:
    """As JSON types."""
    return {
        'name': self.name,
        'family': self.what,
        'length': self.length,
        'position': self.position,
        'vocab_size': self.encoder.vocab_size,
    }


def load(
    workdir: str,
    *,
    gpt2: str | None = None,
    text: str | None = None,
    length: int | None = None,
    position: str | None = None,
) -> Subject:
  """Reads the checkpoint and opens the data.

  Args:
    workdir: of the run.
    gpt2: weights to take instead of a run.
    text: file for these.
    length: tokens of a sequence; None for what the model encodes.
    position: see `probing.of_model`.

  Returns:
    The subject.

  Raises:
    ValueError: naming what is missing or does not fit.
    CheckpointError: if no checkpoint of the run is intact.
  """
  if (gpt2 is None) != (text is None):
    raise ValueError(
        f'gpt2 and text must be given together, got {gpt2=} and {text=}.'
    )
  if gpt2 is not None and text is not None:
    return _gpt2(epath.Path(gpt2), text, length or _LENGTH, position)
  run = config.read_run(workdir)
  families.encoder(run.model)
  own = families.measured_length(run.model)
  if own is not None and length not in (None, own):
    raise ValueError(
        f'length must be {own}, which is what this model encodes, got {length}.'
    )
  names = sources.split_names(run.data)
  if len(names) < 2:
    raise ValueError('the data of the run must hold something out.')
  splits = sources.make_sources(run.data)
  encoder = probing.of_model(
      run.model, restoring.restore_params(run, workdir), position
  )
  return Subject(
      epath.Path(workdir).resolve().name,
      families.name(run.model),
      encoder,
      splits['train'],
      splits[names[1]],
      own or length or min(_LENGTH, splits['train'].length),
      position or getattr(run.model, 'position', 'last_valid'),
  )


def _gpt2(path: epath.Path, text: str, length, position) -> Subject:
  model, params = gpt2_weights.load_gpt2(path)
  folder = path if path.is_dir() else path.parent
  beside = folder / 'tokenizer.json'
  if not beside.exists():
    raise ValueError(f'{folder} must hold a tokenizer.json.')
  tokenizer = tokenizers.load_tokenizer(str(beside))
  documents = text_lib.read_documents(text_lib.TextConfig(paths=(text,)))
  sides = text_lib.split_documents(documents, _HOLDOUT)
  train, heldout = (
      packing.PackedText(
          packing.pack_tokens(
              map(tokenizer.encode, side),
              bos_id=tokenizer.bos_id,
              eos_id=tokenizer.eos_id,
              pad_id=tokenizer.pad_id,
              vocab_size=tokenizer.vocab_size,
          ),
          seq_len=length,
          batch_size=64,
          train=is_train,
      )
      for side, is_train in zip(sides, (True, False), strict=True)
  )
  return Subject(
      folder.resolve().name,
      'gpt2',
      probing.of_model(model, params, position),
      train,
      heldout,
      length,
      position or 'last_valid',
  )
