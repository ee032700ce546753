"""Evaluates a model on a fixed set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.data import batches, pipeline
from iblm_jax.objectives import causal, iblm, tasks
from iblm_jax.training import step as step_lib
from iblm_jax.training.scale import mesh as mesh_lib


class Sums(NamedTuple):
  """Holds sums over rows: add them up, divide at the end."""

  first: causal.TokenSums  # of the first view of the task
  others: dict[str, causal.TokenSums]  # of its other views, by name
  entropy_N: jax.Array  # of the first view: float32 [N], nats times rows


def eval_step(
    params: Any,
    batch: step_lib.Batch,
    *,
    apply: Callable[..., Any],
    task: tasks.TaskConfig = tasks.TaskConfig(),
    vocab_size: int = 0,
) -> Sums:
  """Computes the sums over one batch; pure, compiled by the caller.

  Args:
    params: Parameters of the model; not donated.
    batch: Arrays [B, L], see `data.batches`.
    apply: The model's `apply` with its config bound.
    task: What the model is asked.
    vocab_size: V, for the blanks of a task that has some.

  Returns:
    `Sums`; the entropy is that of each layer times the number of rows that are
    not padding.
  """
  blank_id = tasks.blank(task, vocab_size)
  first, *others = task.views
  sums, outputs = iblm.measure(
      params,
      tasks.view(batch, first, blank_id),
      apply=apply,
      collect='entropy',
  )
  found = {}
  for name in others:
    seen = tasks.view(batch, name, blank_id)
    found[name], _ = iblm.measure(params, seen, apply=apply, collect=None)
  entropy_N = outputs.entropy
  if entropy_N is None:  # of a model that shows no layers
    entropy_N = jnp.zeros([0])
  return Sums(sums, found, entropy_N * sums.rows)


def evaluate(
    params: Any,
    source: batches.Source,
    *,
    step: Callable[..., Any],
    sharding: jax.sharding.NamedSharding,
    num_threads: int = 1,
) -> dict[str, float]:
  """Computes cross-entropy, accuracy and entropy on a whole evaluation set.

  Args:
    params: Parameters of the model.
    source: A set with a fixed number of batches.
    step: `eval_step`, compiled.
    sharding: The sharding of the batches.
    num_threads: How many threads read ahead.

  Returns:
    'cross_entropy' (nats per counted target), 'accuracy' (share of counted
    targets that are the arg max), 'exact_match' (share of rows whose counted
    targets all are: what greedy decoding would get right), 'mbe' (mean over
    layers, nats) and 'mbe/layer_00', ...; 'copy/cross_entropy' and the like of
    a task's other views.
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
  sums, others, entropy_N = jax.device_get(total)
  entropy_N = entropy_N / max(sums.rows, 1.0)
  return {
      **_means(sums),
      **{
          f'{view}/{name}': value
          for view, of_view in others.items()
          for name, value in _means(of_view).items()
      },
      **({'mbe': float(entropy_N.mean())} if entropy_N.size else {}),
      **{
          f'mbe/layer_{layer:02d}': float(value)
          for layer, value in enumerate(entropy_N)
      },
  }


def _means(sums: causal.TokenSums) -> dict[str, float]:
  tokens, rows = max(sums.tokens, 1.0), max(sums.rows, 1.0)
  return {
      'cross_entropy': float(sums.nll / tokens),
      'accuracy': float(sums.correct / tokens),
      'exact_match': float(sums.exact / rows),
  }
