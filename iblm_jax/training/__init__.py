"""Training: a run in a folder, its loop, its state, its checkpoints."""

from iblm_jax.errors import Preempted, RunFailed
from iblm_jax.training.metrics import Writer, read_metrics
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
