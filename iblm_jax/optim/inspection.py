"""Finds the state of the gate, or of dual ascent, in an optimizer state."""

from typing import Any, TypeVar

import jax

from iblm_jax.optim import dual, gate

State = TypeVar('State')


def gate_state(opt_state: Any) -> gate.GateState:
  """Finds the state of the only gate in an optimizer state, by its type.

  Raises:
    ValueError: there is none, or more than one. A tree restored from a
      checkpoint as plain dicts has none: restore into the tree of `tx.init`.
  """
  return _only(opt_state, gate.GateState, 'with_gapt, phase_gate or gapt')


def dual_state(opt_state: Any) -> dual.DualState:
  """Finds the state of dual ascent in an optimizer state, by its type.

  `dual.weight` of it is λ.

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
  """Finds the phase of the only gate in an optimizer state.

  Returns:
    An int32 scalar: 1 for memorisation, 2 for compression.

  Raises:
    ValueError: there is no gate, or more than one.

  Examples:
    >>> import optax
    >>> from iblm_jax.optim import transforms
    >>> tx = transforms.with_gapt(optax.adam(1e-3), gate.GateConfig())
    >>> int(phase(tx.init({'phase': jax.numpy.zeros(3)})))
    1
  """
  return gate_state(opt_state).phase


def phase_statistics(state: gate.GateState) -> dict[str, float]:
  """Computes how long the phases have been so far.

  It reads the state from the device, so it does not work under `jax.jit`.

  Returns:
    `share_compression`, the share of the steps that were in compression, in
    [0, 1]; `num_switches`, the number of changes of phase;
    `mean_memorisation_length` and `mean_compression_length`, the mean number of
    steps of the phases that were entered, the present one included, or 0 if
    there was none.
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
