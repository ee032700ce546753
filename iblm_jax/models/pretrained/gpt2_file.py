"""Published GPT-2 weights, and the tokenizer that goes with them."""

from typing import Any, NamedTuple

from etils import epath

from iblm_jax.data.text import tokenizers
from iblm_jax.models import decoder
from iblm_jax.models.pretrained import gpt2_weights


class GPT2(NamedTuple):
  """A model from a file.

  Attributes:
    name: Name of its folder, or of a file that is named otherwise than usual.
    model: Its options.
    params: Its parameters.
    tokenizer: Gives the ids that the model takes.
  """

  name: str
  model: decoder.DecoderConfig
  params: Any
  tokenizer: tokenizers.Tokenizer


def load(path: epath.Path, tokenizer: str | None) -> GPT2:
  """Reads weights and tokenizer.

  Args:
    path: A `.safetensors` file, or a folder with `model.safetensors`.
    tokenizer: See `tokenizers.load_tokenizer`; None takes the `tokenizer.json`
      beside the weights.

  Raises:
    ValueError: Files are missing or no GPT-2, or there are more ids than the
      model takes.
  """
  model, params = gpt2_weights.load_gpt2(path)
  folder = path if path.is_dir() else path.parent
  if tokenizer is None:
    beside = folder / 'tokenizer.json'
    if not beside.exists():
      raise ValueError(
          f'tokenizer must be given: there is no {beside} beside the weights.'
      )
    tokenizer = str(beside)
  loaded = tokenizers.load_tokenizer(tokenizer)
  check_ids(loaded, model)
  is_plain = path.is_dir() or path.name == 'model.safetensors'
  name = folder.resolve().name if is_plain else path.stem
  return GPT2(name, model, params, loaded)


def check_ids(
    tokenizer: tokenizers.Tokenizer, model: decoder.DecoderConfig
) -> None:
  """Raises ValueError for a tokenizer of more ids than a model takes."""
  if tokenizer.vocab_size > model.vocab_size:
    raise ValueError(
        f'the tokenizer has {tokenizer.vocab_size} ids, the model takes'
        f' {model.vocab_size}.'
    )
