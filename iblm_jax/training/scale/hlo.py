"""Reads a compiled program's text: computations, and how often each runs."""

import math
import re
from collections.abc import Callable
from typing import Any

_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
# A kernel's metadata may run over lines, and one of them may begin with braces.
_END = re.compile(r'}(, execution_thread=.*)?$')
_INSTRUCTION = re.compile(
    r'\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) '
    r'(?P<op>[a-z][\w\-]*)\((?P<operands>[^)]*)\)'
)
_CALLED = re.compile(
    r'(?:calls|to_apply|condition|body|true_computation|false_computation|'
    r'branch_computations|called_computations)='
    r'(\{[^}]*\}|%?[\w.\-]+)'
)

# Instructions of a computation by name, the last one under 'ROOT' too.
Body = dict[str, re.Match[str]]


def computations(text: str) -> tuple[dict[str, Body], str]:
  """Finds the instructions of each computation, and the entry's name."""
  bodies: dict[str, Body] = {}
  entry, body = None, None
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      body = bodies.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
    elif _END.match(line):
      body = None
    elif body is not None and (match := _INSTRUCTION.match(line)):
      body[match['name']] = match
      if match['root']:
        body['ROOT'] = match
  if entry is None:
    raise ValueError('the text holds no ENTRY computation.')
  return bodies, entry


def fused(bodies: dict[str, Body]) -> set[str]:
  """Names the computations that are bodies of fusions."""
  return {
      called
      for body in bodies.values()
      for match in body.values()
      if match['op'] == 'fusion'
      for called in re.findall(r'calls=%?([\w.\-]+)', match.string)
  }


def runs(bodies: dict[str, Body], entry: str) -> dict[str, float]:
  """Counts how often each computation runs; NaN where it cannot be told.

  A loop runs as often as the compiler noted, or else as its counter, which
  grows by a constant, stays below the constant that the condition compares it
  with.
  """
  calls: dict[str, list[tuple[str, float]]] = {name: [] for name in bodies}
  for name, body in bodies.items():
    for match in body.values():
      rounds = _rounds(name, match, bodies) if match['op'] == 'while' else 1
      for found in _CALLED.finditer(match.string):
        times = rounds if found[0].startswith('body=') else 1
        for called in re.findall(r'[\w.\-]+', found[1]):
          if called in bodies:
            calls[name].append((called, times))
  result: dict[str, float] = {}

  def visit(name, times):
    # Start, update and end of an asynchronous call name the same computation:
    # what is called from several places counts for the most frequent.
    known = result.get(name, 0)
    if times <= known or math.isnan(known):
      return
    result[name] = times
    for called, rounds in calls[name]:
      visit(called, times * rounds)

  visit(entry, 1)
  return result


def _rounds(name: str, loop: re.Match[str], bodies: dict[str, Body]) -> float:
  """Rounds of a `while` instruction of the computation `name`, NaN if unknown.

  A step can be more than one: XLA unrolls the loops that it makes of a product
  with a collective, and their limit still counts single parts.
  """
  noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.string)
  if noted:
    return int(noted[1])
  condition = _attribute('condition', loop)
  match _origin(condition, 'ROOT', bodies):
    case ('LT', ('element', index), int(limit)):
      pass
    case ('GT', int(limit), ('element', index)):
      pass
    case _:
      return math.nan
  start = _origin(name, _operands(loop)[0], bodies, index)
  match _origin(_attribute('body', loop), 'ROOT', bodies, index):
    case ('add', ('element', counter), int(step)):
      pass
    case ('add', int(step), ('element', counter)):
      pass
    case _:
      return math.nan
  if counter != index or step < 1 or not isinstance(start, int):
    return math.nan
  return max(math.ceil((limit - start) / step), 0)


def _origin(
    name: str,
    key: str,
    bodies: dict[str, Body],
    index: int | None = None,
    given: Callable[[int, int | None], Any] | None = None,
) -> Any:
  """Finds what an integer of a computation is made from.

  `index` says which element, where the instruction is a tuple; `given`, from
  (k, index) to the origin of the parameter k, follows the caller too.

  Returns:
    An int; ('element', i) of the computation's tuple; ('add', a, b), or
    ('LT', a, b) and the like for a comparison; None for anything else.
  """
  instruction = bodies.get(name, {}).get(key)
  if instruction is None:
    return None
  operands = _operands(instruction)

  def follow(k, index=None):
    return _origin(name, operands[k], bodies, index, given)

  match instruction['op']:
    case 'constant' if re.fullmatch(r'-?\d+', operands[0]):
      return int(operands[0])
    case 'parameter':
      return given(int(operands[0]), index) if given else ('element', index)
    case 'copy' | 'bitcast':
      return follow(0, index)
    case 'tuple' if index is not None:
      return follow(index)
    case 'get-tuple-element' if index is None:
      return follow(0, int(_attribute('index', instruction)))
    case 'add':
      return ('add', follow(0), follow(1))
    case 'compare':
      return (_attribute('direction', instruction), follow(0), follow(1))
    case 'fusion' | 'call':
      called = _attribute('(?:calls|to_apply)', instruction)
      return _origin(called, 'ROOT', bodies, index, follow)
  return None


def _operands(instruction: re.Match[str]) -> list[str]:
  """Names an instruction's operands; a constant's value."""
  return [
      operand.strip().removeprefix('%')
      for operand in instruction['operands'].split(',')
  ]


def _attribute(role: str, instruction: re.Match[str]) -> str:
  found = re.search(rf'\b{role}=%?([\w.\-]+)', instruction.string)
  return found[1] if found else ''
