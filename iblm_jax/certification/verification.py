"""Checks certificates of runs: rebuilds the run, then `comparison`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from iblm_jax.certification import comparison, pipeline
from iblm_jax.certification.certificate import Certificate, check_files
from iblm_jax.certification.comparison import Mismatch
from iblm_jax.certification.scoring import Report
from iblm_jax.data.text import folders
from iblm_jax.models import families
from iblm_jax.training import options, program
from iblm_jax.training.scale import capacity

__all__ = ['Mismatch', 'Opened', 'check_files', 'open_certificate', 'verify']

GIGABYTES = 8
# Of the parameters in float32: the initial ones, a projector's, the model's.
_COPIES = 4


class Opened(NamedTuple):
  """A certificate that says nothing impossible; nothing is computed yet."""

  held: Certificate
  cfg: pipeline.CertifyConfig


def verify(
    folder: epath.PathLike,
    report: Report,
    data: str | None = None,
    *,
    base: str | None = None,
    opened: Opened | None = None,
) -> Certificate:
  """Decodes the bits, rebuilds the model, scores it again and compares all.

  Bits, hashes and arithmetic must agree exactly, and losses within 1e-4 bits.
  Time is not bounded here; the program `iblm-certify` bounds it.

  Args:
    folder: The folder of the certificate.
    report: Receives lines for a person to read.
    data: Where the data file lies, or a pattern of the files; their hashes
      decide. A path in a certificate is not followed.
    base: Where the published model lies to which the run added, as in
      `models.pretrained.load`; its hash decides.
    opened: What `open_certificate` returned for these, where the caller has it.

  Returns:
    The certificate with the claims that follow from the losses found here.

  Raises:
    Mismatch: Something differs; the message names the first such thing.
    ValueError: A file is damaged or the data cannot be read.
  """
  held, cfg = opened or open_certificate(folder, data, base=base)
  with comparison.in_one_line(folder):
    subject = pipeline.subject_of(cfg, pipeline.prepare(cfg))
    return comparison.check(held, subject, cfg.certificate, report)


def open_certificate(
    folder: epath.PathLike,
    data: str | None = None,
    *,
    base: str | None = None,
    gigabytes: float = GIGABYTES,
) -> Opened:
  """Reads a certificate and builds the run that it describes, without arrays.

  Args:
    folder: The folder of the certificate.
    data: As for `verify`.
    base: As for `verify`.
    gigabytes: Memory that the model may take.

  Raises:
    Mismatch: A hash differs, or a choice was not paid for.
    ValueError: A file is damaged, the config is none, its data are in a file
      and `data` is None, or its model is too large.
  """
  with comparison.in_one_line(folder):
    held = comparison.open_checked(folder)
    model = held.tree['model']
    if 'config' not in model:
      raise ValueError(
          f'{folder} is about a vector, not about a run: check it with'
          ' iblm_jax.certification.verify(FOLDER, nll_bits, documents).'
      )
    config = _with_base(model['config'], base)
    cfg = pipeline.from_dict({**config, 'certificate': model['certificate']})
    cfg = cfg._replace(run=_with_data(cfg.run, data))
    assert cfg.run.parameterisation is not None
    dims = cfg.run.parameterisation.dims
    comparison.paid_for('dims', dims, cfg.certificate.dims or (dims,))
    numbers = math.prod(np.atleast_1d(dims or 1).tolist())
    comparison.check_numbers(numbers, held.code)
    with capacity.counting(cfg.run):
      shapes = jax.tree.leaves(families.shapes(cfg.run.model))
    size = sum(math.prod(leaf.shape) for leaf in shapes)
    if 4 * _COPIES * size > gigabytes * 1e9:
      raise ValueError(
          f'a model of {size:,} parameters takes more than {gigabytes:g} GB to'
          ' verify.'
      )
    program.Program(cfg.run, jax.devices()[:1])
    return Opened(held, cfg)


def _with_base(
    config: Mapping[str, Any], base: str | None
) -> Mapping[str, Any]:
  """The config of a run on the published model that the caller names."""
  start = config.get('start')
  if start is None:
    if base is not None:
      raise ValueError(f'the run added to no published model, got {base!r}.')
    return config
  if not isinstance(start, Mapping) or not start.get('sha256'):
    raise ValueError('its start must be a published model with its sha256.')
  if base is None:
    raise ValueError(
        f'the run added to the model {start.get("pretrained")!r}, says the'
        ' certificate, whose paths are not followed: name it with --base (an'
        ' argument, base).'
    )
  return {**config, 'start': {**start, 'pretrained': base}}


def _with_data(run: options.RunConfig, path: str | None) -> options.RunConfig:
  """A run on the data that the caller names."""
  here = run.data.options
  names = [name for name in ('path', 'files') if hasattr(here, name)]
  if path is None and names:
    where = getattr(here, names[0])
    raise ValueError(
        f'the data lie at {where!r}, says the certificate, whose paths are not'
        ' followed: name the file with --data (an argument, data).'
    )
  if path is None:
    return run
  if not names:
    raise ValueError(
        f'data of kind {run.data.kind!r} are in no file, got data={path!r}.'
    )
  for one in path.split(','):
    folders.check_is_file(one)
  named = path if names[0] == 'path' else tuple(path.split(','))
  there = dataclasses.replace(here, **{names[0]: named})
  data = dataclasses.replace(run.data, options=there)
  return dataclasses.replace(run, data=data)
