"""Paths of the leaves of a tree: what patterns are matched against.

A path joins the names on the way to a leaf with '/', as in
'blocks/attention/query/kernel'. Under 'blocks' the decoder stacks its layers:
the leading axis of those leaves counts layers, it is not an axis of the matrix.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from iblm_jax.typing import PyTree

STACKED = r'(^|/)blocks/'


def flatten(
    tree: PyTree,
) -> tuple[list[str], list[Any], jax.tree_util.PyTreeDef]:
  """Returns paths, leaves and structure of a tree.

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
  """Returns whether any pattern is found in the path (`re.search`)."""
  return any(re.search(pattern, path) for pattern in patterns)


def check_patterns(
    name: str, patterns: Sequence[str], all_paths: Sequence[str]
) -> None:
  """Raises ValueError, with all paths, for a pattern found in none."""
  for pattern in patterns:
    if not any(matches(path, (pattern,)) for path in all_paths):
      raise ValueError(
          f'{name}: {pattern!r} matches no parameter; the paths are:'
          f' {", ".join(all_paths)}.'
      )


def check_count(name: str, value: Any) -> None:
  """Raises ValueError unless the value is an integer of at least 1."""
  is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if not is_int or value < 1:
    raise ValueError(f'{name} must be an int >= 1, got {value!r}.')


def check_regexes(name: str, patterns: Any) -> None:
  """Raises ValueError unless `patterns` is a tuple of expressions."""
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
