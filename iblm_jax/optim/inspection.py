"""Reads the gate, or dual ascent, out of an optimizer state."""

from typing import Any, TypeVar

import jax

from iblm_jax.optim import dual, gate

State = TypeVar('State')


def gate_state(opt_state: Any) -> gate.GateState:
  """Finds the gate's state anywhere in an optimizer state, by its type.

  Args:
    opt_state: state of an optax transformation that contains one gate.

  Returns:
    The `GateState` instance in it.

  Raises:
    ValueError: there is none, or more than one. A tree restored from a
      checkpoint as plain dicts has none: restore into the tree of `tx.init`.
  """
  return _only(opt_state, gate.GateState, 'phase_gate or gapt')


def dual_state(opt_state: Any) -> dual.DualState:
  """Finds the state of dual ascent anywhere in an optimizer state, by its type.

  Args:
    opt_state: state of an optax transformation that contains one.

  Returns:
    The `DualState` instance in it; λ is `dual.weight` of it.

  Raises:
    ValueError: there is none, or more than one. A tree restored from a
      checkpoint as plain dicts has none: restore into the tree of `tx.init`.

  Examples:
    >>> import optax
    >>> config = dual.DualConfig(target=2.0, weight=0.25)
    >>> tx = optax.chain(dual.dual_weight(config), optax.adam(1e-3))
    >>> print(dual.weight(dual_state(tx.init({'w': jax.numpy.zeros(3)}))))
    0.25
  """
  return _only(opt_state, dual.DualState, 'dual_weight or dual_ascent')


def phase(opt_state: Any) -> jax.Array:
  """Phase of the only gate in an optimizer state.

  Args:
    opt_state: state of an optax transformation that contains one gate.

  Returns:
    int32 scalar: 1 memorise, 2 compress.

  Raises:
    ValueError: there is no gate, or more than one.

  Examples:
    >>> import optax
    >>> from iblm_jax.optim import transforms
    >>> gated = transforms.phase_gate(gate.GateConfig())
    >>> tx = optax.chain(gated, optax.adam(1e-3))
    >>> int(phase(tx.init({'phase': jax.numpy.zeros(3)})))
    1
  """
  return gate_state(opt_state).phase


def phase_statistics(state: gate.GateState) -> dict[str, float]:
  """Phase lengths so far, on the host (reads the state from the device).

  Args:
    state: the state of one gate, concrete.

  Returns:
    `share_compression`: share of the steps in compression, in [0, 1];
    `num_switches`: changes of phase; `mean_memorisation_length` and
    `mean_compression_length`: mean number of steps of the phases entered, the
    running one included, 0 if none. Phases start with memorisation.
  """
  state = jax.device_get(state)
  steps, switches = int(state.num_steps), int(state.num_switches)
  compression = int(state.num_compression_steps)
  visits_compression = (switches + 1) // 2
  visits_memorisation = switches // 2 + 1
  return {
      'share_compression': compression / max(steps, 1),
      'num_switches': switches,
      'mean_memorisation_length': (steps - compression) / visits_memorisation,
      'mean_compression_length': compression / max(visits_compression, 1),
  }


def _only(opt_state: Any, kind: type[State], makers: str) -> State:
  is_one = lambda x: isinstance(x, kind)
  leaves = jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_one)
  found = [(path, leaf) for path, leaf in leaves if is_one(leaf)]
  if len(found) != 1:
    where = ', '.join(
        jax.tree_util.keystr(path) or 'the root' for path, _ in found
    )
    raise ValueError(
        f'opt_state must contain exactly one {kind.__name__}, got'
        f' {len(found)}{f" (at {where})" if found else ""}. Put one {makers}'
        ' in the chain, outside the groups of optax.partition.'
    )
  return found[0][1]
