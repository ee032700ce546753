"""Parameters of a finished or running run, for programs that only read it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from iblm_jax.models import families
from iblm_jax.training import checkpoints, options, warm_start
from iblm_jax.training import mesh as mesh_lib
from iblm_jax.training import program as program_lib


def restore_params(
    cfg: options.RunConfig,
    workdir: epath.PathLike,
    mesh: mesh_lib.MeshConfig | None = None,
) -> Any:
  """Parameters of the model of a run, as `restore_trained` finds them.

  Args:
    cfg: of the run, from `config.read_run`.
    workdir: of the run; nothing in it is changed.
    mesh: see `restore_trained`.

  Returns:
    The model's parameters, whatever was trained of them.

  Raises:
    ValueError: if there is no checkpoint yet.
    CheckpointError: if there are checkpoints and none is intact.
  """
  trained = restore_trained(cfg, workdir, mesh)
  if cfg.parameterisation is None:
    return trained
  return program_lib.Program(*_placed(cfg, mesh)).model_params(trained)


def beginning(
    cfg: options.RunConfig, donor: options.RunConfig
) -> Callable[[Any], Any]:
  """How a run with a `start` begins.

  Args:
    cfg: of the run.
    donor: of the run that it starts from.

  Returns:
    From fresh parameters to those of step 0; reads the donor's checkpoint.

  Raises:
    ValueError: if the parts do not fit, or the donor has no checkpoint.
  """
  start = cfg.start
  assert start is not None
  check_start(cfg, donor)
  if not checkpoints.saved_steps(epath.Path(start.workdir) / 'checkpoints'):
    raise ValueError(f'start.workdir: {start.workdir} holds no checkpoint yet.')
  return lambda params: warm_start.graft(
      params, restore_params(donor, start.workdir, cfg.mesh), start.parts
  )


def check_start(cfg: options.RunConfig, donor: options.RunConfig) -> None:
  """ValueError where parts of the donor do not fit this run; reads no file."""
  assert cfg.start is not None
  warm_start.check(
      families.shapes(cfg.model), families.shapes(donor.model), cfg.start.parts
  )


def restore_trained(
    cfg: options.RunConfig,
    workdir: epath.PathLike,
    mesh: mesh_lib.MeshConfig | None = None,
) -> Any:
  """What a run trains, from its newest intact checkpoint.

  Args:
    cfg: of the run, from `config.read_run`.
    workdir: of the run; nothing in it is changed.
    mesh: of all devices (of all processes), which the parameters are split
      over; None puts them on one.

  Returns:
    The state's `params`, whatever mesh they were trained on.

  Raises:
    ValueError: if there is no checkpoint yet.
    CheckpointError: if there are checkpoints and none is intact.
  """
  folder = epath.Path(workdir) / 'checkpoints'
  # On a folder that is not there, orbax fails with an error of its own.
  if not checkpoints.saved_steps(folder):
    raise ValueError(f'{folder} holds no checkpoint yet.')
  placed, devices = _placed(cfg, mesh)
  abstract = program_lib.abstract_state(
      placed, mesh_lib.make_mesh(placed.mesh, devices)
  )
  with checkpoints.Checkpoints(folder, read_only=True) as store:
    restored = store.restore(abstract)
  assert restored is not None  # there are steps
  return restored[1].params


def _placed(cfg, mesh):
  """The run on a mesh of all devices, or on one device."""
  if mesh is None:
    one = dataclasses.replace(cfg, mesh=mesh_lib.MeshConfig())
    return one, jax.devices()[:1]
  return dataclasses.replace(cfg, mesh=mesh), jax.devices()
