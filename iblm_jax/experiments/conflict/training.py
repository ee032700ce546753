"""Training many small networks at once: seeds are a vectorised axis."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iblm_jax.experiments.conflict import models
from iblm_jax.experiments.conflict import tasks as tasks_lib
from iblm_jax.information import entropy as entropy_lib
from iblm_jax.objectives import iblm
from iblm_jax.optim import gate as gate_lib

QUICK = {'xla_backend_optimization_level': 0}  # compiles faster to slower code


@dataclasses.dataclass(frozen=True)
class Method:
  """How a network is fine-tuned.

  Attributes:
    objective: Loss; its `method`, `weight` and floor are used. The gate sees
      every micro-batch.
    entropy: How the auxiliary loss is measured.
  """

  objective: iblm.ObjectiveConfig
  entropy: entropy_lib.EntropyConfig = entropy_lib.EntropyConfig()
  gate: gate_lib.GateConfig = gate_lib.GateConfig()
  pretrained_by: str = 'base'


class State(NamedTuple):
  """Of one network."""

  params: Any
  opt_state: Any
  gate: gate_lib.GateState


def init(params: Any, learning_rate: float) -> State:
  """A state before the first update."""
  opt_state = optax.adam(learning_rate).init(params)
  return State(params, opt_state, gate_lib.gate_init())


def train(
    state: State,
    points: tasks_lib.Points,
    order_KxMxB: jax.Array,
    *,
    model: models.Model,
    method: Method,
    learning_rate: float,
) -> State:
  """K updates of Adam on the mean gradient of M micro-batches each.

  Args:
    points: Arrays [P, ...], both groups in one axis.
  """
  optimizer = optax.adam(learning_rate)
  cfg = method.objective
  measure = method.entropy if cfg.measures_entropy else None

  def step(state, order_MxB):
    def losses(params):
      return jax.vmap(
          lambda order_B: model.losses(
              params, points.inputs[order_B], points.targets[order_B], measure
          )
      )(order_MxB)

    (main_M, aux_M), pull = jax.vjp(losses, state.params)
    if cfg.method == 'gapt':
      gate, compress_M = jax.lax.scan(
          lambda gate, values: _advance(gate, values, method.gate),
          state.gate,
          (main_M, aux_M),
      )
    else:
      gate = state.gate
      compress_M = jnp.full(main_M.shape, cfg.method == 'mbe')
    slope_M = jax.vmap(
        lambda aux, compress: iblm.aux_cotangent(
            aux, jnp.where(compress, cfg.weight, 0.0), cfg
        )
    )(aux_M, compress_M)
    count = main_M.size
    (grads,) = pull((jnp.full_like(main_M, 1 / count), slope_M / count))
    updates, opt_state = optimizer.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    return State(params, opt_state, gate), None

  return jax.lax.scan(step, state, order_KxMxB)[0]


def over_seeds(
    fn: Callable[..., Any], shared: int = 0, *, quick_compile: bool = False
) -> Callable[..., Any]:
  """Vectorises a function over seeds and compiles it.

  Args:
    quick_compile: Compile several times faster to slower code, for what runs
      once.

  Returns:
    A compiled function of arrays with a leading axis of seeds.
  """

  def many(*args):
    in_axes = (0,) * (len(args) - shared) + (None,) * shared
    return jax.vmap(fn, in_axes=in_axes)(*args)

  return jax.jit(many, compiler_options=QUICK if quick_compile else None)


def blocks(order_KxMxB: np.ndarray, size: int) -> list[np.ndarray]:
  """Cuts updates into equal blocks, so that all run one compiled loop.

  Args:
    order_KxMxB: Of all updates; K a multiple of `size`.
  """
  return np.split(order_KxMxB, len(order_KxMxB) // size)


def _advance(gate, values, config):
  main, aux = values
  gate = gate_lib.gate_step(gate, main, aux, config)
  return gate, gate_lib.is_compressing(gate, main, aux)
