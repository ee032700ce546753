"""What an experiment leaves: results.json, every number from its rows."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.reports import statistics
from iblm_jax.training import summary

_DIGITS = 6
_SHAPE = {
    'experiment': str,
    'claim': str,
    'command': str,
    'settings': dict,
    'machine': dict,
    'wall_seconds': (int, float),
    'rows': list,
    'summary': dict,
    'paired': dict,
    'tables': dict,
}


def write(
    path: epath.PathLike,
    *,
    experiment: str,
    claim: str,
    command: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    baseline: str | None,
    tables: Mapping[str, Mapping[str, Any]],
    wall_seconds: float,
    also: Mapping[str, Any] = {},
) -> dict[str, Any]:
  """Writes the results of an experiment, whole or not at all.

  Args:
    path: Of the file; replaced where it exists.
    rows: One per method and seed: 'method' (str), 'seed' (int), and metrics.
      What is no number is kept but not summarised; NaN and infinity are written
      as null. Floats are rounded to 6 significant digits, before anything is
      computed from them, so a reader of the file finds the same means.
    baseline: Method that the others are compared with on the same seeds; None
      if there is none.
    tables: For the page, by name: 'methods' (list of names), 'columns' (list
      of [metric, label, digits]), 'paired' (bool: differences to the baseline
      instead of means), and, if wanted, 'relative' (bool: of a paired table, in
      percent of the baseline) and 'labels' (method to what the page calls it).
    also: More entries of the file, JSON trees by name, none of those above.

  Returns:
    The tree as `read` gives it.

  Raises:
    ValueError: If a row has no method or seed, or both twice; if the baseline
      or a table names a method or a metric that no row has.
  """
  rows = rounded(rows)
  tree = {
      'experiment': experiment,
      'claim': claim,
      'command': command,
      'settings': _to_json(settings, digits=None),
      'machine': _machine(),
      'wall_seconds': _to_json(float(wall_seconds)),
      'rows': rows,
      'summary': summarise(rows),
      'paired': compare(rows, baseline),
      'tables': _to_json(tables),
  }
  tree |= {name: _to_json(more) for name, more in also.items()}
  _check(tree)
  files.write_text(path, _text(tree))
  return tree


def table(
    methods: Sequence[str], columns: Sequence[Sequence[Any]], **options: Any
) -> dict[str, Any]:
  """A table for the page, of means unless `paired`; see `write`."""
  return {
      'methods': list(methods),
      'columns': [list(column) for column in columns],
      'paired': False,
      **options,
  }


def read(path: epath.PathLike) -> dict[str, Any]:
  """Reads what `write` wrote.

  Raises:
    ValueError: The file holds something else; the message says what is wrong.
    OSError: There is no such file.
  """
  try:
    tree = files.read_object(path)
    _check(tree)
  except ValueError as error:
    raise ValueError(f'{path} holds no results: {error}') from error
  return tree


def rounded(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rows as a reader of the file finds them."""
  return [_to_json(row) for row in rows]


def summarise(
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, Any]]]:
  """Mean and 95 % interval of every metric of every method.

  Returns:
    {method: {metric: {'mean', 'ci95': [low, high], 'n'}}}; n counts the rows
    that have the metric, ci95 holds None where n = 1. Rounded as in the file.

  Raises:
    ValueError: A row has no method or seed, or both twice.
  """
  _check_rows(rows)
  found = {}
  for method in _methods(rows):
    found[method] = {}
    for metric in _metrics(rows):
      values = list(_by_seed(rows, method, metric).values())
      if values:
        entry = _entry(statistics.mean_ci(values))
        found[method][metric] = entry | {'n': len(values)}
  return found


def compare(
    rows: Sequence[Mapping[str, Any]], baseline: str | None
) -> dict[str, Any]:
  """Differences of every method to the baseline on the same seeds.

  Returns:
    {'baseline': name, method: {metric: {'mean', 'ci95', 'n', 'relative':
    {'mean', 'ci95'}}}}, `relative` being the change of the means in percent. A
    metric without a common seed is left out. Rounded as in the file.

  Raises:
    ValueError: If no row is of the baseline, or a method is named 'baseline'.
  """
  _check_rows(rows)
  methods = _methods(rows)
  comparison: dict[str, Any] = {'baseline': baseline}
  if baseline is None:
    return comparison
  if baseline not in methods:
    raise ValueError(f'baseline must be one of {methods}, got {baseline!r}.')
  for method in methods:
    if method == baseline:
      continue
    comparison[method] = {}
    for metric in _metrics(rows):
      common = _by_seed(rows, method, metric).keys() & _by_seed(
          rows, baseline, metric
      )
      if not common:
        continue
      chosen = (rows, metric, method, baseline)
      comparison[method][metric] = {
          **_entry(statistics.mean_ci(statistics.paired(*chosen))),
          'n': len(common),
          'relative': _entry(statistics.relative_ci(*chosen)),
      }
  return comparison


