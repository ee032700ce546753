"""Models that others trained, as programs name them."""

from typing import Any

from etils import epath

from iblm_jax import files
from iblm_jax.models.pretrained import gpt2_file, loading

Published = gpt2_file.GPT2


def load(checkpoint: str, tokenizer: str | None) -> Published:
  """Reads a published model and says what it is called.

  Args:
    checkpoint: What `models.pretrained.load` reads. A GPT-2 may lack a config
      that names its family.
    tokenizer: As in `tokenizers.load_tokenizer`; None for its own.

  Raises:
    ValueError: As `models.pretrained.load`.
  """
  path = epath.Path(checkpoint)
  folder = path if path.is_dir() else path.parent
  is_folder = not checkpoint.startswith('package:') and path.suffix != '.gguf'
  if is_folder and _kind(folder) == 'gpt2':
    return gpt2_file.load(path, tokenizer)
  params, model, loaded = loading.load(checkpoint, tokenizer=tokenizer)
  is_plain = path.name == 'model.safetensors'
  name = (folder.resolve() if is_plain else path).name
  name = name.removeprefix('package:').removesuffix('.gguf')
  return Published(name, model, params, loaded)


def _kind(folder: epath.Path) -> Any:
  """What a model says that it is; a GPT-2 does so by its shapes, too."""
  config = folder / 'config.json'
  given = files.read_object(config) if config.exists() else {}
  return given.get('model_type', 'gpt2')
