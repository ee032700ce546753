"""What is known of the language of the experiment on memory, exactly."""

from typing import Any

import numpy as np

from iblm_jax.data.sources import markov
from iblm_jax.experiments.memory import methods


def best_loss(seed: int) -> float:
  """Nats a held-out token of memory models, of the best prediction there is."""
  base = methods.BASES['memory']['data']['markov']
  chosen: dict[str, Any] = {**base, 'seed': seed}
  options = markov.MarkovConfig(**chosen)
  return float(markov.predictive_nll(options, _heldout(options)).mean())


def text_bits(options: markov.MarkovConfig) -> float:
  """Entropy of the language's held-out documents, in bits a document."""
  documents = _heldout(options)[:, :-1]
  return float(markov.document_nll(options, documents).mean() / np.log(2))


def _heldout(options: markov.MarkovConfig) -> np.ndarray:
  """Rows of the held-out set and the token after each, [B, L + 1]."""
  batch = markov.MarkovSource(options, 'heldout', options.num_heldout).batch(0)
  return np.concatenate([batch['tokens'], batch['targets'][:, -1:]], axis=1)