def _by_seed(rows, method: str, metric: str) -> dict[int, float]:
  return {
      row['seed']: row[metric]
      for row in rows
      if row['method'] == method and _is_number(row.get(metric))
  }


def _text(tree: Mapping[str, Any]) -> str:
  """JSON with a row of results on a line, the rest indented."""
  empty = '"rows": []'
  lines = [json.dumps(row, allow_nan=False) for row in tree['rows']]
  rest = json.dumps({**tree, 'rows': []}, indent=1, allow_nan=False)
  head, tail = rest.split(empty)
  # Python 3.11 allows no backslash inside the braces.
  rows = ',\n'.join(lines)
  return f'{head}"rows": [\n{rows}\n]{tail}\n'


def _entry(mean_ci: tuple[float, tuple[float, float]]) -> dict[str, Any]:
  mean, interval = mean_ci
  return {'mean': _to_json(mean), 'ci95': _to_json(list(interval))}


def _machine() -> dict[str, Any]:
  devices = jax.devices()
  return {
      'cpus': os.cpu_count(),
      'devices': f'{len(devices)} x {devices[0].device_kind}',
      'versions': summary.versions('jax', 'flax', 'optax', 'numpy', 'scipy'),
  }


def _to_json(value: Any, *, digits: int | None = _DIGITS) -> Any:
  """A JSON tree, of floats with that many significant digits."""
  if isinstance(value, Mapping):
    return {str(k): _to_json(v, digits=digits) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_to_json(v, digits=digits) for v in value]
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    return _to_json(np.asarray(value).tolist(), digits=digits)
  if isinstance(value, float):
    if not math.isfinite(value):
      return None
    return value if digits is None else float(f'{value:.{digits}g}')
  return value


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and math.isfinite(value)


def _methods(rows) -> list[str]:
  return list(dict.fromkeys(row['method'] for row in rows))


def _metrics(rows) -> list[str]:
  names = dict.fromkeys(
      name for row in rows for name, value in row.items() if _is_number(value)
  )
  return [name for name in names if name not in ('method', 'seed')]


def _check_rows(rows) -> None:
  seen = set()
  for row in rows:
    if not isinstance(row, Mapping):
      raise ValueError(f'a row must be a dict, got {row!r}.')
    method, seed = row.get('method'), row.get('seed')
    if not isinstance(method, str) or not isinstance(seed, int):
      raise ValueError(
          f'a row needs a method (str) and a seed (int), got {method=} {seed=}.'
      )
    if method == 'baseline':
      raise ValueError("no method can be named 'baseline': a key of `paired`.")
    if (method, seed) in seen:
      raise ValueError(f'{method!r} has two rows of seed {seed}.')
    seen.add((method, seed))


def _check(tree: Any) -> None:
  """Raises ValueError where a tree is not what `write` writes."""
  if not isinstance(tree, dict):
    raise ValueError(f'expected an object, got {type(tree).__name__}.')
  for name, kind in _SHAPE.items():
    if not isinstance(tree.get(name), kind):
      raise ValueError(f'{name!r} is missing or of another type.')
  _check_rows(tree['rows'])
  for name, table in tree['tables'].items():
    _check_table(name, table, tree)


def _check_table(name: str, table: Any, tree: Mapping[str, Any]) -> None:
  try:
    methods = set(table['methods']) | set(table.get('labels', {}))
    columns = [(metric, label, int(digits)) for metric, label, digits in
               table['columns']]
    paired = table['paired']
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise ValueError(
        f'table {name!r} needs methods, columns of [metric, label, digits] and'
        f' paired, got {table!r}.'
    ) from error
  if strangers := methods - set(_methods(tree['rows'])):
    raise ValueError(f'table {name!r}: no row is of {sorted(strangers)}.')
  known = {name for row in tree['rows'] for name in row}
  if strangers := {metric for metric, _, _ in columns} - known:
    raise ValueError(f'table {name!r}: no row has {sorted(strangers)}.')
  if paired and tree['paired'].get('baseline') is None:
    raise ValueError(f'table {name!r} is paired, but there is no baseline.')
  if table.get('relative') and not paired:
    raise ValueError(f'table {name!r} is relative, so it must be paired.')
