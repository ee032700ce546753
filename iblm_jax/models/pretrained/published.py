"""Models that others trained, as programs name them."""

from typing import Any, NamedTuple

from etils import epath

from iblm_jax.data.text import tokenizers
from iblm_jax.models import config as model_config
from iblm_jax.models.pretrained import loading


class Published(NamedTuple):
  """A model from files.

  Attributes:
    name: Name of its folder, package, or of a file that is named otherwise than
      usual.
    model: Its options.
    params: Its parameters.
    tokenizer: Gives the ids that the model takes.
  """

  name: str
  model: model_config.DecoderConfig
  params: Any
  tokenizer: tokenizers.Tokenizer


def load(checkpoint: str, tokenizer: str | None) -> Published:
  """Reads a published model and says what it is called.

  Args:
    checkpoint: What `models.pretrained.load` reads.
    tokenizer: As in `tokenizers.load_tokenizer`; None for its own.

  Raises:
    ValueError: As `models.pretrained.load`.
  """
  params, model, loaded = loading.load(checkpoint, tokenizer=tokenizer)
  return Published(_name(epath.Path(checkpoint)), model, params, loaded)


def _name(path: epath.Path) -> str:
  if path.name == 'model.safetensors':
    path = path.parent
  if path.is_dir():
    return path.resolve().name
  if path.suffix in ('.gguf', '.safetensors'):
    return path.stem
  return path.name.removeprefix('package:')
