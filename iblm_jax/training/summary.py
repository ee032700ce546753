"""What remains of a run in one small file."""

import hashlib
import importlib.metadata
import platform
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import iblm_jax
from iblm_jax.optim import inspection
from iblm_jax.sublora import paths
from iblm_jax.training import options
from iblm_jax.training import state as state_lib


def make_summary(
    cfg: options.RunConfig,
    evaluations: dict[str, dict[str, float]],
    state: state_lib.TrainState,
    mesh: jax.sharding.Mesh,
    *,
    wall_seconds: float,
    resumed_from: int | None,
) -> dict[str, Any]:
  """Final evaluation, phases, time, versions, devices, seeds.

  Args:
    cfg: the run.
    evaluations: metrics per evaluation set.
    state: at the end.
    mesh: the run's.
    wall_seconds: of this process, compilation included.
    resumed_from: step this process began at; None from scratch.

  Returns:
    A tree of JSON types. `frozen` is there where some leaves are. `phases` is
    there for the method 'gapt' only, and covers the whole run, not only what
    this process did.
  """
  summary = {
      'method': cfg.objective.method,
      'steps': int(state.step),
      'parameters': state_lib.num_parameters(state.params),
      'eval': evaluations,
      'wall_seconds': round(wall_seconds, 1),
      'resumed_from': resumed_from,
      'seed': cfg.train.seed,
      'data_seed': cfg.data.seed,
      'devices': f'{mesh.size} x {jax.devices()[0].device_kind}',
      'processes': jax.process_count(),
      'versions': versions(
          'jax', 'flax', 'optax', 'orbax-checkpoint', 'grain'
      ),
  }
  if cfg.frozen:
    summary['frozen'] = frozen_leaves(state.params, cfg.frozen)
  if cfg.objective.method == 'gapt':
    summary['phases'] = inspection.phase_statistics(
        inspection.gate_state(state.opt_state)
    )
  return summary


def frozen_leaves(params: Any, frozen: tuple[str, ...]) -> dict[str, Any]:
  """How many leaves never changed, and the SHA-256 of their numbers."""
  names, leaves, _ = paths.flatten(params)
  digest, count = hashlib.sha256(), 0
  for name, leaf in zip(names, leaves, strict=True):
    if paths.matches(name, frozen):
      count += 1
      if jax.process_count() > 1:  # each holds a part of it
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
      digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
  return {'leaves': count, 'sha256': digest.hexdigest()}


def versions(*packages: str) -> dict[str, str]:
  """Versions of this library, of Python and of installed packages."""
  return {
      'iblm_jax': iblm_jax.__version__,
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in packages},
  }
