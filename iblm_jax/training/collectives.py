"""Communication of a compiled program, counted from its text.

The compiler's own cost analysis sees the body of a loop once; here a loop's
communication counts as often as the loop runs.
"""

import math
import re
from typing import NamedTuple

KINDS = (
    'all-gather',
    'all-reduce',
    'all-to-all',
    'collective-permute',
    'reduce-scatter',
)

_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(
    r'\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>\(.*?\)|\S+) (?P<op>[a-z][\w\-]*)\('
)
_ARRAY = re.compile(r'([a-z]+\d*)\[([\d,]*)\]')
_CALLED = re.compile(
    r'(?:calls|to_apply|condition|body|true_computation|false_computation|'
    r'branch_computations|called_computations)='
    r'(\{[^}]*\}|%?[\w.\-]+)'
)
_BYTES = {'pred': 1, 'c64': 8, 'c128': 16}


class Collective(NamedTuple):
  """One kind of communication in one run of a program, on one device.

  Attributes:
    kind: one of `KINDS`.
    count: how often it runs, loops unrolled.
    bytes: size of the arrays as they are whole to the operation: gathered, or
      before they are scattered.
    received: bytes that a device must at least receive from others.
    largest: bytes of the largest single one.
  """

  kind: str
  count: int
  bytes: int
  received: int
  largest: int


class Operation(NamedTuple):
  """One collective instruction."""

  kind: str
  runs: int  # how often the loops around it run it
  bytes: int  # see `Collective`
  group: int  # devices that take part
  shape: str  # of the result, as the program's text gives it


def totals(text: str, num_devices: int) -> list[Collective]:
  r"""Sums of `operations` by kind.

  Args:
    text: of a compiled program, `compiled.as_text()`.
    num_devices: of the program.

  Returns:
    One entry for each kind that occurs, in the order of `KINDS`.

  >>> totals('ENTRY %main (x: f32[2]) -> f32[8] {\n'
  ...        '  ROOT %g = f32[8] all-gather(%x), replica_groups={{0,1,2,3}}\n'
  ...        '}', 4)[0].received
  24
  """
  found = operations(text, num_devices)
  result = []
  for kind in KINDS:
    chosen = [op for op in found if op.kind == kind]
    if chosen:
      result.append(
          Collective(
              kind,
              count=sum(op.runs for op in chosen),
              bytes=sum(op.runs * op.bytes for op in chosen),
              received=sum(op.runs * _received(op) for op in chosen),
              largest=max(op.bytes for op in chosen),
          )
      )
  return result


def operations(text: str, num_devices: int) -> list[Operation]:
  """Every collective of a compiled program, with how often it runs.

  A loop is taken to run as often as the compiler noted, or else as the one
  integer says that its condition compares with. One operation that the
  compiler has spread over several places (start, overlapped work, end) keeps
  its channel and counts once.

  Args:
    text: of a compiled program.
    num_devices: of the program; for operations that name no groups.

  Returns:
    The operations, in no particular order.

  Raises:
    ValueError: if the text has no entry computation, or holds a collective in
      a loop whose number of rounds cannot be told.
  """
  bodies, entry = _computations(text)
  runs = _runs(bodies, entry)
  found: dict[str, Operation] = {}
  for name, lines in bodies.items():
    if not runs.get(name):
      continue
    for number, line in enumerate(lines):
      match = _INSTRUCTION.match(line)
      if match is None:
        continue
      kind = match['op'].removesuffix('-start')
      if kind not in KINDS:
        continue
      group = _group_size(line, num_devices)
      if group == 1:
        continue
      if math.isnan(runs[name]):
        raise ValueError(
            f'cannot tell how often the loop around {line.strip():.80} runs.'
        )
      operation = Operation(
          kind,
          int(runs[name]),
          _payload(kind, match['op'], match['shape'], group),
          group,
          match['shape'],
      )
      channel = re.search(r'channel_id=(\d+)', line)
      key = f'channel {channel[1]}' if channel else f'{name} {number}'
      if key not in found or found[key].runs < operation.runs:
        found[key] = operation
  return list(found.values())


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Lines of each computation by name, and the name of the entry."""
  bodies: dict[str, list[str]] = {}
  entry, lines = None, None
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      lines = bodies.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif line.startswith('}'):
      lines = None
    elif lines is not None:
      lines.append(line)
  if entry is None:
    raise ValueError('the text holds no ENTRY computation.')
  return bodies, entry


def _runs(bodies: dict[str, list[str]], entry: str) -> dict[str, float]:
  """How often each computation runs; NaN where it cannot be told."""
  calls: dict[str, list[tuple[str, float]]] = {name: [] for name in bodies}
  for name, lines in bodies.items():
    for line in lines:
      rounds = None
      for match in _CALLED.finditer(line):
        kind = match[0].split('=')[0]
        if kind in ('condition', 'body') and rounds is None:
          rounds = _rounds(line, bodies)
        for called in re.findall(r'[\w.\-]+', match[1]):
          if called in bodies:
            calls[name].append((called, rounds if kind == 'body' else 1))
  runs: dict[str, float] = {}

  def visit(name, times):
    # A computation called from several places counts for the most frequent.
    known = runs.get(name, 0)
    if times <= known or math.isnan(known):
      return
    runs[name] = times
    for called, rounds in calls[name]:
      visit(called, times * rounds)

  visit(entry, 1)
  return runs


def _rounds(line: str, bodies: dict[str, list[str]]) -> float:
  """Rounds of the loop that a `while` instruction is."""
  noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
  if noted:
    return int(noted[1])
  condition = re.search(r'condition=%?([\w.\-]+)', line)
  lines = bodies.get(condition[1], []) if condition else []
  limits = {
      int(value)
      for body in lines
      for value in re.findall(r' = [su]\d+\[\]\S* constant\((\d+)\)', body)
  }
  return limits.pop() if len(limits) == 1 else math.nan


def _group_size(line: str, num_devices: int) -> int:
  if 'source_target_pairs={{' in line:
    return 2
  named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line)
  if named:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    axes = re.findall(r"'([^']+)'", named[2])
    return math.prod(int(sizes[axis]) for axis in axes)
  iota = re.search(r'replica_groups=\[(\d+),(\d+)\]', line)
  if iota:
    return int(iota[2])
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', line)
  return len(listed[1].split(',')) if listed else num_devices


def _payload(kind: str, op: str, shape: str, group: int) -> int:
  sizes = [_size(dtype, dims) for dtype, dims in _ARRAY.findall(shape)]
  if op.endswith('-start') and kind != 'all-reduce':
    # The shape holds operands beside results: (in, out, contexts).
    return max(sizes)
  if kind == 'reduce-scatter':
    return sum(sizes) * group
  return sum(sizes)


def _size(dtype: str, dims: str) -> int:
  bits = re.search(r'\d+', dtype)
  width = _BYTES.get(dtype) or math.ceil(int(bits[0]) / 8 if bits else 0)
  return width * math.prod(int(d) for d in dims.split(',') if d)


def _received(operation: Operation) -> int:
  """Bytes a device must receive; a permutation moves its whole array."""
  if operation.kind == 'collective-permute':
    return operation.bytes
  share = operation.bytes * (operation.group - 1) // operation.group
  return 2 * share if operation.kind == 'all-reduce' else share
