"""Certificates: train, code, decode, evaluate what was decoded, bound.

Everything after the bits is a function of the bits, the config and the data, so
that `verification` does the same again and compares.
"""

import dataclasses
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from etils import epath

from iblm_jax import bounds
from iblm_jax.bounds import claims as claims_lib
from iblm_jax.bounds import options as bound_options
from iblm_jax.certification import document_losses, quantisation
from iblm_jax.data import documents as documents_lib
from iblm_jax.data import hashing, sources
from iblm_jax.experiments._harness import workdirs
from iblm_jax.models import families
from iblm_jax.training import config, loop, options, progress, restoring
from iblm_jax.training import summary as summary_lib

Report = Callable[[str], None]
_PRNG = ('jax_default_prng_impl', 'jax_threefry_partitionable')
RECORDED = ('losses', 'errors', 'token_losses')  # in losses.npz
# As the formulas call them.
_SHORT = {'num_train': 'm', 'vocab_size': 'V'}


class CertifyConfig(NamedTuple):
  """A run and what is claimed of it."""

  run: options.RunConfig
  certificate: bound_options.CertificateConfig


def from_dict(tree: Mapping[str, Any]) -> CertifyConfig:
  """The config of a certificate, checked.

  Args:
    tree: as `config.from_dict` takes it, and a group `certificate`.

  Raises:
    ValueError: for an unknown field, a value out of its range, a run that has
      no parameterisation or whose data are no documents.
  """
  if isinstance(tree, ml_collections.ConfigDict):
    tree = tree.to_dict()
  tree = json.loads(json.dumps(tree, default=list))
  run_tree = {k: v for k, v in tree.items() if k != 'certificate'}
  run = config.from_dict(run_tree)
  cfg = CertifyConfig(
      run, config.build(
          bound_options.CertificateConfig, tree.get('certificate', {}),
          'config.certificate',
      )
  )
  if run.parameterisation is None:
    raise ValueError(
        'config.parameterisation must be given: a certificate is about what is'
        " coded. kind='full' codes the change of every parameter."
    )
  families.check_predicts_next(run.model, 'a certificate')
  if run.data.kind not in sources.DOCUMENT_KINDS:
    raise ValueError(
        f'config.data.kind must be one of {tuple(sources.DOCUMENT_KINDS)}, got'
        f' {run.data.kind!r}: a certificate is about documents.'
    )
  return cfg


def alternatives(cfg: CertifyConfig) -> list[CertifyConfig]:
  """One config for each of `certificate.dims`; the config itself without any.

  Raises:
    ValueError: if dims do not fit the parameterisation.
  """
  found = []
  for dims in cfg.certificate.dims:
    assert cfg.run.parameterisation is not None
    kind = dataclasses.replace(cfg.run.parameterisation, dims=dims)
    run = dataclasses.replace(cfg.run, parameterisation=kind)
    found.append(cfg._replace(run=run))
  return found or [cfg]


def folders(cfg: CertifyConfig, workdir: epath.Path) -> list[epath.Path]:
  """Where each alternative is trained."""
  names = [
      'x'.join(str(d) for d in np.atleast_1d(dims))
      for dims in cfg.certificate.dims
  ]
  return [workdir / f'dims_{name}' for name in names] or [workdir]


