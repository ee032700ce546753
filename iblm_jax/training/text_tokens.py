"""What tokens of a run are text, and which one begins a document."""

import numpy as np

from iblm_jax.data.text import tokenizers
from iblm_jax.objectives import tasks
from iblm_jax.training import options


def tokens_of_text(cfg: options.RunConfig, vocab_size: int) -> np.ndarray:
  """Finds the tokens that a text may hold.

  Args:
    cfg: The run's config.
    vocab_size: Number of tokens of the tokenizer. The model may have more, one
      of them the blank.

  Returns:
    bool [V], where V is the model's number of tokens.
  """
  model_size = cfg.model.vocab_size
  allowed_V = np.arange(model_size) < vocab_size
  if cfg.task.has_blanks:
    allowed_V[tasks.blank(cfg.task, model_size)] = False
  return allowed_V


def document_mark(
    cfg: options.RunConfig, tokenizer: tokenizers.Tokenizer
) -> int:
  """Finds the token that begins a document in the data of a run."""
  # Shards have one mark, which their config names.
  return getattr(cfg.data.options, 'eot_id', tokenizer.bos_id)
