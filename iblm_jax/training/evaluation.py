"""Evaluation of a model on a fixed set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.data import batches, pipeline
from iblm_jax.objectives import causal, iblm
from iblm_jax.training import mesh as mesh_lib
from iblm_jax.training import step as step_lib


def eval_step(
    params: Any, batch: step_lib.Batch, *, apply: Callable[..., Any]
) -> tuple[causal.TokenSums, jax.Array]:
  """Sums over one batch; pure, compiled by the caller.

  Args:
    params: of the model; not donated.
    batch: arrays [B, L].
    apply: the model's, with its config bound.

  Returns:
    `TokenSums`, and the entropy per layer times the number of rows that are
    not padding, float32 [N].
  """
  sums, outputs = iblm.measure(params, batch, apply=apply, collect='entropy')
  return sums, outputs.entropy * sums.rows


def evaluate(
    params: Any,
    source: batches.Source,
    *,
    step: Callable[..., Any],
    sharding: jax.sharding.NamedSharding,
    num_threads: int = 1,
) -> dict[str, float]:
  """Cross-entropy, accuracy and entropy on a whole evaluation set.

  Args:
    params: of the model.
    source: a set with a fixed number of batches.
    step: `eval_step`, compiled.
    sharding: of the batches.
    num_threads: that read ahead.

  Returns:
    'cross_entropy' (nats per counted target), 'accuracy' (share of counted
    targets that are the arg max), 'exact_match' (share of rows whose counted
    targets all are: what greedy decoding would get right), 'mbe' (mean over
    layers, nats) and 'mbe/layer_00', ...
  """
  iterator = pipeline.make_iterator(
      source,
      rows=mesh_lib.local_rows(source.batch_size, sharding),
      num_threads=num_threads,
  )
  total = None
  for batch in iterator:
    sums = step(params, mesh_lib.put_batch(batch, sharding, source.batch_size))
    total = sums if total is None else jax.tree.map(jnp.add, total, sums)
  iterator.close()
  if total is None:
    raise ValueError('an evaluation set must hold at least one batch.')
  sums, entropy_N = jax.device_get(total)
  tokens, rows = max(sums.tokens, 1.0), max(sums.rows, 1.0)
  entropy_N = entropy_N / rows
  return {
      'cross_entropy': float(sums.nll / tokens),
      'accuracy': float(sums.correct / tokens),
      'exact_match': float(sums.exact / rows),
      'mbe': float(entropy_N.mean()),
      **{
          f'mbe/layer_{layer:02d}': float(value)
          for layer, value in enumerate(entropy_N)
      },
  }
