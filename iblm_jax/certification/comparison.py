"""Everything after the bits of a certificate again, and compared."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from iblm_jax.bounds import options
from iblm_jax.certification import assembly, certificate, quantisation, reading
from iblm_jax.certification.certificate import Certificate
from iblm_jax.certification.scoring import TOLERANCE, Report, Subject

# Not found again by verifying: only hashes tell whether somebody changed them.
_GIVEN = ('model', 'made')
# Numbers that are decoded, at most: of a code of zeros nothing bounds them.
_FEW_NUMBERS = 1 << 20
_NUMBERS_PER_BYTE = 1 << 13
_MOST_NUMBERS = 1 << 28
_MOST_HELDOUT = 1 << 24
# Two processors do not round a logarithm alike.
_ROUNDING = 1e-9
# In place of what a tree does not have; null is something that it has.
_ABSENT = type('Absent', (), {'__repr__': lambda self: 'None'})()


class Mismatch(Exception):
  """Something in a certificate is not what it should be."""


@contextlib.contextmanager
def in_one_line(folder: epath.PathLike) -> Iterator[None]:
  """Turns whatever the values of a stranger lead to into an error of a line.

  Raises:
    Mismatch: As inside.
    ValueError: For everything else.
  """
  try:
    yield
  except Mismatch as error:
    raise Mismatch(reading.shown(error)) from error
  except ValueError as error:
    raise ValueError(reading.shown(error)) from error
  # Its values reach every part of the library, and JAX.
  except Exception as error:
    said = f'{folder} cannot be used: {type(error).__name__}: {error}'
    raise ValueError(reading.shown(said)) from error


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
) -> Certificate:
  """Does everything after the bits again and compares.

  Args:
    held: A certificate of `open_checked`.
    subject: The model and its documents, built from what `held` declares.
    cfg: What `held` declares.
    report: Receives lines for a person to read.

  Returns:
    The certificate with all options of its model, and with the claims that
    follow from the losses found here: those of `held` may be lower, by as much
    as the tolerance lets its author lower them.

  Raises:
    Mismatch: Something differs; the message names the first such thing.
    ValueError: The code is damaged, or sizes are beyond what is verified.
  """
  tree, hashes = held.tree, held.tree['hashes']
  code = quantisation.Code(held.code, tree['code']['levels'])
  paid_for('code.levels', code.levels, cfg.levels)
  _same('hashes.data', subject.population['hash'], hashes['data'])
  recorded = certificate.unpack_losses(held.losses)
  _check_sizes(held, subject, cfg, recorded)
  scores = assembly.score(code, subject, cfg, report)
  _check_losses(scores.train, recorded)
  # The claims of the file were made of the numbers that were recorded.
  found, here = (
      assembly.make_tree(code, subject, cfg, scores._replace(train=losses))
      for losses in (
          recorded._replace(tokens=scores.train.tokens), scores.train
      )
  )
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
  claimed = {
      name: here[name] for name in ('claims', 'terms', 'heldout', 'model')
  }
  return dataclasses.replace(held, tree={**tree, **claimed})


def check_numbers(numbers: int, code: bytes) -> None:
  """ValueError for more numbers than such a code can honestly stand for."""
  most = min(_MOST_NUMBERS, _FEW_NUMBERS + _NUMBERS_PER_BYTE * len(code))
  if numbers > most:
    raise ValueError(
        f'numbers of the code must be at most {most:,} for {len(code):,} bytes'
        f' of code, got {numbers:,}.'
    )


def paid_for(name: str, taken: Any, paid: tuple[Any, ...]) -> None:
  """Mismatch unless a choice is among those that the certificate pays for."""
  if taken not in paid:
    raise Mismatch(
        f'{name} must be one of {reading.shown(paid)}, whose choice is paid'
        f' for, got {taken!r}.'
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
    slack = TOLERANCE if '.heldout.' in path else _ROUNDING
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
      there, here = old.get(name, _ABSENT), new.get(name, _ABSENT)
      yield from _differences(there, here, f'{path}.{name}')
  elif old != new or isinstance(old, bool) != isinstance(new, bool):
    yield path, old, new


def _check_sizes(held, subject, cfg, recorded) -> None:
  """Compares sizes with those of the files, before anything has them."""
  numbers, population = subject.size, subject.population
  _same('code.numbers', numbers, held.tree['code']['numbers'])
  check_numbers(numbers, held.code)
  heldout = min(population['num_heldout'], cfg.heldout)
  if heldout > _MOST_HELDOUT:
    raise ValueError(
        f'certificate.heldout must be at most {_MOST_HELDOUT:,} units to be'
        f' verified, got {heldout:,}.'
    )
  n = cfg.sample or population['num_train']
  for name, actual in (
      ('losses', (cfg.num_losses(subject.has_base), n)),
      ('errors', (len(cfg.top_k), n)),
      ('token_losses', (len(cfg.alphas),)),
  ):
    expected = getattr(recorded, name).shape
    if actual != expected:
      raise Mismatch(
          f'losses.npz holds {name} of shape {expected}, {actual} here.'
      )


def _check_losses(found, recorded) -> None:
  for name in certificate.RECORDED:
    actual, expected = getattr(found, name), getattr(recorded, name)
    gaps = np.abs(actual - expected)
    gap = float(gaps.max(initial=0.0))
    # An error is a share of few tokens: a tie that breaks the other way moves
    # that of one document a lot, but those of few documents.
    if name != 'errors' and not gap <= TOLERANCE:
      raise Mismatch(f'losses.npz differs from the {name} here by {gap} bits.')
    if name == 'errors' and actual.size:
      gap = float(gaps.mean(axis=1).max())
      if not gap <= TOLERANCE:
        raise Mismatch(f'losses.npz differs from the errors here by {gap}.')
