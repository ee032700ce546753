"""Begins a run with parameters of another."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from iblm_jax.sublora import paths


@dataclasses.dataclass(frozen=True)
class StartConfig:
  """Where a run begins.

  Attributes:
    workdir: folder of another run, made absolute; its newest intact checkpoint
      is read.
    parts: which part of that run's parameters becomes which part of this
      one's, by path: {'encoder': 'encoder'} takes the encoder alone, {'': ''}
      takes all.

  Raises:
    ValueError: for no parts, or a workdir that is empty.
  """

  workdir: str
  parts: Mapping[str, str] = dataclasses.field(
      default_factory=lambda: {'': ''}, hash=False
  )

  def __post_init__(self):
    if not self.workdir:
      raise ValueError('workdir must name the folder of a run, got none.')
    workdir = os.fspath(self.workdir)
    if '://' not in workdir:  # the same wherever a run is resumed from
      workdir = os.path.abspath(workdir)
    object.__setattr__(self, 'workdir', workdir)
    texts = (*self.parts, *self.parts.values())
    if not self.parts or not all(isinstance(text, str) for text in texts):
      raise ValueError(
          f'parts must map paths to paths, got {dict(self.parts)!r}.'
      )


def graft(params: Any, donor: Any, parts: Mapping[str, str]) -> Any:
  """Puts parts of a donor's parameters in place of one's own.

  Args:
    params: A nested dict of arrays.
    donor: Likewise.
    parts: From the donor's path to the path here; '' is the whole tree.

  Returns:
    A tree like `params`, with its shardings.

  Raises:
    ValueError: See `check`.

  Example:
    >>> import numpy as np
    >>> own, other = {'a': np.zeros(2), 'b': 0}, {'c': {'d': np.ones(2)}}
    >>> graft(own, other, {'c/d': 'a'})
    {'a': Array([1., 1.], dtype=float32), 'b': 0}
  """
  check(params, donor, parts)
  for source, target in parts.items():
    moved = jax.tree.map(
        lambda new, old: jax.device_put(new, getattr(old, 'sharding', None)),
        _at(donor, source, 'start'),
        _at(params, target, 'the model'),
    )
    params = _set(params, target, moved)
  return params


def check(params: Any, donor: Any, parts: Mapping[str, str]) -> None:
  """Makes sure that `graft` can be done; shapes are enough.

  Raises:
    ValueError: A path is not there, or parts differ in their parameters or
      shapes.
  """
  for source, target in parts.items():
    there = _shapes(_at(donor, source, 'start'))
    here = _shapes(_at(params, target, 'the model'))
    differing = sorted(
        path for path in here | there if here.get(path) != there.get(path)
    )
    if differing:
      path = differing[0]
      raise ValueError(
          f'start: the part {source!r} must fit {target!r} of the model, but'
          f' {path!r} has shape {there.get(path)} there and {here.get(path)}'
          ' here (None: it is not there).'
      )


def changed(
    params: Any, donor: Any, parts: Mapping[str, str], frozen: tuple[str, ...]
) -> list[str]:
  """Lists the frozen leaves that are not, bit for bit, what they began as.

  Args:
    params: Parameters of a run that began with parts of a donor.
    donor: The donor's parameters.
    parts: See `graft`.
    frozen: Patterns of paths of `params`.

  Returns:
    The paths, in the order of the leaves.
  """
  found = []
  for source, target in parts.items():
    names, leaves, _ = paths.flatten(_at(params, target, 'the model'))
    _, others, _ = paths.flatten(_at(donor, source, 'start'))
    for name, leaf, other in zip(names, leaves, others, strict=True):
      path = f'{target}/{name}' if target else name
      same = np.array_equal(jax.device_get(leaf), jax.device_get(other))
      if paths.matches(path, frozen) and not same:
        found.append(path)
  return found


def _steps(path: str) -> list[str]:
  return [step for step in path.split('/') if step]


def _at(tree, path, what):
  for step in _steps(path):
    if not isinstance(tree, Mapping) or step not in tree:
      raise ValueError(f'{what} must have a part {path!r}.')
    tree = tree[step]
  return tree


def _set(tree, path, value):
  steps = _steps(path)
  if not steps:
    return value
  first, rest = steps[0], '/'.join(steps[1:])
  return {**tree, first: _set(tree[first], rest, value)}


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
      for path, leaf in leaves
  }
