"""Hypothesis strategies that harm files: bytes, and the values in JSON."""

import copy
import json

from hypothesis import strategies as st

# What breaks readers that trust: nothing, other types, too much, too deep.
_VALUES = st.sampled_from([
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, 1e308, 0.5,
    float('nan'), float('inf'), '', '\0', '/etc/passwd', '../../x', 'a\nb',
    'x' * 5000, '٣', '\ud800', [], {}, [None], [[]], {'': None}, [0] * 300,
])
_PIECES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([
        b'\0' * 64, b'[' * 3000, b'{"a":' * 3000, b'1e999', b'NaN', b'-1',
        b'9' * 5000, b'"\\ud800"', b'\xef\xbb\xbf', b'\n', b',', b'\xff' * 8,
    ]),
)


@st.composite
def harmed_bytes(draw, data: bytes) -> bytes:
  """The bytes with one to three flips, cuts, holes or insertions."""
  for _ in range(draw(st.integers(1, 3))):
    at = draw(st.integers(0, max(0, len(data) - 1)))
    kind = draw(st.sampled_from(['flip', 'cut', 'hole', 'insert', 'twice']))
    if kind == 'flip' and data:
      bit = 1 << draw(st.integers(0, 7))
      data = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    elif kind == 'cut':
      data = data[:at]
    elif kind == 'hole':
      data = data[:at] + data[at + draw(st.integers(1, 64)) :]
    elif kind == 'twice':
      data = data[:at] + data[at : at + 64] + data[at:]
    else:
      data = data[:at] + draw(_PIECES) + data[at:]
  return data


@st.composite
def harmed_tree(draw, tree):
  """The JSON tree with one or two values replaced, left out or renamed."""
  tree = copy.deepcopy(tree)
  for _ in range(draw(st.integers(1, 2))):
    places = list(_places(tree))
    if not places:
      return copy.deepcopy(draw(_VALUES))
    group, key = draw(st.sampled_from(places))
    kind = draw(st.sampled_from(['replace', 'replace', 'drop', 'rename']))
    if kind == 'replace':
      group[key] = copy.deepcopy(draw(_VALUES))  # the next harm may be to it
    elif kind == 'rename' and isinstance(group, dict):
      group[draw(st.sampled_from(['', 'x', f'{key} ']))] = group.pop(key)
    else:
      del group[key]
  return tree


def harmed_json(data: bytes) -> st.SearchStrategy[bytes]:
  """A file of JSON, harmed as bytes or as a tree."""
  trees = st.one_of(harmed_tree(json.loads(data)), _VALUES)
  return st.one_of(
      harmed_bytes(data), trees.map(lambda tree: json.dumps(tree).encode())
  )


def harmed_lines(data: bytes) -> st.SearchStrategy[bytes]:
  """A file of JSON lines, harmed as bytes or in one of its lines."""
  lines = data.splitlines(keepends=True)

  def with_line(place):
    at, line = place
    return b''.join([*lines[:at], line, b'\n', *lines[at + 1 :]])

  return st.one_of(
      harmed_bytes(data),
      *(
          st.tuples(st.just(at), harmed_json(line)).map(with_line)
          for at, line in enumerate(lines)
      ),
  )


def _places(tree):
  """Every group and list with each of its keys, the upper ones first."""
  keys = tree if isinstance(tree, dict) else ()
  if isinstance(tree, list):
    keys = range(min(len(tree), 20))
  for key in list(keys):
    yield tree, key
    yield from _places(tree[key])
