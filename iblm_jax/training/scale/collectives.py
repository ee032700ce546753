"""Counts the communication of a compiled program from its text.

The compiler's own cost analysis sees the body of a loop once; here a loop's
communication counts as often as the loop runs.
"""

import math
import re
from typing import NamedTuple

from iblm_jax.training.scale import hlo

KINDS = (
    'all-gather',
    'all-reduce',
    'all-to-all',
    'collective-permute',
    'reduce-scatter',
)

_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\]')


class Collective(NamedTuple):
  """Holds one kind of communication in one run of a program, on one device.

  Attributes:
    kind: One of `KINDS`.
    count: How often it runs, loops unrolled.
    bytes: The size of the arrays as they are whole to the operation: gathered,
      or before they are scattered.
    received: Bytes that a device must at least receive from others.
    largest: Bytes of the largest single one.
  """

  kind: str
  count: int
  bytes: int
  received: int
  largest: int


class Operation(NamedTuple):
  """Describes one collective instruction."""

  kind: str
  runs: int  # how often the loops around it run it
  bytes: int  # see `Collective`
  group: int  # devices that take part
  shape: str  # of the result, as the program's text gives it


def totals(text: str, num_devices: int) -> list[Collective]:
  r"""Sums `operations` by kind, in the order of `KINDS`.

  Args:
    text: A compiled program, `compiled.as_text()`.
    num_devices: The number of its devices.

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
  """Finds every collective of a compiled program, and how often it runs.

  Loops count as in `hlo.runs`, and all branches of a conditional count. One
  operation that the compiler has spread over several fusions (start, overlapped
  work, end) counts once, as often as it is started.

  Raises:
    ValueError: The text has no entry computation, holds a collective in a loop
      whose number of rounds cannot be told, or one whose groups of devices are
      written in an unknown way.
  """
  bodies, entry = hlo.computations(text)
  runs = hlo.runs(bodies, entry)
  fused = hlo.fused(bodies)
  found: dict[tuple[str, ...], Operation] = {}
  for name, body in bodies.items():
    if not runs.get(name):
      continue
    for key, match in body.items():
      kind = match['op'].removesuffix('-start')
      if kind not in KINDS or key == 'ROOT':
        continue
      group = _group_size(match.string, num_devices)
      if group == 1:
        continue
      if math.isnan(runs[name]):
        raise ValueError(
            'cannot tell how often the loop around'
            f' {match.string.strip():.80} runs.'
        )
      operation = Operation(
          kind,
          int(runs[name]),
          _payload(kind, match['op'], match['shape'], group),
          group,
          match['shape'],
      )
      # Not so elsewhere: under shard_map different operations share a channel.
      piece = re.findall(r'channel_id=\d+|chain_id="\d+"', match.string)
      identity = (kind, *piece) if name in fused and piece else (name, key)
      # Overlapped work may lie in loops within the one that starts it.
      if identity not in found or operation.runs < found[identity].runs:
        found[identity] = operation
  return list(found.values())


def _group_size(line: str, num_devices: int) -> int:
  if 'source_target_pairs=' in line:
    return 2
  groups = re.search(r'replica_groups=(.*)', line)
  if groups is None or groups[1].startswith('{}'):
    return num_devices
  if named := re.match(r'mesh\[([^\]]*)\][^{]* \{([^}]*)\}', groups[1]):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    # A part of an axis says its own size: 'axis_0':(1)2.
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  if iota := re.match(r'\[\d+,(\d+)\]', groups[1]):
    return int(iota[1])
  if listed := re.match(r'\{\{([\d,]+)\}', groups[1]):
    return len(listed[1].split(','))
  raise ValueError(f'cannot read replica_groups={groups[1]:.80}')


def _payload(kind: str, op: str, shape: str, group: int) -> int:
  if op.endswith('-start') and kind != 'all-reduce':
    # Operands, results and contexts, in this order.
    operands, results = _elements(shape)[:2]
    return _bytes(operands if kind == 'reduce-scatter' else results)
  return _bytes(shape) * (group if kind == 'reduce-scatter' else 1)


def _elements(shape: str) -> list[str]:
  """Splits a tuple's shape into elements, which may be tuples themselves."""
  elements, depth = [''], 0
  for char in shape[1:-1]:
    depth += (char in '([{') - (char in ')]}')
    if char == ',' and depth == 0:
      elements.append('')
    else:
      elements[-1] += char
  return elements


def _bytes(shape: str) -> int:
  return sum(_size(dtype, dims) for dtype, dims in _ARRAY.findall(shape))


def _size(dtype: str, dims: str) -> int:
  digits = re.search(r'\d+', dtype)  # none in 'token', which holds nothing
  bits = 8 if dtype == 'pred' else int(digits[0]) if digits else 0
  return math.ceil(bits * math.prod(int(d) for d in dims.split(',') if d) / 8)


def _received(operation: Operation) -> int:
  """Counts bytes a device must receive; a permutation moves its whole array."""
  if operation.kind == 'collective-permute':
    return operation.bytes
  share = operation.bytes * (operation.group - 1) // operation.group
  return 2 * share if operation.kind == 'all-reduce' else share
