"""What remains of a run in one small file."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

import iblm_jax
from iblm_jax import files
from iblm_jax.optim import inspection
from iblm_jax.sublora import paths
from iblm_jax.training import manifest, metrics, options
from iblm_jax.training import state as state_lib

_NAME = 'summary.json'


def write(workdir: epath.PathLike, summary: dict[str, Any]) -> None:
  """Writes the summary of a run into its folder, with a hash of it."""
  path = epath.Path(workdir) / _NAME
  files.write_json(path, summary | {'sha256': manifest.digest_of(summary)})


def read(workdir: epath.PathLike) -> dict[str, Any] | None:
  """Reads the summary of the run in a folder; None where it is not finished.

  Raises:
    ValueError: It was changed since it was written, or is none. Those of
      version 0.1 have no hash.
  """
  path = epath.Path(workdir) / _NAME
  try:
    summary = files.read_json(path)
  except FileNotFoundError:
    return None
  if not isinstance(summary, dict) or not isinstance(summary.get('eval'), dict):
    raise ValueError(f'{path} must hold a summary, got {summary!r:.80}.')
  digest = summary.pop('sha256', None)
  if digest not in (None, manifest.digest_of(summary)):
    raise ValueError(
        f'{path} has changed since it was written. Without it, the command that'
        ' made the run makes it again.'
    )
  return summary


def of_finished(
    workdir: epath.Path,
    last: int,
    first: int | None,
    rows: str | None,
    report: Callable[[str], None],
) -> dict[str, Any] | None:
  """Reads the summary of a run that is over, and makes its metrics whole.

  Args:
    workdir: The folder of the run.
    last: Its last step.
    first: The step of the checkpoint that it goes on from, None without one.
    rows: The metrics that this checkpoint holds, None where it holds none.
    report: Takes what a person should know.

  Returns:
    The summary; None where there is more to do.

  Raises:
    ValueError: It is damaged, and there is no checkpoint to make it of.
  """
  path = workdir / 'metrics.jsonl'
  try:
    summary = read(workdir)
  except ValueError as error:
    if first is None:
      raise
    report(str(error))
    return None
  if first is None and summary is not None:
    report(
        f'{workdir} holds this run, finished at step {last}; its checkpoints'
        ' are gone'
    )
    return summary
  if first is None and path.exists():
    report('there is no checkpoint: the run and its metrics start again')
  if first != last or summary is None:
    return None
  if jax.process_index() == 0:
    metrics.JsonLines(path, keep_up_to=last, text=rows)
  report(f'{workdir} holds this run, finished at step {last}')
  return summary


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
