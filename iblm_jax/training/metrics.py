"""Metrics on disk: JSON lines always, TensorBoard where asked for."""

import importlib.util
import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath

from iblm_jax import files


class Writer(Protocol):
  """Sends metrics somewhere; implement it to send them where you want them."""

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Takes the scalars of a step."""
    ...

  def flush(self) -> None:
    """Makes everything written so far durable."""
    ...

  def close(self) -> None:
    """Flushes and lets go."""
    ...


class JsonLines:
  """Writes one JSON object a line: `step`, and scalars by flat names."""

  def __init__(self, path: epath.PathLike, *, keep_up_to: int):
    """Opens a file of metrics, created where missing, for more lines.

    Lines of steps after `keep_up_to` are cut away: a resumed run writes them
    again.
    """
    self._path = epath.Path(path)
    self._lines = [
        line for line in _read_lines(self._path)
        if json.loads(line)['step'] <= keep_up_to
    ]
    self._rewrite()
    self._pending = []

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Adds a line; non-finite values are written as null."""
    row = {'step': int(step)}
    row |= {name: to_python(value) for name, value in values.items()}
    self._pending.append(json.dumps(row))

  def flush(self) -> None:
    """Appends the pending lines to the file."""
    if not self._pending:
      return
    self._lines += self._pending
    if '://' in str(self._path):
      self._rewrite()  # object stores cannot append
    else:
      with self._path.open('a') as file:
        file.write(''.join(f'{line}\n' for line in self._pending))
    self._pending = []

  def close(self) -> None:
    """Flushes."""
    self.flush()

  def _rewrite(self):
    files.write_text(self._path, ''.join(f'{line}\n' for line in self._lines))


class TensorBoard:
  """Writes event files through tensorboardX (extra `tensorboard`)."""

  def __init__(self, folder: epath.PathLike, *, keep_up_to: int):
    """Opens a folder of event files, created where missing.

    Steps of earlier event files after `keep_up_to` are hidden.

    Raises:
      ValueError: tensorboardX is not installed.
    """
    check_tensorboard()
    import tensorboardX  # An extra: imported where it is used.

    self._writer = tensorboardX.SummaryWriter(
        str(folder), purge_step=keep_up_to + 1
    )

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Adds one scalar per name."""
    for name, value in values.items():
      self._writer.add_scalar(name, float(value), int(step))

  def flush(self) -> None:
    """Makes the events durable."""
    self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the event file."""
    self._writer.close()


def check_tensorboard() -> None:
  """Raises ValueError where tensorboardX is not installed."""
  if importlib.util.find_spec('tensorboardX') is None:
    raise ValueError(
        'train.tensorboard needs the package tensorboardX: pip install'
        " 'iblm-jax[tensorboard]'."
    )


def to_python(value: Any) -> int | float | None:
  """Makes a JSON number of a scalar of any kind; None if it is not finite."""
  number = np.asarray(value).item()
  if isinstance(number, float) and not math.isfinite(number):
    return None
  return number


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads the lines of a metrics file, but for a last one that was cut off."""
  return [json.loads(line) for line in _read_lines(epath.Path(path))]


def _read_lines(path: epath.Path) -> list[str]:
  """Whole lines; a process that was killed can leave half of one."""
  if not path.exists():
    return []
  *lines, rest = path.read_text().split('\n')
  del rest
  return [line for line in lines if line]
