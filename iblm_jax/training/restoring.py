"""Parameters of a finished or running run, for programs that only read it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from etils import epath

from iblm_jax.models import families
from iblm_jax.training import checkpoints, options, warm_start
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import mesh as mesh_lib

# From fresh parameters to those of step 0, and what they were taken from.
Beginning = Callable[[Any], tuple[Any, dict[str, Any]]]


class Restored(NamedTuple):
  """What was read of a run, and of when."""

  params: Any  # as asked for
  step: int  # updates made


def restore_params(
    cfg: options.RunConfig,
    workdir: epath.PathLike,
    mesh: mesh_lib.MeshConfig | None = None,
    step: int | None = None,
) -> Restored:
  """Parameters of the model of a run, as `restore_trained` finds them.

  Args:
    cfg: of the run, from `config.read_run`.
    workdir: of the run; nothing in it is changed.
    mesh: see `restore_trained`.
    step: see `restore_trained`.

  Returns:
    The model's parameters, whatever was trained of them.

  Raises:
    ValueError: see `restore_trained`.
    CheckpointError: likewise.
  """
  found = restore_trained(cfg, workdir, mesh, step)
  if cfg.parameterisation is None:
    return found
  program = program_lib.Program(*_placed(cfg, mesh))
  return found._replace(params=program.model_params(found.params))


def beginning(
    cfg: options.RunConfig,
    workdir: epath.PathLike,
    read_run: Callable[[str], options.RunConfig],
) -> Beginning | None:
  """How a run with a `start` begins.

  Args:
    cfg: of the run.
    workdir: of the run.
    read_run: from the folder of a run to its config.

  Returns:
    From fresh parameters to those of step 0, and what they were taken from (the
    donor's 'workdir' and 'step'); reads the donor's checkpoint. None for a run
    that starts from no other, or has checkpoints of its own.

  Raises:
    ValueError: if the parts do not fit, or the donor has no checkpoint.
  """
  start = cfg.start
  if start is None or checkpoints.saved_steps(
      epath.Path(workdir) / 'checkpoints'
  ):
    return None
  donor = read_run(start.workdir)
  check_start(cfg, donor)
  if not checkpoints.saved_steps(epath.Path(start.workdir) / 'checkpoints'):
    raise ValueError(f'start.workdir: {start.workdir} holds no checkpoint yet.')

  def begin(params):
    taken = restore_params(donor, start.workdir, cfg.mesh)
    origin = {'workdir': start.workdir, 'step': taken.step}
    return warm_start.graft(params, taken.params, start.parts), origin

  return begin


# Of a stack: what tokens see is the run's to choose, no parameter depends on
# how it is computed, and sizes are compared by shapes.
_FREE = frozenset({
    'attention', 'document_mask', 'dtype', 'entropy', 'logit_softcap',
    'max_length', 'mlp_width', 'num_layers', 'remat', 'scan_layers',
    'tie_embeddings', 'vocab_size', 'width', 'window', 'zero_init_outputs',
})


def check_start(cfg: options.RunConfig, donor: options.RunConfig) -> None:
  """Makes sure that parts of the donor mean here what they mean there.

  Args:
    cfg: of the run that begins with them.
    donor: of the run that they come from.

  Raises:
    ValueError: where shapes differ, or what a stack computes from them. The
      rotary base of a stack that goes on learning may be another.
  """
  assert cfg.start is not None
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
  """What a run trains, from its newest intact checkpoint.

  Args:
    cfg: of the run, from `config.read_run`.
    workdir: of the run; nothing in it is changed.
    mesh: of all devices (of all processes), which the parameters are split
      over; None puts them on one.
    step: updates made, of the checkpoint to read; None for the newest one.

  Returns:
    The state's `params`, whatever mesh they were trained on.

  Raises:
    ValueError: if there is no checkpoint yet, or none of that step.
    CheckpointError: if there are checkpoints and none is intact, or that of
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
