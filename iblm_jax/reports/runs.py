"""Reads the folders of runs for comparison."""

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from iblm_jax import files
from iblm_jax.information import EntropyConfig
from iblm_jax.models import families
from iblm_jax.training import config, manifest, metrics
from iblm_jax.training import summary as summary_lib


class Run(NamedTuple):
  """A run as its folder holds it.

  Attributes:
    name: A short name, unique among the runs that are compared.
    config: The content of config.json.
    rows: The lines of metrics.jsonl, in order.
    summary: The content of summary.json, empty for an unfinished run.
  """

  name: str
  config: dict[str, Any]
  rows: list[dict[str, Any]]
  summary: dict[str, Any]

  @property
  def method(self) -> str:
    """The method of the objective: 'ce', 'mbe', 'gapt' or 'dual'."""
    return self.config['objective']['method']

  @property
  def entropy(self) -> EntropyConfig | None:
    """How the entropy was measured; None of an unknown family of models."""
    try:
      return families.entropy_of(config.from_dict(self.config).model)
    except ValueError:  # a report needs no plugin that the training needed
      return None

  def series(self, name: str) -> tuple[list[int], list[float]]:
    """Returns the steps and values of a metric where it is finite."""
    pairs = [
        (row['step'], row[name])
        for row in self.rows
        if row.get(name) is not None
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]

  def names(self, prefix: str) -> list[str]:
    """Returns the sorted names of the metrics that begin with a prefix."""
    return sorted({n for row in self.rows for n in row if n.startswith(prefix)})

  def eval_sets(self) -> list[str]:
    """Returns the names of the evaluation sets."""
    return sorted({name.split('/')[1] for name in self.names('eval/')})

  def compression(self) -> list[tuple[int, int, float]]:
    """Returns intervals of steps and the share of each in compression.

    The shares are exact however rarely the run wrote metrics, because the gate
    counts its steps.
    """
    steps, counts = self.series('gapt/compression_steps')
    intervals, before, counted = [], 0, 0
    for step, count in zip(steps, counts, strict=True):
      if step > before:
        intervals.append((before, step, (count - counted) / (step - before)))
      before, counted = step, count
    return intervals


def read_runs(workdirs: Sequence[epath.PathLike]) -> list[Run]:
  """Reads the folders of runs, in their order, and gives the runs short names.

  Raises:
    ValueError: A folder holds no run or no metrics yet; the message names it.
  """
  if not workdirs:
    raise ValueError('at least one run is needed.')
  paths = [files.folder('run', workdir) for workdir in workdirs]
  short = [path.name for path in paths]
  names = short if len(set(short)) == len(short) else [str(p) for p in paths]
  return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def _read(path: epath.Path, name: str) -> Run:
  config_path = path / 'config.json'
  if not config_path.exists():
    raise ValueError(f'{path} holds no run: there is no {config_path}.')
  rows = metrics.read_metrics(path / 'metrics.jsonl')
  if not rows:
    raise ValueError(f'{path} has no metrics yet.')
  manifest.check_config(path)
  manifest.check_metrics(path)
  summary = summary_lib.read(path) or {}
  return Run(name, files.read_object(config_path), rows, summary)


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Makes a row for each run of options, last metrics and phases.

  Returns:
    Rows with the same keys. A run without a value has an empty string.
  """
  rows = []
  for run in runs:
    objective, entropy = run.config['objective'], run.entropy
    row = {
        'run': run.name,
        'method': run.method,
        'seed': run.config['train']['seed'],
        'weight': objective['weight'],
        'alpha': '' if entropy is None else entropy.alpha,
        'patch_size': '' if entropy is None else entropy.patch_size,
        'steps': run.rows[-1]['step'],
        'finished': bool(run.summary),
    }
    last = ['train/cross_entropy', 'train/mbe']
    for name in run.eval_sets():
      last += [
          f'eval/{name}/{metric}'
          for metric in ('cross_entropy', 'accuracy', 'exact_match', 'mbe')
      ]
    for name in last:
      values = run.series(name)[1]
      row[name] = values[-1] if values else ''
    row |= {
        f'phases/{name}': value
        for name, value in run.summary.get('phases', {}).items()
    }
    row['wall_seconds'] = run.summary.get('wall_seconds', '')
    rows.append(row)
  columns = list(dict.fromkeys(name for row in rows for name in row))
  return [{name: row.get(name, '') for name in columns} for row in rows]


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
  r"""Writes a table as comma-separated text with a header line.

  >>> to_csv([{'run': 'a', 'loss': 1.5}, {'run': 'b', 'loss': ''}])
  'run,loss\na,1.5\nb,\n'
  """
  file = io.StringIO()
  writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return file.getvalue()
