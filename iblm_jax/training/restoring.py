"""Restores parameters of a finished or running run, for readers of it."""

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from etils import epath

from iblm_jax import files
from iblm_jax.models import families
from iblm_jax.sublora import parameterisations
from iblm_jax.training import (
    checkpoints,
    options,
    published_start,
    warm_start,
)
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import mesh as mesh_lib

# Of a run that starts from another: which one, and after how many updates.
ORIGIN = 'start.json'

# From fresh parameters, which are used up, to those of step 0, and what they
# were taken from.
Beginning = Callable[[Any], tuple[Any, dict[str, Any]]]


class Restored(NamedTuple):
  """Holds what was read of a run, and after how many updates."""

  params: Any  # as asked for
  step: int  # updates made


def restore_params(
    cfg: options.RunConfig,
    workdir: epath.PathLike,
    mesh: mesh_lib.MeshConfig | None = None,
    step: int | None = None,
) -> Restored:
  """Restores the parameters of a run's model, whatever was trained of them.

  Args:
    cfg: The run's config, from `config.read_run`.
    workdir: The run's folder; nothing in it is changed.
    mesh: See `restore_trained`.
    step: See `restore_trained`.

  Returns:
    The model's parameters, and the step.

  Raises:
    ValueError: See `restore_trained`.
    CheckpointError: Likewise.
  """
  found = restore_trained(cfg, workdir, mesh, step)
  if cfg.parameterisation is None:
    return found
  program = program_lib.Program(*_placed(cfg, mesh))
  return found._replace(params=program.model_params(found.params))


def restore_adapters(
    cfg: options.RunConfig, workdir: epath.PathLike, step: int | None = None
) -> tuple[Any, Restored]:
  """Restores the low-rank adapters of a run, beside what they change.

  Args:
    cfg: The run's config, from `config.read_run`.
    workdir: The run's folder; nothing in it is changed.
    step: See `restore_trained`.

  Returns:
    The parameters of the model without adapters, and the adapters.

  Raises:
    ValueError: The run has none; see `restore_trained`.
    CheckpointError: See `restore_trained`.
  """
  trains = cfg.parameterisation
  if trains is None or not trains.has_adapters:
    raise ValueError(
        "parameterisation.kind must be 'lora' or 'sublora' for adapters, got"
        f' {trains and trains.kind!r}.'
    )
  found = restore_trained(cfg, workdir, step=step)
  fixed = program_lib.Program(*_placed(cfg, None)).parameterisation.fixed
  of_run = functools.partial(parameterisations.adapters_of, config=trains)
  return fixed['params'], found._replace(
      params=jax.jit(of_run)(found.params, fixed)
  )


def beginning(
    cfg: options.RunConfig,
    workdir: epath.PathLike,
    read_run: Callable[[str], options.RunConfig],
) -> Beginning | None:
  """Finds what a run with a `start` begins with.

  Args:
    cfg: The run's config.
    workdir: The run's folder.
    read_run: Gives the config of the run in a folder.

  Returns:
    A function from fresh parameters to those of step 0 and what they were taken
    from (the donor's 'workdir', 'step', and 'manifest', the SHA-256 of that of
    the checkpoint), which reads the donor's checkpoint: the newest one, or that
    with which the run began before. Of a published model they are 'pretrained'
    and 'sha256'. None for a run that starts from no other, adds to a published
    model, or has checkpoints of its own. A warning says if the donor's is
    another one now.

  Raises:
    ValueError: The parts do not fit, or the donor has no checkpoint.
  """
  start, workdir = cfg.start, epath.Path(workdir)
  if start is None:
    return None
  if start.pretrained is not None:
    return _of_published(cfg, start, workdir)
  assert start.workdir is not None
  step, manifest = _began(workdir)
  is_there = step is not None and manifest == _manifest(start.workdir, step)
  if checkpoints.saved_steps(workdir / 'checkpoints'):
    if not is_there and manifest and _manifest(start.workdir, step):
      warnings.warn(
          f'start: the checkpoint of step {step} in {start.workdir} is not the'
          ' one that this run began with.',
          stacklevel=2,
      )
    return None
  donor = read_run(start.workdir)
  check_start(cfg, donor)
  if not checkpoints.saved_steps(epath.Path(start.workdir) / 'checkpoints'):
    raise ValueError(f'start.workdir: {start.workdir} holds no checkpoint yet.')
  if manifest and not is_there:
    warnings.warn(
        f'start: this run began with the checkpoint of step {step} in'
        f' {start.workdir}, which is another or gone: it begins anew with the'
        ' newest one.',
        stacklevel=2,
    )

  def begin(params):
    taken = restore_params(
        donor, start.workdir, cfg.mesh, step if is_there else None
    )
    origin = {
        'workdir': start.workdir,
        'step': taken.step,
        'manifest': _manifest(start.workdir, taken.step),
    }
    return warm_start.graft(params, taken.params, start.parts), origin

  return begin