def prepare(cfg: CertifyConfig) -> loop.Job:
  """Reads the data and checks that everything fits together.

  Raises:
    ValueError: naming what does not fit, one device included; nothing was
      compiled or written.
  """
  check_coder()
  job = loop.prepare(cfg.run, jax.devices()[:1])
  if not documents_of(job).num_heldout:
    raise ValueError(
        'config.data must hold documents out: the certificate gives the loss'
        ' on them beside its bounds.'
    )
  headline = cfg.certificate.headline
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
    ValueError: if it has other options: a second one is a second run.
  """
  path = workdir / 'certificate' / 'certificate.json'
  if not path.exists():
    return None
  held = json.loads(path.read_text())
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


class Candidate(NamedTuple):
  """A code, its run, and what was trained before it was coded."""

  code: quantisation.Code
  cfg: CertifyConfig
  job: loop.Job
  trained: Any


def certify(
    cfg: CertifyConfig,
    workdir: epath.Path,
    report: Report,
    jobs: list[loop.Job] | None = None,
) -> dict[str, Any]:
  """Trains where that is left to do, and writes the certificate.

  Args:
    cfg: the run and its claims.
    workdir: of the run, and of those of `alternatives` where there are several;
      gets `certificate/`, of which certificate.json is written last. The caller
      has checked that it holds this run or none.
    report: told what a person wants to read, a line at a time.
    jobs: of `prepare`, for each of `alternatives`, where the caller has them.

  Returns:
    The certificate.
  """
  started = time.monotonic()
  jobs = jobs or [prepare(one) for one in alternatives(cfg)]
  candidates = []
  for one, job, folder in zip(
      alternatives(cfg), jobs, folders(cfg, workdir), strict=True
  ):
    config.claim_workdir(one.run, folder)
    loop.train(job, folder, report=report)
    trained = restoring.restore_trained(one.run, folder).params
    w_d = np.asarray(job.program.parameterisation.to_vector(trained))
    candidates += [
        Candidate(code, one, job, trained)
        for code in quantisation.quantise(job, w_d, one.certificate, report)
    ]
  code, cfg, job, trained = _best(candidates, report)
  scores = score(code, cfg, job, report)
  tree = make_tree(code, cfg, job, scores)
  before = document_losses.measure(
      job.program.model_params(trained),
      cfg.run.model,
      documents_of(job),
      'heldout',
      _heldout(job, cfg),
      alphas=(1e-9,),
      top_k=(),
      max_tokens=cfg.certificate.max_tokens,
  )
  tree['made'] = {
      'seconds': round(time.monotonic() - started, 1),
      'versions': summary_lib.versions('jax', 'numpy', 'constriction'),
      'device': jax.devices()[0].device_kind,
      'heldout_before_quantisation': float(before.losses.mean()),
  }
  file = io.BytesIO()
  arrays = {name: getattr(scores.train, name) for name in RECORDED}
  np.savez(file, **arrays)
  parts = {name: part_hash(part) for name, part in tree.items()}
  del parts['hashes']
  tree['hashes'] |= {'losses': hash_of(file.getvalue()), 'parts': parts}
  folder = workdir / 'certificate'
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'code.bin').write_bytes(code.data)
  (folder / 'losses.npz').write_bytes(file.getvalue())
  workdirs.write_json(folder / 'certificate.json', tree)
  return tree


class Scores(NamedTuple):
  """What the model that bits stand for loses.

  Attributes:
    vector: float32 [d], what was decoded.
    train: on the sample of the training set.
    heldout: on units that training never saw.
  """

  vector: np.ndarray
  train: document_losses.DocumentLosses
  heldout: document_losses.DocumentLosses


def score(
    code: quantisation.Code, cfg: CertifyConfig, job: loop.Job, report: Report
) -> Scores:
  """Decodes and evaluates.

  Args:
    code: the bits.
    cfg: the run and its claims.
    job: of `prepare`; only data, seeds and shapes matter.
    report: told what a person wants to read.

  Raises:
    ValueError: if the code is damaged.
  """
  options_, documents = cfg.certificate, documents_of(job)
  w_d, params = quantisation.rebuild(code, job, options_)
  measure = lambda split, indices: document_losses.measure(
      params,
      cfg.run.model,
      documents,
      split,
      indices,
      alphas=options_.alphas,
      top_k=options_.top_k,
      max_tokens=options_.max_tokens,
      report=progress.countdown(report, f'{split}, rows scored'),
  )
  drawn = sample(code.data, documents.num_train, options_.sample)
  return Scores(
      w_d, measure('train', drawn), measure('heldout', _heldout(job, cfg))
  )


def make_tree(
    code: quantisation.Code, cfg: CertifyConfig, job: loop.Job, scores: Scores
) -> dict[str, Any]:
  """What a certificate says, from bits, config, data and losses.

  Args:
    code: the bits.
    cfg: the run and its claims.
    job: of `prepare`.
    scores: of `score`.

  Returns:
    The certificate, without the hashes of its files and parts and without what
    differs from one making to the next.
  """
  options_, documents = cfg.certificate, documents_of(job)
  made, population = job.program.parameterisation, documents.population
  losses = scores.train
  bits = claims_lib.code_bits(len(code.data), options_)
  claims = claims_lib.make_claims(
      losses.losses,
      losses.errors,
      vocab_size=documents.vocab_size,
      total_bits=bits['total'],
      m=documents.num_train,
      population=population['size'],
      cfg=options_,
      tokens=losses.tokens,
      token_losses_A=losses.token_losses,
  )
  tree = {
      'claims': [
          {k: v for k, v in claim.items() if k not in ('terms', 'nats')}
          for claim in claims
      ],
      'terms': {
          f'{claim["loss"]}, {claim["kind"]}': {
              'sum': claim['terms'], 'nats': claim['nats']
          }
          for claim in claims
      },
      'population': {
          **{_SHORT.get(k, k): v for k, v in population.items()},
          'n': losses.losses.shape[1],
          'drawn': 'all' if options_.sample is None else (
              'uniformly with replacement, by the hash of the code'
          ),
          'tokens': losses.tokens,
      },
      'code': {
          **bits,
          'codebook': 16 * (1 if options_.codebook == 'step' else code.levels),
          'numbers': made.num_trained,
          'levels': code.levels,
          'bits_per_number': bits['payload'] / made.num_trained,
      },
      'model': {
          'config': config.to_dict(cfg.run),
          'certificate': dataclasses.asdict(options_),
          'parameters': _size(made.fixed['params']),
          'prng': {name: getattr(jax.config, name) for name in _PRNG},
      },
      'hashes': {
          'code': hash_of(code.data),
          'decoded': hash_of(np.ascontiguousarray(scores.vector, '<f4')),
          'data': population['hash'],
      },
      'heldout': _heldout_risk(scores.heldout, options_, claims),
  }
  return json.loads(json.dumps(tree))


def sample(code: bytes, m: int, n: int | None) -> np.ndarray:
  """Numbers of the units that are scored, int64 [n]; all m for None.

  Drawn by the hash of the code: the sample is known once the model is, and
  another model is scored on another sample. Who makes several codes and keeps
  the one with the best sample must declare so many `runs`.
  """
  if n is None:
    return np.arange(m)
  digest = hashlib.sha256(b'sample' + code).digest()
  key = np.frombuffer(digest[:8], '<u8')[0]
  return hashing.below(hashing.fold(key, np.arange(n, dtype=np.uint64)), m)


def check_coder() -> None:
  """ValueError where the coder is not installed."""
  try:
    bounds.encode(np.array([0, 1]), 2)
  except ImportError as error:
    raise ValueError(str(error)) from error


def _best(candidates: list[Candidate], report: Report) -> Candidate:
  """The code with the best estimate of its certificate, on few documents.

  These do not depend on the code, unlike those that the certificate is about.
  """
  if len(candidates) == 1:
    return candidates[0]

  def estimate(candidate):
    code, cfg, job, _ = candidate
    documents = documents_of(job)
    options_ = dataclasses.replace(cfg.certificate, top_k=())
    m = documents.num_train
    few = hashing.below(
        hashing.fold(cfg.run.data.seed, np.arange(2048, dtype=np.uint64)), m
    )
    _, params = quantisation.rebuild(code, job, options_)
    found = document_losses.measure(
        params, cfg.run.model, documents, 'train', few,
        alphas=options_.alphas, top_k=(), max_tokens=options_.max_tokens,
    )
    num = len(options_.alphas)
    claims = claims_lib.make_claims(
        np.resize(found.losses.T, (options_.sample or m, num)).T,
        np.zeros((0, 0)),
        vocab_size=documents.vocab_size,
        total_bits=claims_lib.code_bits(len(code.data), options_)['total'],
        m=m,
        population=documents.population['size'],
        cfg=options_,
    )
    (value,) = (
        claim['value'] for claim in claims
        if claim['kind'] == options_.headline
    )
    return value

  scores = [estimate(candidate) for candidate in candidates]
  best = candidates[int(np.argmin(scores))]
  report(
      f'{best.code.levels} levels in {len(best.code.data):,} bytes give the'
      f' best certificate, about {min(scores):.3f} bits per token'
  )
  return best


def documents_of(job: loop.Job) -> documents_lib.Documents:
  """The units of a run."""
  assert isinstance(job.source, documents_lib.DocumentSource)
  return job.source.documents


def _heldout(job, cfg) -> np.ndarray:
  num = documents_of(job).num_heldout
  return np.arange(min(num, cfg.certificate.heldout))


def _heldout_risk(found, options_, claims) -> dict[str, Any]:
  """Mean loss on documents that training never saw, at the claims' alphas."""
  risks = {'documents': found.losses.shape[1]}
  for claim in claims:
    if claim['alpha'] is not None:
      row = found.losses[options_.alphas.index(claim['alpha'])]
      risks[f'{claim["loss"]}, {claim["kind"]}'] = float(row.mean())
  for row, k in zip(found.errors, options_.top_k, strict=True):
    risks[f'top-{k} error'] = float(row.mean())
  return risks


def _size(tree) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def hash_of(data: Any) -> str:
  """SHA-256 of bytes, in hexadecimal."""
  return hashlib.sha256(data).hexdigest()


def part_hash(part: Any) -> str:
  """The hash of a part of a certificate, however it is written."""
  return hash_of(json.dumps(part, sort_keys=True).encode())
