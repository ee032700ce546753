"""What is measured of a network: forgetting, separation, entropy."""

from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.experiments.conflict import models
from iblm_jax.experiments.conflict import tasks as tasks_lib
from iblm_jax.information import alignment, profile, separation

GROUPS = ('trained', 'other')
_MEASURES = ('entropy', 'entropy_centered')


def measure(
    params: Any,
    tasks: tasks_lib.Tasks,
    *,
    model: models.Model,
    patch_size: int,
) -> dict[str, jax.Array]:
  """Measures one network on the validation points of both groups.

  Returns:
    Float32 scalars: 'loss_trained', 'loss_other' (the model's main loss on the
    group that is fine-tuned on and on the other), 'separation' of the two
    groups, for each group '<group>/entropy/order_2' and
    '<group>/entropy_centered/order_2', nats, and the means over both groups of
    the orders 1 and inf ('entropy/order_1', ...), of 'mean_share' and of
    'rms'. With a hidden layer of ReLU also 'specialised' (share of neurons
    with |selectivity| > 0.5) and 'silent' (share that no point activates).
    With a known shift also 'cosine_shift', between it and what was learned.
  """
  points = tasks.validation
  values, hidden, profiles = {}, [], []
  for group, name in enumerate(GROUPS):
    inputs, targets = points.inputs[group], points.targets[group]
    values[f'loss_{name}'] = model.losses(params, inputs, targets, None)[0]
    h_NxLxD = model.hidden(params, inputs)
    hidden.append(model.pooled(h_NxLxD))
    found = profile.compression_profile(h_NxLxD, patch_size=patch_size)
    profiles.append(found)
    for kind in _MEASURES:
      values[f'{name}/{kind}/order_2'] = found[f'{kind}/order_2']
  values['separation'] = separation.separation_ratio(*hidden)
  both = [f'{kind}/order_{o}' for kind in _MEASURES for o in ('1', 'inf')]
  for name in (*both, 'mean_share', 'rms'):
    values[name] = (profiles[0][name] + profiles[1][name]) / 2
  if tasks.shift is not None:
    values['specialised'] = separation.specialised_share(*hidden)
    active_D = jnp.max(jnp.concatenate(hidden), axis=0) > 0
    values['silent'] = 1 - jnp.mean(active_D, dtype=jnp.float32)
    learned = jax.tree.map(jnp.subtract, params, tasks.initial)
    values['cosine_shift'] = alignment.tree_cosine(learned, tasks.shift)
  return values
