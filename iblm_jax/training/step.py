"""The training step: pure, compiled once by the caller."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from iblm_jax.objectives import iblm, tasks
from iblm_jax.optim import dual, gate, inspection
from iblm_jax.training import alignment, gradients
from iblm_jax.training import state as train_state

Batch = Mapping[str, jax.Array]


def train_step(
    state: train_state.TrainState,
    batch: Batch,
    *,
    apply: Callable[..., Any],
    expand: Callable[[Any], Any] | None = None,
    num_layers: int,
    tx: optax.GradientTransformationExtraArgs,
    learning_rate: optax.Schedule,
    objective: iblm.ObjectiveConfig,
    gate_config: gate.GateConfig,
    dual_config: dual.DualConfig | None = None,
    accumulation: int = 1,
    task: tasks.TaskConfig = tasks.TaskConfig(),
    vocab_size: int = 0,
    align: alignment.AlignmentConfig | None = None,
) -> tuple[train_state.TrainState, dict[str, jax.Array]]:
  """Makes one update.

  The losses of the step decide the gate, and the gate's new phase weights the
  same step's backward pass: one forward pass, one pull-back of
  `(1, slope * [phase = 2])`. With accumulation, every micro-batch is pulled
  back with the phase from before the step, so the phase acts one update later.

  Args:
    state: Donated by the caller's jit.
    batch: Arrays [B, L], see `iblm.losses`.
    apply: The model's `apply` with its config bound.
    expand: Makes the model's parameters of what is trained, once for all
      micro-batches; None where they are trained themselves.
    num_layers: N.
    tx: The optimizer; it holds a gate if the method is 'gapt', and a dual
      weight if it is 'dual'.
    learning_rate: The schedule, for the metrics.
    objective: What is minimised.
    gate_config: Options of the gate.
    dual_config: Options of the dual weight, for the method 'dual'.
    accumulation: How many micro-batches the batch is split into; divides B. The
      entropy of the batch is the mean over micro-batches.
    task: What the model is asked.
    vocab_size: V, for the blanks of a task that has some.
    align: Measure the alignment of the losses' gradients in this step, which
      pulls back each of them; None pulls back their sum.

  Returns:
    The next state, and metrics of this step: float32 scalars.
  """
  halves = align is not None and align.halves
  pieces = 2 if halves else accumulation
  batch = tasks.make(batch, task, vocab_size, pieces)
  num_targets = jnp.sum(batch['loss_mask'].astype(jnp.float32))
  losses = functools.partial(
      iblm.losses,
      step=state.step,
      num_targets=num_targets,
      apply=apply,
      num_layers=num_layers,
      cfg=objective,
      norm=align is not None and align.norm_control,
  )

  def weigh(value):
    """Weight of the entropy; `value` None: as after the last update."""
    match objective.method:
      case 'gapt':
        compress = _compresses(state.opt_state, value, gate_config)
        return jnp.where(compress, objective.weight, 0.0)
      case 'dual':
        return _dual_weight(state.opt_state, value, dual_config)
    return jnp.asarray(objective.weight * (objective.method == 'mbe'))

  if expand is None:
    params, to_trained = state.params, lambda grads: grads
  else:
    params, contract = jax.vjp(expand, state.params)
    to_trained = lambda grads: contract(grads)[0]

  if accumulation > 1:
    weight = weigh(None)
    value, entropy_N, grads, parts = gradients.accumulated(
        losses,
        params,
        batch,
        lambda aux: iblm.aux_cotangent(aux, weight, objective),
        accumulation,
        separate=align is not None,
    )
  elif align is None:
    parts = None
    value, pull_back, entropy_N = jax.vjp(
        lambda params: losses(params, batch), params, has_aux=True
    )
    weight = weigh(value)
    cotangent = iblm.aux_cotangent(value.aux, weight, objective)
    (grads,) = pull_back(iblm.Losses(jnp.ones([], jnp.float32), cotangent))
  else:
    value, entropy_N, parts = gradients.separate(
        losses, params, batch, halves=halves
    )
    weight = weigh(value)
    cotangent = iblm.aux_cotangent(value.aux, weight, objective)
    whole = gradients.whole(parts) if halves else parts
    grads = jax.tree.map(
        lambda g, h: g + cotangent * h, whole.main, whole.aux
    )

  grads = to_trained(grads)
  updates, opt_state = tx.update(
      grads,
      state.opt_state,
      state.params,
      value=value.main,
      aux_value=value.aux,
  )
  trained = optax.apply_updates(state.params, updates)
  metrics = {
      'train/loss': value.main
      + iblm.regularizer(value.aux, weight, objective),
      'train/cross_entropy': value.main,
      'optim/learning_rate': jnp.asarray(learning_rate(state.step)),
      'optim/grad_norm': optax.tree.norm(grads),
      **_schedule_metrics(opt_state, weight, objective),
  }
  if entropy_N is not None:
    metrics['train/mbe'] = value.aux
    metrics |= {
        f'train/mbe/layer_{layer:02d}': entropy_N[layer]
        for layer in range(num_layers)
    }
  if align is not None:
    assert parts is not None
    metrics |= alignment.metrics(parts, align)
  new_state = train_state.TrainState(state.step + 1, trained, opt_state)
  return new_state, metrics


def _compresses(opt_state, value, gate_config) -> jax.Array:
  """Says whether the gate compresses after these losses."""
  state = inspection.gate_state(opt_state)
  if value is not None:
    state = gate.gate_step(state, value.main, value.aux, gate_config)
  return state.phase == gate.COMPRESS


def _dual_weight(opt_state, value, dual_config) -> jax.Array:
  """Gives the dual method's weight after these losses."""
  state = inspection.dual_state(opt_state)
  if value is None:
    return dual.weight(state)
  state = dual.dual_step(state, value.main, dual_config)
  return dual.applied_weight(state, value.main)


def _schedule_metrics(opt_state, weight, objective) -> dict[str, jax.Array]:
  """Tells what decides how much of the entropy is minimised."""
  if objective.method == 'dual':
    return {'dual/weight': weight}
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
