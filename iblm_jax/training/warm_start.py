"""Begins a run with parameters of another."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from iblm_jax import fields
from iblm_jax.sublora import paths


@dataclasses.dataclass(frozen=True)
class StartConfig:
  """Where a run begins: with another run, or with a published model.

  Attributes:
    workdir: folder of another run, made absolute; its newest intact checkpoint
      is read.
    parts: which part of that run's parameters becomes which part of this
      one's, by path: {'encoder': 'encoder'} takes the encoder alone, {'': ''}
      takes all.
    pretrained: what `models.pretrained.load` reads, made absolute; all of its
      parameters are taken, and with them the model's config and tokenizer.
    sha256: of that model, see `models.pretrained.Head.sha256`; None until the
      run is about to begin. A config with it is complete without the files.
    dtype: 'float32', or 'bfloat16' to keep a published model so where little
      beside it is trained (`parameterisation`).

  Raises:
    ValueError: unless one of workdir and pretrained is given; for no parts, or
      another value that does not fit.
  """

  workdir: str | None = None
  parts: Mapping[str, str] = dataclasses.field(
      default_factory=lambda: {'': ''}, hash=False
  )
  pretrained: str | None = None
  sha256: str | None = None
  dtype: str = fields.field('float32', choices=('float32', 'bfloat16'))

  def __post_init__(self):
    fields.check(self)
    if '' in (self.workdir, self.pretrained):
      name = 'workdir' if self.workdir == '' else 'pretrained'
      what = 'the folder of a run' if self.workdir == '' else 'a model'
      raise ValueError(f'{name} must name {what}, got none.')
    if (self.workdir is None) == (self.pretrained is None):
      raise ValueError(
          'one of workdir and pretrained must be given, got'
          f' {self.workdir!r} and {self.pretrained!r}.'
      )
    for name in ('workdir', 'pretrained'):
      if getattr(self, name) is not None:
        object.__setattr__(self, name, absolute(getattr(self, name)))
    texts = (*self.parts, *self.parts.values())
    if not self.parts or not all(isinstance(text, str) for text in texts):
      raise ValueError(
          f'parts must map paths to paths, got {dict(self.parts)!r}.'
      )
    if self.pretrained is None:
      unused = self.sha256 or (self.dtype != 'float32' and self.dtype)
      if unused:
        raise ValueError(
            f'sha256 and dtype are of a pretrained model, got {unused!r}.'
        )
    elif dict(self.parts) != {'': ''}:
      raise ValueError(
          'parts are of a workdir: of a pretrained model all is taken, got'
          f' {dict(self.parts)!r}.'
      )

  @property
  def source(self) -> str:
    """The workdir or the published model, for messages."""
    return self.workdir or self.pretrained or ''


def absolute(path: epath.PathLike) -> str:
  """Makes a path the same wherever a run is resumed from."""
  path = os.fspath(path)
  if '://' in path or path.startswith('package:'):
    return path
  return os.path.abspath(path)


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
