"""Training: a run in a folder, its loop, its state, its checkpoints."""

import importlib
from typing import TYPE_CHECKING, Any

from iblm_jax.errors import Preempted, RunFailed
from iblm_jax.training.metrics import Writer, read_metrics

if TYPE_CHECKING:
  from iblm_jax.training.options import LoopConfig, RunConfig
  from iblm_jax.training.restoring import restore_params
  from iblm_jax.training.run import train
  from iblm_jax.training.scale.mesh import MeshConfig
  from iblm_jax.training.state import TrainState

__all__ = [
    'LoopConfig',
    'MeshConfig',
    'Preempted',
    'RunConfig',
    'RunFailed',
    'TrainState',
    'Writer',
    'read_metrics',
    'restore_params',
    'train',
]

# Imported when used, since they take a second: readers of metrics need no JAX.
_LATER = {
    'LoopConfig': 'options',
    'MeshConfig': 'scale.mesh',
    'RunConfig': 'options',
    'TrainState': 'state',
    'restore_params': 'restoring',
    'train': 'run',
}


def __getattr__(name: str) -> Any:
  if name not in _LATER:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_LATER[name]}'), name)


def __dir__() -> list[str]:
  return [*globals(), *_LATER]
