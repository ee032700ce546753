"""The texts that a fine-tuned model is measured on."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from etils import epath

from iblm_jax.analysis import subject as subject_lib
from iblm_jax.data import batches as batches_lib
from iblm_jax.data.text import files as text_lib
from iblm_jax.data.text import packing, tokenizers

# Pages that are held out of the text that is fine-tuned on.
HELDOUT = 'heldout'


@dataclasses.dataclass(frozen=True)
class TextsConfig:
  """Which texts, and how much of each.

  Attributes:
    text: File or folder that is fine-tuned on; of it, the documents held out.
    holdout: Their share.
    others: Files or folders that are not fine-tuned on.
    length: Tokens of a row.
    rows: Most rows of each, evenly spread over it.
    batch_size: Rows of a batch.
  """

  text: str
  holdout: float
  others: tuple[str, ...]
  length: int
  rows: int
  batch_size: int

  @property
  def names(self) -> tuple[str, ...]:
    """What the texts are called, the held-out one first."""
    own = (epath.Path(path).name.split('.')[0] for path in self.others)
    return (HELDOUT, *own)


@dataclasses.dataclass(frozen=True)
class Text:
  """A text in rows.

  Attributes:
    source: Its rows; documents do not see each other.
    bytes_per_token: Mean over the targets.
  """

  source: batches_lib.Source
  bytes_per_token: float


def check(cfg: TextsConfig) -> None:
  """Raises ValueError where two have one name, or one cannot be read."""
  for name in cfg.names:
    if cfg.names.count(name) > 1:
      raise ValueError(
          f'--other must have different names, got {name!r} twice.'
      )
  for path in (cfg.text, *cfg.others):
    _documents(path)


def load(
    cfg: TextsConfig, tokenizer: tokenizers.Tokenizer
) -> dict[str, Text]:
  """Reads all texts, by name.

  Raises:
    ValueError: A file is missing or holds no text.
  """
  _, heldout = text_lib.split_documents(_documents(cfg.text), cfg.holdout)
  found = [heldout, *map(_documents, cfg.others)]
  pack = functools.partial(_packed, cfg, tokenizer)
  return dict(zip(cfg.names, map(pack, found), strict=True))


def _documents(path: str) -> list[str]:
  return text_lib.read_documents(text_lib.TextConfig((path,)))


def _packed(
    cfg: TextsConfig, tokenizer: Any, documents: Sequence[str]
) -> Text:
  source = packing.pack_text(
      documents,
      tokenizer,
      seq_len=cfg.length,
      batch_size=cfg.batch_size,
      train=False,
      eval_rows=cfg.rows,
  )
  count = tokens = 0
  for k in range(source.num_eval_batches or 0):
    batch = source.batch(k)
    count += subject_lib.count_bytes(tokenizer, batch)
    tokens += int(batch['loss_mask'].sum())
  return Text(source, count / tokens)
