"""Certificates of runs: train, code, decode, score what was decoded, bound.

Everything after the training is that of `assembly`, for the `subject_of` a run.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from iblm_jax.bounds import options as bound_options
from iblm_jax.certification import (
    assembly,
    certificate,
    document_losses,
    quantisation,
    scoring,
    tuning,
)
from iblm_jax.data import documents as documents_lib
from iblm_jax.data import kinds
from iblm_jax.models import families
from iblm_jax.training import (
    config,
    data_record,
    lock,
    loop,
    options,
    progress,
    restoring,
)
from iblm_jax.training import summary as summary_lib

Report = scoring.Report
check_coder = certificate.check_coder
sample = assembly.sample
_PRNG = ('jax_default_prng_impl', 'jax_threefry_partitionable')


class CertifyConfig(NamedTuple):
  """A run and what is claimed of it."""

  run: options.RunConfig
  certificate: bound_options.CertificateConfig


def from_dict(tree: Mapping[str, Any]) -> CertifyConfig:
  """Builds and checks the config of a certificate.

  Args:
    tree: What `config.from_dict` takes, and a group `certificate`.

  Raises:
    ValueError: A field is unknown or out of its range, the run has no
      parameterisation, or its data are no documents.
  """
  if isinstance(tree, ml_collections.ConfigDict):
    tree = tree.to_dict()
  tree = json.loads(json.dumps(tree, default=list))
  run = config.from_dict(
      {k: v for k, v in tree.items() if k != 'certificate'}
  )
  declared = config.build(
      bound_options.CertificateConfig,
      tree.get('certificate', {}),
      'config.certificate',
  )
  if run.parameterisation is None:
    raise ValueError(
        'config.parameterisation must be given: a certificate is about what is'
        " coded. kind='full' codes the change of every parameter."
    )
  families.check_predicts_next(run.model, 'a certificate')
  allowed = kinds.names('make_documents')
  if run.data.kind not in allowed:
    raise ValueError(
        f'config.data.kind must be one of {allowed}, got'
        f' {run.data.kind!r}: a certificate is about documents.'
    )
  return CertifyConfig(run, declared)


def alternatives(cfg: CertifyConfig) -> list[CertifyConfig]:
  """One config for each of `certificate.dims`; the config itself without any.

  Raises:
    ValueError: Dims do not fit the parameterisation.
  """
  found = []
  for dims in cfg.certificate.dims:
    assert cfg.run.parameterisation is not None
    kind = dataclasses.replace(cfg.run.parameterisation, dims=dims)
    run = dataclasses.replace(cfg.run, parameterisation=kind)
    found.append(cfg._replace(run=run))
  return found or [cfg]


def folders(cfg: CertifyConfig, workdir: epath.Path) -> list[epath.Path]:
  """The folder in which each of `alternatives` is trained."""
  names = [
      'x'.join(str(d) for d in np.atleast_1d(dims))
      for dims in cfg.certificate.dims
  ]
  return [workdir / f'dims_{name}' for name in names] or [workdir]


def prepare(cfg: CertifyConfig) -> loop.Job:
  """Reads the data and checks that everything fits together.

  Raises:
    ValueError: Something does not fit, one device included; nothing was
      compiled or written.
  """
  check_coder()
  job = loop.prepare(cfg.run, jax.devices()[:1])
  if not documents_of(job).num_heldout:
    raise ValueError(
        'config.data must hold documents out: the certificate gives the loss'
        ' on them beside its bounds.'
    )
  declared = cfg.certificate
  scored = declared.sample or documents_of(job).num_train
  has_base = cfg.run.start is not None
  rows = declared.num_losses(has_base) + len(declared.top_k)
  if 8 * rows * scored > certificate.MOST_BYTES:
    raise ValueError(
        'config.certificate.sample must be at most'
        f' {certificate.MOST_BYTES // (8 * rows):,} for'
        f' {rows} alphas and top_k: others cannot verify so many losses, got'
        f' {scored:,}.'
    )
  headline = declared.headline
  size = documents_of(job).population['size']
  if headline in bound_options.FINITE_KINDS and size is None:
    raise ValueError(
        f'config.certificate.headline={headline!r} is for finite lists, but'
        f' {cfg.run.data.kind!r} has no end.'
    )
  return job


def finished(cfg: CertifyConfig, workdir: epath.Path) -> dict[str, Any] | None:
  """The certificate that a workdir holds, None if it holds none.

  Raises:
    ValueError: It has other options; a second certificate is a second run.
  """
  path = workdir / 'certificate' / 'certificate.json'
  if not path.exists():
    return None
  held = certificate.read_tree(path.parent)
  changed = config.differences(
      held['model']['certificate'],
      config.to_dict(cfg.certificate),
      'config.certificate',
  )
  if changed:
    name, old, new = changed[0]
    raise ValueError(
        f'{path} has other options: {name} is {old!r} there and {new!r} here.'
        ' Use another workdir, and count both among config.certificate.runs'
        ' where the better one is reported.'
    )
  return held


def subject_of(cfg: CertifyConfig, job: loop.Job) -> scoring.Subject:
  """The model, vector and documents of a run, from its config and `prepare`."""
  made, documents = job.program.parameterisation, documents_of(job)
  has_base = cfg.run.start is not None
  compares = has_base and cfg.certificate.sample is None

  @functools.cache
  def of_base(split, indices):
    return document_losses.totals(
        made.fixed['params'],
        cfg.run.model,
        documents,
        split,
        np.frombuffer(indices, np.int64),
        max_tokens=cfg.certificate.max_tokens,
    )[0]

  def scorer(w_d):
    params = job.program.model_params(made.from_vector(jnp.asarray(w_d)))

    def measure(
        split, indices, *, alphas, betas=(), shortest=1, top_k=(),
        report=scoring.quiet,
    ):
      indices = np.asarray(indices, np.int64)
      return document_losses.measure(
          params,
          cfg.run.model,
          documents,
          split,
          indices,
          alphas=alphas,
          betas=betas,
          shortest=shortest,
          reference_bits_N=(
              of_base(split, indices.tobytes()) if betas and compares else None
          ),
          top_k=top_k,
          max_tokens=cfg.certificate.max_tokens,
          report=progress.countdown(report, f'{split}, rows scored'),
      )

    return measure

  sizes = (math.prod(x.shape) for x in jax.tree.leaves(made.fixed['params']))
  return scoring.Subject(
      made.num_trained,
      documents.population,
      scorer,
      {
          'config': config.to_dict(cfg.run),
          'certificate': dataclasses.asdict(cfg.certificate),
          'parameters': sum(sizes),
          'prng': {name: getattr(jax.config, name) for name in _PRNG},
      },
      seed=cfg.run.data.seed,
      has_base=has_base,
      claims_tokens=True,
  )


def certify(
    cfg: CertifyConfig,
    workdir: epath.Path,
    report: Report,
    jobs: Sequence[loop.Job] | None = None,
) -> dict[str, Any]:
  """Trains where that is left to do, and writes the certificate.

  Args:
    cfg: The run and its claims.
    workdir: The folder of the run, and of those of `alternatives` where there
      are several; gets `certificate/`, of which certificate.json is written
      last. The caller has checked that it holds this run or none.
    report: Receives lines for a person to read.
    jobs: What `prepare` returned for each of `alternatives`, where the caller
      has it.

  Returns:
    The content of certificate.json.

  Raises:
    errors.RunFailed: Another process writes into the folder.
  """
  workdir = epath.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  with lock.held(workdir):
    return _certify(cfg, workdir, report, jobs)


def _certify(cfg, workdir, report, jobs) -> dict[str, Any]:
  started = time.monotonic()
  jobs = jobs or [prepare(one) for one in alternatives(cfg)]
  candidates = []
  for one, job, folder in zip(
      alternatives(cfg), jobs, folders(cfg, workdir), strict=True
  ):
    config.claim_workdir(one.run, folder)
    data_record.claim(folder, job.identity)
    loop.train(job, folder, report=report)
    trained = restoring.restore_trained(one.run, folder).params
    w_d = np.asarray(job.program.parameterisation.to_vector(trained))
    tune = functools.partial(
        tuning.tune, job=job, cfg=one.certificate, report=report
    )
    codes = quantisation.quantise(
        w_d,
        one.certificate,
        tune=tune if one.certificate.tuning_steps else None,
        report=report,
    )
    subject = subject_of(one, job)
    candidates += [assembly.Candidate(code, subject, w_d) for code in codes]
  made = assembly.assemble(
      candidates,
      cfg.certificate,
      started=started,
      made={
          'versions': summary_lib.versions('jax', 'numpy', 'constriction'),
          'device': jax.devices()[0].device_kind,
      },
      report=report,
  )
  made.save(workdir / 'certificate')
  return made.tree


def documents_of(job: loop.Job) -> documents_lib.Documents:
  """The units of a run."""
  assert isinstance(job.source, documents_lib.DocumentSource)
  return job.source.documents
