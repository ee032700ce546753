"""Checks certificates of runs: rebuilds the run, then `comparison`."""

import dataclasses

from etils import epath

from iblm_jax.certification import comparison, pipeline
from iblm_jax.certification.certificate import check_files
from iblm_jax.certification.comparison import Mismatch
from iblm_jax.certification.scoring import Report
from iblm_jax.training import options

__all__ = ['Mismatch', 'check_files', 'verify']


def verify(
    folder: epath.PathLike, report: Report, data: str | None = None
) -> None:
  """Decodes the bits, rebuilds the model, scores it again and compares all.

  Bits, hashes and arithmetic must agree exactly, and losses within 1e-4 bits.

  Args:
    folder: The folder of the certificate.
    report: Receives lines for a person to read.
    data: Where the data file lies here, or a pattern of the files, if not
      where they did; their hashes decide.

  Raises:
    Mismatch: Something differs; the message names the first such thing.
    ValueError: A file is damaged or the data cannot be read.
  """
  held = comparison.open_checked(folder)
  if 'config' not in held.tree.get('model', {}):
    raise ValueError(
        f'{folder} is about a vector, not about a run: check it with'
        ' iblm_jax.certification.verify(FOLDER, nll_bits, documents).'
    )
  try:
    model = held.tree['model']
    cfg = pipeline.from_dict(
        {**model['config'], 'certificate': model['certificate']}
    )
  except (KeyError, TypeError) as error:
    raise ValueError(f'{folder} holds no certificate: {error!r}.') from error
  cfg = cfg._replace(run=_with_data(cfg.run, data))
  assert cfg.run.parameterisation is not None
  dims = cfg.run.parameterisation.dims
  comparison.paid_for('dims', dims, cfg.certificate.dims or (dims,))
  subject = pipeline.subject_of(cfg, pipeline.prepare(cfg))
  comparison.check(held, subject, cfg.certificate, report)


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
