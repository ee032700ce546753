"""Surveys of the layers of several checkpoints: what the results file holds."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from iblm_jax import files, information
from iblm_jax.analysis import layer_survey
from iblm_jax.analysis import subject as subject_lib
from iblm_jax.reports import statistics

# Its mean over prompts is what Diff-eRank compares.
_ERANK = 'entropy_centered_normalized/order_1'

Tree = dict[str, Any]


def measure(
    subject: subject_lib.Subject,
    keep_in: epath.Path,
    report: Callable[[str], None],
    *,
    views: int,
) -> Tree:
  """Surveys a subject's layers, or reads what was found before.

  Returns:
    * 'model': numbers of the whole model, see `layer_survey.Survey`.
    * 'prompts': by name 'mean' and 'ci95' of every layer over prompts, and the
      number 'n' of prompts that have a value.
    * 'data': by name a value of every layer over the data set.
  """
  if keep_in.exists():
    return files.read_json(keep_in)
  found = layer_survey.survey(
      subject.params,
      subject.model,
      subject.batches,
      views=views,
      count_bytes=None if subject.tokenizer is None else subject.count_bytes,
      report=lambda line: report(f'{subject.name}: {line}'),
  )
  tree = {
      'model': {name: float(value) for name, value in found.model.items()},
      'prompts': {
          name: _over_prompts(value_NxP)
          for name, value_NxP in sorted(found.prompts.items())
      },
      'data': {
          name: _numbers(value_N)
          for name, value_N in sorted(found.data.items())
      },
  }
  files.write_json(keep_in, tree, indent=None)
  return tree


def compare(trained: Tree, untrained: Tree) -> Tree:
  """Adds Diff-eRank, the directions of prompts that training took away."""
  mean = lambda tree: jnp.asarray(
      np.asarray(tree['prompts'][_ERANK]['mean'], np.float32)[:, None]
  )
  # The mean of prompts is all that it is made of.
  found = information.diff_erank(mean(untrained), mean(trained))
  data = trained['data'] | {'diff_erank': _numbers(np.asarray(found))}
  return trained | {'data': data}


def lines(surveys: Mapping[str, Tree]) -> list[str]:
  """Says in words how well each model predicts."""
  found = []
  for name, tree in surveys.items():
    model = tree['model']
    line = (
        f'{name}: {model["cross_entropy"]:.4f} nats a token, perplexity'
        f' {model["perplexity"]:.4g}'
    )
    if 'bits_per_byte' in model:
      line += f', {model["bits_per_byte"]:.4f} bits a byte'
    found.append(
        f'{line}; {model["tokens"]:.0f} tokens, {model["prompts"]:.0f} prompts'
    )
  return found


def _over_prompts(value_NxP: np.ndarray) -> Tree:
  means, intervals, counts = [], [], []
  for value_P in np.asarray(value_NxP, np.float64):
    value_P = value_P[np.isfinite(value_P)]
    counts.append(value_P.size)
    mean, interval = None, (None, None)
    if value_P.size:
      mean, interval = statistics.mean_ci(value_P)
    means.append(mean)
    intervals.append([
        end if end is not None and math.isfinite(end) else None
        for end in interval
    ])
  return {'mean': means, 'ci95': intervals, 'n': counts}


def _numbers(value_N) -> list[float | None]:
  return [float(v) if np.isfinite(v) else None for v in np.asarray(value_N)]
