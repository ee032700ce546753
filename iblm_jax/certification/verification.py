"""Certificates of others: everything after the bits again, and compared."""

import dataclasses
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from iblm_jax.certification import document_losses, quantisation
from iblm_jax.certification import pipeline as certification
from iblm_jax.training import config, options

_FILES = ('certificate.json', 'code.bin', 'losses.npz')
# Not found again by verifying: only hashes tell whether somebody changed them.
_GIVEN = ('model', 'made')
_LOSS_TOLERANCE = 1e-4
# Two processors do not round a logarithm alike.
_ROUNDING = 1e-9


class Mismatch(Exception):
  """Something in a certificate is not what it should be."""


def verify(
    folder: epath.Path, report: certification.Report, data: str | None = None
) -> None:
  """Does everything after the bits again and compares.

  Args:
    folder: of the certificate.
    report: told what a person wants to read.
    data: where the data file lies here, or a pattern of the files, if not
      where they did; their hashes decide.

  Raises:
    Mismatch: naming the first thing that differs.
    ValueError: if a file is damaged or the data cannot be read.
  """
  held = json.loads((folder / 'certificate.json').read_text())
  code = (folder / 'code.bin').read_bytes()
  losses = (folder / 'losses.npz').read_bytes()
  try:
    hashes, levels = held['hashes'], held['code']['levels']
    parts = dict(hashes['parts'])
    _same('hashes.code', certification.hash_of(code), hashes['code'])
    _same('hashes.losses', certification.hash_of(losses), hashes['losses'])
    for name in _GIVEN:
      _same_part(name, held, parts)
    model = held['model']
    cfg = certification.from_dict(
        {**model['config'], 'certificate': model['certificate']}
    )
    cfg = cfg._replace(run=_with_data(cfg.run, data))
    with np.load(io.BytesIO(losses)) as file:
      arrays = {name: file[name] for name in certification.RECORDED}
      recorded = document_losses.DocumentLosses(**arrays, tokens=0)
  except (KeyError, TypeError) as error:
    raise ValueError(f'{folder} holds no certificate: {error!r}.') from error
  assert cfg.run.parameterisation is not None
  dims = cfg.run.parameterisation.dims
  for name, taken, paid in (
      ('code.levels', levels, cfg.certificate.levels),
      ('dims', dims, cfg.certificate.dims or (dims,)),
  ):
    if taken not in paid:
      raise Mismatch(
          f'{name} must be one of {paid}, whose choice is paid for, got'
          f' {taken!r}.'
      )
  job = certification.prepare(cfg)
  population = certification.documents_of(job).population
  _same('hashes.data', population['hash'], hashes['data'])
  whole = quantisation.Code(code, levels)
  scores = certification.score(whole, cfg, job, report)
  _check_losses(scores.train, recorded)
  # The claims are made of the numbers that were recorded.
  scores = scores._replace(
      train=recorded._replace(tokens=scores.train.tokens)
  )
  found = certification.make_tree(whole, cfg, job, scores)
  found['hashes'] |= {'losses': hashes['losses'], 'parts': parts}
  # What the run was built from, in the words of the certificate: data may lie
  # elsewhere here, and options may have been added since.
  found['model'] |= {name: model[name] for name in ('config', 'certificate')}
  here, there = (tree['population']['files'] for tree in (found, held))
  found['population']['files'] = dict(zip(there, here.values(), strict=False))
  _compare(found, {k: v for k, v in held.items() if k != 'made'})
  for name in found.keys() - {'hashes'}:  # down to the last digit
    _same_part(name, held, parts)


def check_files(folder: epath.Path) -> None:
  """ValueError unless a certificate is there, and what it takes to read it."""
  for name in _FILES:
    if not (folder / name).exists():
      raise ValueError(f'{folder} must hold {name}; there is none.')
  certification.check_coder()


def _same(name: str, found: Any, held: Any) -> None:
  if found != held:
    raise Mismatch(f'{name} is {held!r} in the certificate and {found!r} here.')


def _same_part(name: str, held: Mapping[str, Any], parts: Any) -> None:
  _same(
      f'hashes.parts.{name}', certification.part_hash(held[name]), parts[name]
  )


def _compare(found: Mapping[str, Any], held: Mapping[str, Any]) -> None:
  held, found = (
      {**x, 'claims': _numbered(x.get('claims'))} for x in (held, found)
  )
  for path, old, new in config.differences(held, found, 'certificate'):
    slack = _LOSS_TOLERANCE if '.heldout.' in path else _ROUNDING
    floats = isinstance(old, float) and isinstance(new, float)
    if not floats or not math.isclose(
        old, new, rel_tol=_ROUNDING, abs_tol=slack
    ):
      raise Mismatch(f'{path} is {old!r} in the certificate and {new!r} here.')


def _numbered(claims: Any) -> Any:
  return dict(enumerate(claims)) if isinstance(claims, list) else claims


def _check_losses(found, recorded) -> None:
  for name in certification.RECORDED:
    here, there = getattr(found, name), getattr(recorded, name)
    if here.shape != there.shape:
      raise Mismatch(
          f'losses.npz holds {name} of shape {there.shape}, {here.shape} here.'
      )
    gap = float(np.abs(here - there).max(initial=0.0))
    # An error is a share of few tokens: a tie that breaks the other way moves
    # that of one document a lot, but those of few documents.
    if name != 'errors' and not gap <= _LOSS_TOLERANCE:
      raise Mismatch(f'losses.npz differs from the {name} here by {gap} bits.')
    if name == 'errors' and here.size:
      gap = float(np.abs(here - there).mean(axis=1).max())
      if not gap <= _LOSS_TOLERANCE:
        raise Mismatch(f'losses.npz differs from the errors here by {gap}.')


def _with_data(run: options.RunConfig, path: str | None) -> options.RunConfig:
  """A run on the same data at another place."""
  if path is None:
    return run
  here = run.data.options
  if hasattr(here, 'path'):
    there = dataclasses.replace(here, path=path)
  elif hasattr(here, 'files'):
    there = dataclasses.replace(here, files=(path,))
  else:
    raise ValueError(
        f'data of kind {run.data.kind!r} are in no file, got data={path!r}.'
    )
  data = dataclasses.replace(run.data, options=there)
  return dataclasses.replace(run, data=data)
