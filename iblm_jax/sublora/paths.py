"""Paths of the leaves of a tree: what patterns are matched against.

A path joins the names on the way to a leaf with '/', as in
'blocks/attention/query/kernel'. Under 'blocks' the decoder stacks its layers:
the leading axis of those leaves counts layers, it is not an axis of the matrix.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

STACKED = r'(^|/)blocks/'


def flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
  """Paths, leaves and structure of a tree.

  Example:
    >>> flatten({'head': {'kernel': 1}, 'blocks': [2, 3]})[:2]
    (['blocks/0', 'blocks/1', 'head/kernel'], [2, 3, 1])
  """
  entries, treedef = jax.tree_util.tree_flatten_with_path(tree)
  names = [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, _ in entries
  ]
  return names, [leaf for _, leaf in entries], treedef


def matches(path: str, patterns: Iterable[str]) -> bool:
  """Whether any pattern is found in the path (`re.search`)."""
  return any(re.search(pattern, path) for pattern in patterns)


def check_patterns(
    name: str, patterns: Sequence[str], all_paths: Sequence[str]
) -> None:
  """ValueError for a pattern that is found in no path; lists the paths."""
  for pattern in patterns:
    if not any(re.search(pattern, path) for path in all_paths):
      raise ValueError(
          f'{name}: {pattern!r} matches no parameter; the paths are:'
          f' {", ".join(all_paths)}.'
      )


def check_regexes(name: str, patterns: Any) -> None:
  """ValueError unless `patterns` is a tuple of regular expressions."""
  if not isinstance(patterns, tuple) or not all(
      isinstance(pattern, str) for pattern in patterns
  ):
    raise ValueError(f'{name} must be a tuple of str, got {patterns!r}.')
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      raise ValueError(
          f'{name} must be regular expressions, got {pattern!r}: {error}.'
      ) from None