def _of_published(cfg, start, workdir) -> Beginning | None:
  # What is added to the model's parameters begins with zeros.
  is_added = cfg.parameterisation is not None
  if is_added or checkpoints.saved_steps(workdir / 'checkpoints'):
    return None

  def begin(params):
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    for leaf in jax.tree.leaves(params):
      leaf.delete()  # before others take as much
    taken = published_start.read_params(start, cfg.model, shardings)
    return taken, {'pretrained': start.pretrained, 'sha256': start.sha256}

  return begin


def _began(workdir: epath.Path) -> tuple[int | None, str | None]:
  """Step and manifest that the run was begun with; version 0.1 kept no hash."""
  path = workdir / ORIGIN
  if not path.exists():
    return None, None
  try:
    origin = files.read_json(path)
    return int(origin['step']), origin.get('manifest')
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(
        f'{path} must say where the run began: {error!r:.200}. Without the'
        ' file that is not known.'
    ) from error


def _manifest(workdir: epath.PathLike, step: int | None) -> str | None:
  """SHA-256 of the manifest of a checkpoint, None where there is none."""
  path = epath.Path(workdir) / 'checkpoints' / str(step) / 'manifest.json'
  if not path.is_file():
    return None
  return hashlib.sha256(path.read_bytes()).hexdigest()


# Of a stack: what tokens see is the run's to choose, no parameter depends on
# how it is computed, and sizes are compared by shapes.
_FREE = frozenset({
    'attention', 'document_mask', 'dtype', 'entropy', 'logit_softcap',
    'max_length', 'mlp_width', 'num_layers', 'remat', 'scan_layers',
    'tie_embeddings', 'vocab_size', 'width', 'window', 'zero_init_outputs',
})


def check_start(cfg: options.RunConfig, donor: options.RunConfig) -> None:
  """Makes sure that parts of the donor mean here what they mean there.

  Raises:
    ValueError: Shapes differ, or what a stack computes from them. The rotary
      base of a stack that goes on learning may be another.
  """
  assert cfg.start is not None and cfg.start.workdir is not None
  shapes = families.shapes(cfg.model)
  warm_start.check(shapes, families.shapes(donor.model), cfg.start.parts)
  frozen = program_lib.frozen_stacks(cfg, shapes)
  there, here = families.stacks(donor.model), families.stacks(cfg.model)
  for source, target in cfg.start.parts.items():
    sources, targets = _within(source, there), _within(target, here)
    pairs = [(name, name) for name in sources if name in targets]
    if len(sources) == len(targets) == 1:
      pairs = [(sources[0], targets[0])]
    for source_stack, stack in pairs:
      old, new = there[source_stack], here[stack]
      free = set(_FREE)
      if new.mixer is not None:  # it has heads of its own
        free.add('num_heads')
      if new.positions != 'rotary' or stack not in frozen:
        free.add('rotary_base')
      for field in dataclasses.fields(new):
        name = field.name
        if name not in free and getattr(old, name) != getattr(new, name):
          path = '.'.join(['model', *filter(None, [stack]), name])
          raise ValueError(
              f'start: {path} must be {getattr(old, name)!r}, which the'
              f' parameters of {cfg.start.workdir} were trained with, got'
              f' {getattr(new, name)!r}.'
          )


def _within(path: str, stacks: Mapping[str, Any]) -> list[str]:
  """Names of the stacks that a path of parameters is in, or has in it."""
  path = path.strip('/')
  return [
      name
      for name in stacks
      if not path or not name or f'{path}/'.startswith(f'{name}/')
  ]


def restore_trained(
    cfg: options.RunConfig,
    workdir: epath.PathLike,
    mesh: mesh_lib.MeshConfig | None = None,
    step: int | None = None,
) -> Restored:
  """Restores what a run trains, from its newest intact checkpoint.

  Args:
    cfg: The run's config, from `config.read_run`.
    workdir: The run's folder; nothing in it is changed.
    mesh: The mesh of all devices (of all processes) over which the parameters
      are split; None puts them on one.
    step: Which checkpoint to read, in updates; None for the newest one.

  Returns:
    The state's `params`, whatever mesh they were trained on.

  Raises:
    ValueError: There is no checkpoint yet, or none of that step.
    CheckpointError: There are checkpoints and none is intact, or that of
      `step` is damaged.
  """
  folder = epath.Path(workdir) / 'checkpoints'
  # On a folder that is not there, orbax fails with an error of its own.
  steps = checkpoints.saved_steps(folder)
  if not steps:
    raise ValueError(f'{folder} holds no checkpoint yet.')
  if step is not None and step not in steps:
    raise ValueError(
        f'step must be that of a checkpoint in {folder}, {steps}, got {step}.'
    )
  placed, devices = _placed(cfg, mesh)
  abstract = program_lib.abstract_state(
      placed, mesh_lib.make_mesh(placed.mesh, devices)
  )
  with checkpoints.Checkpoints(folder, read_only=True) as store:
    restored = store.restore(abstract, step)
  assert restored is not None  # there are steps
  return Restored(restored[1].params, restored[0])


def _placed(cfg, mesh):
  """The run on a mesh of all devices, or on one device."""
  if mesh is None:
    one = dataclasses.replace(cfg, mesh=mesh_lib.MeshConfig())
    return one, jax.devices()[:1]
  return dataclasses.replace(cfg, mesh=mesh), jax.devices()
