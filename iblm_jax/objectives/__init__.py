"""Losses and metrics as pure functions of a batch and parameters.

`losses` gives cross-entropy and entropy of layers from one forward pass;
`regularizer` and `aux_cotangent` say how much of the second is added. Schedules
of layers are in `layer_weights`, ways to one number in `reductions`, and what a
model is asked in `tasks`.
"""

from iblm_jax.objectives import layer_weights, reductions, tasks
from iblm_jax.objectives.causal import TokenSums, token_nll, token_sums
from iblm_jax.objectives.iblm import (
    Losses,
    ObjectiveConfig,
    aux_cotangent,
    losses,
    measure,
    regularizer,
)
from iblm_jax.objectives.reductions import apply_floor, reduce_entropy
from iblm_jax.objectives.tasks import TaskConfig

__all__ = [
    'Losses',
    'ObjectiveConfig',
    'TaskConfig',
    'TokenSums',
    'apply_floor',
    'aux_cotangent',
    'layer_weights',
    'losses',
    'measure',
    'reduce_entropy',
    'reductions',
    'regularizer',
    'tasks',
    'token_nll',
    'token_sums',
]
