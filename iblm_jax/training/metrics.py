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

  def __init__(
      self, path: epath.PathLike, *, keep_up_to: int, text: str | None = None
  ):
    """Opens a file of metrics, created where missing, for more lines.

    Args:
      path: The file.
      keep_up_to: Lines of later steps are cut away: a resumed run writes them
        again.
      text: What the file holds up to that step, as of `text`, whatever became
        of it; None keeps its readable lines.

    Raises:
      ValueError: A folder, a pipe or the like is in its place.
    """
    self._path = epath.Path(path)
    there = _read(self._path)
    if text is None:
      rows = ((line, _row(line)) for line in _whole_lines(there))
      lines = [line for line, row in rows if row and row['step'] <= keep_up_to]
    else:
      lines = _whole_lines(text)
    self._lines, self._pending = lines, []
    if there != self.text():
      self._rewrite()

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
    added, self._pending = _joined(self._pending), []
    if '://' in str(self._path):
      self._rewrite()  # object stores cannot append
      return
    try:
      with self._path.open('a') as file:
        file.write(added)
    except OSError as error:
      error.filename = str(self._path)  # a full disk names none
      raise

  def close(self) -> None:
    """Flushes."""
    self.flush()

  def text(self) -> str:
    """Returns all lines that were flushed, each with its line end."""
    return _joined(self._lines)

  def _rewrite(self):
    files.write_text(self._path, self.text())


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
  """Reads the lines of a metrics file, but for a last one that was cut off.

  Raises:
    ValueError: Another line is no object with a `step`; the message names it.
  """
  rows = []
  for number, line in enumerate(_whole_lines(_read(epath.Path(path))), 1):
    row = _row(line)
    if row is None:
      raise ValueError(
          f'{path}: line {number} must be a JSON object with a step, got'
          f' {line!r:.80}. The command that made the run restores the file.'
      )
    rows.append(row)
  return rows


def _read(path: epath.Path) -> str:
  try:
    data = files.read_bytes(path, most=2**33)
  except FileNotFoundError:
    return ''
  return data.decode(errors='replace')


def _whole_lines(text: str) -> list[str]:
  """Lines with their end; a process that was killed can leave half of one."""
  return [line for line in text.split('\n')[:-1] if line]


def _joined(lines: list[str]) -> str:
  return ''.join(f'{line}\n' for line in lines)


def _row(line: str) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  is_row = isinstance(row, dict) and type(row.get('step')) is int
  return row if is_row else None
