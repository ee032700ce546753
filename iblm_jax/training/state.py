"""The state of training: everything that a checkpoint must hold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from iblm_jax.models import families
from iblm_jax.sublora import parameterisations


class TrainState(NamedTuple):
  """Arrays only; the gate lives in `opt_state`."""

  step: jax.Array  # int32 scalar, updates made
  params: Any  # float32, what is trained
  opt_state: optax.OptState


def init_state(
    rng: jax.Array,
    cfg: families.ModelConfig,
    tx: optax.GradientTransformation,
    parameterisation: parameterisations.ParameterisationConfig | None = None,
) -> TrainState:
  """What is trained, fresh, and optimizer state, at step 0."""
  params = families.init(rng, cfg)
  return first_state(params, rng, tx, parameterisation)


def first_state(
    params: Any,
    rng: jax.Array,
    tx: optax.GradientTransformation,
    parameterisation: parameterisations.ParameterisationConfig | None = None,
) -> TrainState:
  """The state at step 0 of a model with these parameters."""
  if parameterisation is not None:
    params = parameterisations.make(parameterisation, params, rng).initial
  return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))


def num_parameters(params: Any) -> int:
  """Total number of entries in all leaves."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
