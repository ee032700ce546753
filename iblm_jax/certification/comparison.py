"""Everything after the bits of a certificate again, and compared."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from iblm_jax.bounds import options
from iblm_jax.certification import assembly, certificate, quantisation, reading
from iblm_jax.certification.certificate import Certificate
from iblm_jax.certification.scoring import Report, Subject

# Not found again by verifying: only hashes tell whether somebody changed them.
_GIVEN = ('model', 'made')
_LOSS_TOLERANCE = 1e-4
# Two processors do not round a logarithm alike.
_ROUNDING = 1e-9
# In place of what a tree does not have; null is something that it has.
_ABSENT = type('Absent', (), {'__repr__': lambda self: 'None'})()


class Mismatch(Exception):
  """Something in a certificate is not what it should be."""


def open_checked(folder: epath.PathLike) -> Certificate:
  """Reads a certificate, and compares the hashes of what is given in it.

  Raises:
    Mismatch: A hash differs.
    ValueError: A file is missing or damaged.
  """
  held = certificate.Certificate.load(folder)
  hashes = held.tree['hashes']
  _same('hashes.code', certificate.hash_of(held.code), hashes['code'])
  _same('hashes.losses', certificate.hash_of(held.losses), hashes['losses'])
  for name in _GIVEN:
    _same_part(name, held.tree)
  certificate.unpack_losses(held.losses)  # or it cannot be read
  return held


def check(
    held: Certificate,
    subject: Subject,
    cfg: options.CertificateConfig,
    report: Report,
) -> None:
  """Does everything after the bits again and compares.

  Args:
    held: A certificate of `open_checked`.
    subject: The model and its documents, built from what `held` declares.
    cfg: What `held` declares.
    report: Receives lines for a person to read.

  Raises:
    Mismatch: Something differs; the message names the first such thing.
    ValueError: The code is damaged.
  """
  tree, hashes = held.tree, held.tree['hashes']
  code = quantisation.Code(held.code, tree['code']['levels'])
  paid_for('code.levels', code.levels, cfg.levels)
  _same('hashes.data', subject.population['hash'], hashes['data'])
  scores = assembly.score(code, subject, cfg, report)
  recorded = certificate.unpack_losses(held.losses)
  _check_losses(scores.train, recorded)
  # The claims are made of the numbers that were recorded.
  scores = scores._replace(train=recorded._replace(tokens=scores.train.tokens))
  found = assembly.make_tree(code, subject, cfg, scores)
  found['hashes'] |= {name: hashes[name] for name in ('losses', 'parts')}
  # What the model was built from, in the words of the certificate: data may lie
  # elsewhere here, and options may have been added since.
  found['model'] |= {
      name: value
      for name, value in tree['model'].items()
      if name in ('config', 'certificate')
  }
  actual, expected = (x['population']['files'] for x in (found, tree))
  found['population']['files'] = dict(
      zip(expected, actual.values(), strict=False)
  )
  _compare(found, {k: v for k, v in tree.items() if k != 'made'})
  for name in found.keys() - {'hashes'}:  # down to the last digit
    _same_part(name, tree)


def paid_for(name: str, taken: Any, paid: tuple[Any, ...]) -> None:
  """Mismatch unless a choice is among those that the certificate pays for."""
  if taken not in paid:
    raise Mismatch(
        f'{name} must be one of {paid}, whose choice is paid for, got'
        f' {taken!r}.'
    )


def _same(name: str, actual: Any, expected: Any) -> None:
  if actual != expected:
    raise _mismatch(name, actual, expected)


def _mismatch(name: str, actual: Any, expected: Any) -> Mismatch:
  there, here = (reading.shown(repr(x), 80) for x in (expected, actual))
  end = ', which has no such field' if actual is _ABSENT else ''
  return Mismatch(
      f'{reading.shown(name)} is {there} in the certificate and {here} here'
      f'{end}.'
  )


def _same_part(name: str, tree: Mapping[str, Any]) -> None:
  _same(
      f'hashes.parts.{name}',
      certificate.part_hash(tree[name]),
      tree['hashes']['parts'][name],
  )


def _compare(found: Any, held: Any) -> None:
  for path, expected, actual in _differences(held, found, 'certificate'):
    slack = _LOSS_TOLERANCE if '.heldout.' in path else _ROUNDING
    floats = isinstance(expected, float) and isinstance(actual, float)
    if not floats or not math.isclose(
        expected, actual, rel_tol=_ROUNDING, abs_tol=slack
    ):
      raise _mismatch(path, actual, expected)


def _differences(
    old: Any, new: Any, path: str
) -> Iterator[tuple[str, Any, Any]]:
  """Places in two JSON trees, with what differs there."""
  old, new = (
      dict(enumerate(x)) if path == 'certificate.claims' and
      isinstance(x, list) else x for x in (old, new)
  )
  if isinstance(old, dict) and isinstance(new, dict):
    for name in sorted(old.keys() | new.keys()):
      yield from _differences(
          *(x.get(name, _ABSENT) for x in (old, new)), f'{path}.{name}'
      )
  elif old != new or isinstance(old, bool) != isinstance(new, bool):
    yield path, old, new


def _check_losses(found, recorded) -> None:
  for name in certificate.RECORDED:
    actual, expected = getattr(found, name), getattr(recorded, name)
    if actual.shape != expected.shape:
      raise Mismatch(
          f'losses.npz holds {name} of shape {expected.shape}, {actual.shape}'
          ' here.'
      )
    gaps = np.abs(actual - expected)
    gap = float(gaps.max(initial=0.0))
    # An error is a share of few tokens: a tie that breaks the other way moves
    # that of one document a lot, but those of few documents.
    if name != 'errors' and not gap <= _LOSS_TOLERANCE:
      raise Mismatch(f'losses.npz differs from the {name} here by {gap} bits.')
    if name == 'errors' and actual.size:
      gap = float(gaps.mean(axis=1).max())
      if not gap <= _LOSS_TOLERANCE:
        raise Mismatch(f'losses.npz differs from the errors here by {gap}.')
