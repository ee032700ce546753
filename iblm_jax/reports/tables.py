"""Pages whose numbers come from results.json: Markdown tables and values.

A page marks where they go; `rewrite` fills them in and touches nothing else:

    <!-- table: conflict.json main -->
    <!-- end -->

    took <!-- value: conflict.json wall_seconds 0 --><!-- end --> seconds
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_MISSING = '–'
# A block cannot hold the start of another, so one that is not closed is not
# taken to reach as far as the end of the next.
_BODY = r'(?:(?!<!-- (?:table|value):).)*?'
_END = '<!-- end -->'
_TABLE = re.compile(
    rf'(<!-- table:\s+(\S+)\s+(\S+)\s+-->\n){_BODY}({_END})', re.DOTALL
)
_VALUE = re.compile(
    rf'(<!-- value:\s+(\S+)\s+(\S+)(?:\s+(\+?\d+))?\s+-->){_BODY}({_END})',
    re.DOTALL,
)
_START = re.compile(r'<!-- (?:table|value):[^\n]*')


def rewrite(page: str, load: Callable[[str], Mapping[str, Any]]) -> str:
  """Fills in the tables and the values of a page.

  Args:
    page: Markdown. `<!-- table: FILE NAME -->` on a line of its own begins a
      table, and `<!-- value: FILE PATH DIGITS -->` a value within a line. Both
      end at `<!-- end -->`, and what is between is replaced. PATH is that
      of `lookup`, and DIGITS are those of `make_value`.
    load: Reads the results of a file that the page names.

  Raises:
    ValueError: A block is not closed or not understood, or its file has no such
      table or value.
  """
  found = {
      match.start()
      for block in (_TABLE, _VALUE)
      for match in block.finditer(page)
  }
  for match in _START.finditer(page):
    if match.start() not in found:
      raise ValueError(
          f'a block is not closed by {_END} or not understood: {match[0]!r}.'
      )

  def fill_table(match):
    start, file, name, end = match.groups()
    return start + make_table(load(file), name) + end

  def fill_value(match):
    start, file, path, digits, end = match.groups()
    try:
      return start + make_value(lookup(load(file), path), digits) + end
    except ValueError as error:
      raise ValueError(f'{file}, {path}: {error}') from error

  return _VALUE.sub(fill_value, _TABLE.sub(fill_table, page))


def make_table(results: Mapping[str, Any], name: str) -> str:
  """Makes a Markdown table of results.

  Returns:
    Lines with a row for each method, a column for each metric, cells like
    'mean [low, high]' with the 95 % interval, and the number of seeds. A paired
    table has no row of the baseline. It holds signed differences to the
    baseline on the same seeds, in percent if the table is relative.

  Raises:
    ValueError: There is no such table.
  """
  if name not in results['tables']:
    raise ValueError(
        f'table must be one of {sorted(results["tables"])}, got {name!r}.'
    )
  table = results['tables'][name]
  labels, columns = table.get('labels', {}), table['columns']
  methods, corner, source = table['methods'], 'method', results['summary']
  if table['paired']:
    source = results['paired']
    baseline = source['baseline']
    methods = [method for method in methods if method != baseline]
    unit = ', %' if table.get('relative') else ''
    corner = f'against {labels.get(baseline, baseline)}{unit}'
  lines = [
      [corner, *(label for _, label, _ in columns), 'seeds'],
      ['---', *['---:'] * (len(columns) + 1)],
  ]
  for method in methods:
    entries = [source.get(method, {}).get(metric) for metric, _, _ in columns]
    counts = {entry['n'] for entry in entries if entry}
    ends = sorted({min(counts), max(counts)}) if counts else []
    if table.get('relative'):
      entries = [entry and entry['relative'] for entry in entries]
    cells = [
        _cell(entry, digits, signed=table['paired'])
        for entry, (_, _, digits) in zip(entries, columns, strict=True)
    ]
    seeds = '–'.join(str(n) for n in ends) or _MISSING
    lines.append([labels.get(method, method), *cells, seeds])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def lookup(results: Mapping[str, Any], path: str) -> Any:
  """Finds the value at a path in a tree.

  Args:
    path: Keys and indices of lists, joined by '.'. Keys may contain a '.'.

  Raises:
    ValueError: There is no value at the path, or more than one.

  >>> tree = {'summary': {'mbe_0.1': {'loss': {'ci95': [1.5, 2.5]}}}}
  >>> lookup(tree, 'summary.mbe_0.1.loss.ci95.1')
  2.5
  """
  found = list(_all_at(results, path.split('.')))
  if len(found) != 1:
    raise ValueError(f'{len(found)} values at the path {path!r}, expected one.')
  return found[0]


def make_value(value: Any, digits: str | None = None) -> str:
  """Formats a number, an interval or a text for a sentence.

  Args:
    digits: Number of digits after the point, such as '3', or '+3' for an
      explicit sign; None for whole numbers and texts.

  Raises:
    ValueError: The value is of another type, or the digits do not fit it.

  >>> make_value({'mean': 0.5, 'ci95': [0.25, 0.75]}, '+2')
  '+0.50 [+0.25, +0.75]'
  """
  if digits is None:
    if isinstance(value, (str, int)):
      return str(value)
  else:
    signed, places = digits.startswith('+'), int(digits)
    if isinstance(value, (int, float)):
      return _number(value, places, signed=signed)
    if isinstance(value, Mapping) and {'mean', 'ci95'} <= value.keys():
      return _cell(value, places, signed=signed)
  raise ValueError(f'cannot be shown with {digits=}: {value!r}.')


def _all_at(tree: Any, parts: list[str]):
  if not parts:
    yield tree
  elif isinstance(tree, Mapping):
    for used in range(1, len(parts) + 1):
      key = '.'.join(parts[:used])
      if key in tree:
        yield from _all_at(tree[key], parts[used:])
  elif isinstance(tree, list):
    if parts[0].isdigit() and int(parts[0]) < len(tree):
      yield from _all_at(tree[int(parts[0])], parts[1:])


def _cell(entry: Mapping[str, Any] | None, digits: int, *, signed: bool) -> str:
  """Formats 'mean [low, high]', or the part of it that is known."""
  if entry is None or entry['mean'] is None:
    return _MISSING
  mean = _number(entry['mean'], digits, signed=signed)
  if None in entry['ci95']:
    return mean
  low, high = (_number(end, digits, signed=signed) for end in entry['ci95'])
  return f'{mean} [{low}, {high}]'


def _number(value: float, digits: int, *, signed: bool) -> str:
  # 'z': what rounds to zero is not minus zero.
  return f'{value:{"+" if signed else ""}z.{digits}f}'
