"""The training step: pure, compiled once by the caller."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from iblm_jax.objectives import iblm
from iblm_jax.optim import gate, inspection
from iblm_jax.training import state as train_state

Batch = Mapping[str, jax.Array]


def train_step(
    state: train_state.TrainState,
    batch: Batch,
    *,
    apply: Callable[..., Any],
    num_layers: int,
    tx: optax.GradientTransformationExtraArgs,
    learning_rate: optax.Schedule,
    objective: iblm.ObjectiveConfig,
    gate_config: gate.GateConfig,
    accumulation: int = 1,
) -> tuple[train_state.TrainState, dict[str, jax.Array]]:
  """One update.

  The losses of the step decide the gate, and the gate's new phase weights the
  same step's backward pass: one forward pass, one pull-back of
  `(1, slope * [phase = 2])`. With accumulation, every micro-batch is pulled
  back with the phase from before the step, so the phase acts one update later.

  Args:
    state: donated by the caller's jit.
    batch: arrays [B, L], see `iblm.losses`.
    apply: the model's, with its config bound.
    num_layers: N.
    tx: optimizer; holds a gate if the method is 'gapt'.
    learning_rate: schedule, for the metrics.
    objective: what is minimised.
    gate_config: of the gate.
    accumulation: micro-batches the batch is split into; divides B. The entropy
      of the batch is the mean over micro-batches.

  Returns:
    The next state, and metrics of this step: float32 scalars.
  """
  num_targets = jnp.sum(batch['loss_mask'].astype(jnp.float32))
  losses = functools.partial(
      iblm.losses,
      step=state.step,
      num_targets=num_targets,
      apply=apply,
      num_layers=num_layers,
      cfg=objective,
  )
  if accumulation == 1:
    value, pull_back, entropy_N = jax.vjp(
        lambda params: losses(params, batch), state.params, has_aux=True
    )
    compress = _compress(state.opt_state, value, objective, gate_config)
    cotangent = iblm.aux_cotangent(value.aux, compress, objective)
    (grads,) = pull_back(iblm.Losses(jnp.ones([], jnp.float32), cotangent))
  else:
    compress = _compress(state.opt_state, None, objective, gate_config)
    value, entropy_N, grads = _accumulate(
        losses, state.params, batch, compress, objective, accumulation
    )

  updates, opt_state = tx.update(
      grads,
      state.opt_state,
      state.params,
      value=value.main,
      aux_value=value.aux,
  )
  params = optax.apply_updates(state.params, updates)
  metrics = {
      'train/loss': value.main
      + jnp.where(compress, iblm.regularizer(value.aux, objective), 0.0),
      'train/cross_entropy': value.main,
      'optim/learning_rate': jnp.asarray(learning_rate(state.step)),
      'optim/grad_norm': optax.tree.norm(grads),
      **_gate_metrics(opt_state, objective),
  }
  if entropy_N is not None:
    metrics['train/mbe'] = value.aux
    metrics |= {
        f'train/mbe/layer_{layer:02d}': entropy_N[layer]
        for layer in range(num_layers)
    }
  new_state = train_state.TrainState(state.step + 1, params, opt_state)
  return new_state, metrics


def _compress(opt_state, value, objective, gate_config) -> jax.Array:
  """Whether this step's loss includes the entropy; `value` None: as before."""
  if objective.method != 'gapt':
    return jnp.asarray(objective.method == 'mbe')
  state = inspection.gate_state(opt_state)
  if value is not None:
    state = gate.gate_step(state, value.main, value.aux, gate_config)
  return state.phase == 2


def _gate_metrics(opt_state, objective) -> dict[str, jax.Array]:
  if objective.method != 'gapt':
    return {}
  state = inspection.gate_state(opt_state)
  return {
      'gapt/phase': state.phase,
      'gapt/compression_steps': state.num_compression_steps,
      'gapt/switches': state.num_switches,
      'gapt/stall_main': state.stall_main,
      'gapt/stall_aux': state.stall_aux,
  }


def _accumulate(losses, params, batch, compress, objective, parts):
  """Losses and gradients as sums over micro-batches of interleaved rows."""

  def split(rows):
    # Row b goes to part b % parts: every device keeps some rows of each part.
    micro = rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:])
    return micro.swapaxes(0, 1)

  def part(total, micro):
    value, pull_back, entropy_N = jax.vjp(
        lambda p: losses(p, micro), params, has_aux=True
    )
    cotangent = iblm.aux_cotangent(value.aux, compress, objective) / parts
    (grads,) = pull_back(iblm.Losses(jnp.ones([], jnp.float32), cotangent))
    return jax.tree.map(jnp.add, total, (value, entropy_N, grads)), None

  micro = jax.tree.map(split, dict(batch))
  value, entropy_N = jax.eval_shape(
      losses, params, jax.tree.map(lambda a: a[0], micro)
  )
  zeros = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (value, entropy_N, params)
  )
  (value, entropy_N, grads), _ = jax.lax.scan(part, zeros, micro)
  value = iblm.Losses(value.main, value.aux / parts)
  if entropy_N is not None:
    entropy_N = entropy_N / parts
  return value, entropy_N, grads

