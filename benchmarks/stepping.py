"""Training steps that benchmarks call again and again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.optim import gate
from iblm_jax.training import state as state_lib

# Gates that stay in the phase they are put in.
STAY = gate.GateConfig(
    patience_main=10**9, patience_aux=10**9, spike=float('inf')
)


class Stepper:
  """A compiled step that goes on from its own last state."""

  def __init__(self, step, state, batch, steps_per_call: int = 1):
    self._step, self._state, self._batch = step, state, batch
    self._steps = steps_per_call
    self.parameters = state_lib.num_parameters(state.params)
    self.metrics: dict[str, Any] = {}

  def __call__(self):
    """Takes the steps; returns the metrics of the last."""
    for _ in range(self._steps):
      self._state, self.metrics = self._step(self._state, self._batch)
    return self.metrics


def random_batch(
    rows: int, length: int, vocab_size: int
) -> dict[str, np.ndarray]:
  """A batch of uniform tokens, one document a row."""
  shape = (rows, length)
  tokens = np.random.default_rng(0).integers(
      vocab_size, size=(2, *shape), dtype=np.int32
  )
  return {
      'tokens': tokens[0],
      'targets': tokens[1],
      'loss_mask': np.ones(shape, bool),
      'mask': np.ones(shape, bool),
      'segment_ids': np.ones(shape, np.int32),
      'positions': np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
  }


def in_phase(state: state_lib.TrainState, phase: int) -> state_lib.TrainState:
  """The state with its gate in a phase."""
  is_gate = lambda x: isinstance(x, gate.GateState)

  def put(leaf):
    if not is_gate(leaf):
      return leaf
    value = jax.device_put(jnp.int32(phase), leaf.phase.sharding)
    return leaf._replace(phase=value)

  opt_state = jax.tree.map(put, state.opt_state, is_leaf=is_gate)
  return state._replace(opt_state=opt_state)
