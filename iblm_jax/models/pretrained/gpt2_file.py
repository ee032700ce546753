"""GPT-2 alone, as programs of 0.1 read it."""

from etils import epath

from iblm_jax.models.pretrained import loading, published, tables

GPT2 = published.Published
check_ids = loading.check_ids


def load(path: epath.Path, tokenizer: str | None) -> published.Published:
  """Reads weights and tokenizer; see `published.load`.

  Raises:
    ValueError: As there, or the model is no GPT-2.
  """
  if loading.read_head(path).table is not tables.SAFETENSORS['gpt2']:
    raise ValueError(f'{path} is not a GPT-2, but of another family.')
  return published.load(str(path), tokenizer)
