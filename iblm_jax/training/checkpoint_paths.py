"""What the path of a checkpoint means: a run of ours, or a published model."""

from typing import NamedTuple

from etils import epath

_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json')


class Run(NamedTuple):
  """A run; the step is that of a checkpoint, None for the newest."""

  folder: epath.Path
  step: int | None


def find_run(checkpoint: str) -> Run | None:
  """Returns the run that a path means, or None for a published model.

  Args:
    checkpoint: The folder of a run, or one of its checkpoints as
      RUN/checkpoints/STEP, or what `models.pretrained.load` reads.

  Raises:
    ValueError: It is missing or none of these.
  """
  path = epath.Path(checkpoint)
  if checkpoint.startswith('package:') or path.suffix == '.gguf':
    return None
  if not path.exists():
    raise ValueError(f'checkpoint {checkpoint!r} does not exist.')
  if (path / 'config.json').exists() and (path / 'checkpoints').exists():
    return Run(path, None)
  if path.parent.name == 'checkpoints' and path.name.isdigit():
    return Run(path.parent.parent, int(path.name))
  if path.suffix == '.safetensors' or any(
      (path / name).exists() for name in _WEIGHTS
  ):
    return None
  raise ValueError(
      'checkpoint must be the folder of a run (with config.json and'
      ' checkpoints), or what models.pretrained.load reads, got'
      f' {checkpoint!r}.'
  )
