"""Certificates: train, code, decode, evaluate what was decoded, bound.

Everything after the bits is a function of the bits, the config and the data, so
that `verify` does the same again and compares.
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

from iblm_jax import bounds, config
from iblm_jax.bounds import claims as claims_lib
from iblm_jax.bounds import options as bound_options
from iblm_jax.data import documents as documents_lib
from iblm_jax.data import hashing, sources
from iblm_jax.experiments import document_losses, quantisation, workdirs
from iblm_jax.training import loop, options, progress, restoring
from iblm_jax.training import summary as summary_lib

Report = Callable[[str], None]
_FILES = ('certificate.json', 'code.bin', 'losses.npz')
# Not found again by verifying: only hashes tell whether somebody changed them.
_GIVEN = ('model', 'made')
_PRNG = ('jax_default_prng_impl', 'jax_threefry_partitionable')
_RECORDED = ('losses', 'errors', 'token_losses')  # in losses.npz
# As the formulas call them.
_SHORT = {'num_train': 'm', 'vocab_size': 'V'}
_LOSS_TOLERANCE = 1e-4
# Two processors do not round a logarithm alike.
_ROUNDING = 1e-9


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
  if not _documents(job).num_heldout:
    raise ValueError(
        'config.data must hold documents out: the certificate gives the loss'
        ' on them beside its bounds.'
    )
  headline = cfg.certificate.headline
  size = _documents(job).population['size']
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
    trained = restoring.restore_trained(one.run, folder)
    w_d = np.asarray(job.program.parameterisation.to_vector(trained))
    candidates += [
        Candidate(code, one, job, trained)
        for code in quantisation.quantise(job, w_d, one.certificate, report)
    ]
  code, cfg, job, trained = _best(candidates, report)
  tree, losses = evaluate(code, cfg, job, report)
  before = document_losses.measure(
      job.program.model_params(trained),
      cfg.run.model,
      _documents(job),
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
  arrays = {name: getattr(losses, name) for name in _RECORDED}
  np.savez(file, **arrays)
  parts = {name: _hash(_json_bytes(part)) for name, part in tree.items()}
  del parts['hashes']
  tree['hashes'] |= {'losses': _hash(file.getvalue()), 'parts': parts}
  folder = workdir / 'certificate'
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'code.bin').write_bytes(code.data)
  (folder / 'losses.npz').write_bytes(file.getvalue())
  workdirs.write_json(folder / 'certificate.json', tree)
  return tree


def evaluate(
    code: quantisation.Code,
    cfg: CertifyConfig,
    job: loop.Job,
    report: Report,
    recorded: document_losses.DocumentLosses | None = None,
) -> tuple[dict[str, Any], document_losses.DocumentLosses]:
  """Everything of a certificate that follows from bits, config and data.

  Args:
    code: the bits.
    cfg: the run and its claims.
    job: of `prepare`; only data, seeds and shapes matter.
    report: told what a person wants to read.
    recorded: losses on the training sample that another evaluation found; the
      claims are made of them, once they agree with those found here.

  Returns:
    The certificate, without the hashes of its files and parts and without what
    differs from one making to the next, and the losses on the training sample.

  Raises:
    Mismatch: if `recorded` disagrees.
    ValueError: if the code is damaged.
  """
  options_, documents = cfg.certificate, _documents(job)
  made = job.program.parameterisation
  w_d = quantisation.decode(code.data, made.num_trained, code.levels, options_)
  params = job.program.model_params(made.from_vector(jax.numpy.asarray(w_d)))
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
  losses = measure('train', drawn)
  if recorded is not None:
    _check_losses(losses, recorded)
    losses = recorded._replace(tokens=losses.tokens)
  heldout = measure('heldout', _heldout(job, cfg))
  bits = claims_lib.code_bits(len(code.data), options_)
  claims = claims_lib.make_claims(
      losses.losses,
      losses.errors,
      vocab_size=documents.vocab_size,
      total_bits=bits['total'],
      m=documents.num_train,
      population=documents.population['size'],
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
          **{_SHORT.get(k, k): v for k, v in documents.population.items()},
          'n': len(drawn),
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
          'parameters': _size(made.frozen['params']),
          'prng': {name: getattr(jax.config, name) for name in _PRNG},
      },
      'hashes': {
          'code': _hash(code.data),
          'decoded': _hash(np.ascontiguousarray(w_d, '<f4').tobytes()),
          'data': documents.population['hash'],
      },
      'heldout': _heldout_risk(heldout, options_, claims),
  }
  return json.loads(json.dumps(tree)), losses


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


def verify(
    folder: epath.Path, report: Report, data: str | None = None
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
    _same('hashes.code', _hash(code), hashes['code'])
    _same('hashes.losses', _hash(losses), hashes['losses'])
    for name in _GIVEN:
      _same(f'hashes.parts.{name}', _hash(_json_bytes(held[name])), parts[name])
    model = held['model']
    cfg = from_dict({**model['config'], 'certificate': model['certificate']})
    cfg = cfg._replace(run=_with_data(cfg.run, data))
    with np.load(io.BytesIO(losses)) as file:
      arrays = {name: file[name] for name in _RECORDED}
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
  job = prepare(cfg)
  population = _documents(job).population
  _same('hashes.data', population['hash'], hashes['data'])
  found, _ = evaluate(
      quantisation.Code(code, levels), cfg, job, report, recorded
  )
  found['hashes'] |= {'losses': hashes['losses'], 'parts': parts}
  # What a file is called here does not matter, what is in it does.
  found['model']['config']['data'] = model['config']['data']
  here, there = (tree['population']['files'] for tree in (found, held))
  found['population']['files'] = dict(zip(there, here.values(), strict=False))
  _compare(found, {k: v for k, v in held.items() if k != 'made'})
  for name in found.keys() - {'hashes'}:  # down to the last digit
    _same(f'hashes.parts.{name}', _hash(_json_bytes(held[name])), parts[name])


def check_files(folder: epath.Path) -> None:
  """ValueError unless a certificate is there, and what it takes to read it."""
  for name in _FILES:
    if not (folder / name).exists():
      raise ValueError(f'{folder} must hold {name}; there is none.')
  check_coder()


def check_coder() -> None:
  """ValueError where the coder is not installed."""
  try:
    bounds.encode(np.array([0, 1]), 2)
  except ImportError as error:
    raise ValueError(str(error)) from error


def lines(tree: Mapping[str, Any]) -> list[str]:
  """A certificate for a person, a line at a time."""
  code, population = tree['code'], tree['population']
  headline = tree['model']['certificate']['headline']
  found = [
      f'code: {code["payload"]:,.0f} bits for {code["numbers"]:,} numbers'
      f' ({code["bits_per_number"]:.2f} each), {code["total"]:,.1f} with'
      ' prefix, choice and search',
      f'{population["m"]:,} units ({population["unit"]}),'
      f' {population["n"]:,} scored; {population["unigram"]:.4f} bits per token'
      ' is the best without context',
  ]
  for claim in tree['claims']:
    name = f'{claim["loss"]}, {claim["kind"]}'
    heldout = tree['heldout'].get(name, tree['heldout'].get(claim['loss']))
    vacuous = ' (vacuous)' if claim['value'] >= claim['trivial'] else ''
    sure = (
        'no promise, for comparison'
        if claim['delta'] is None
        else f'with probability {1 - claim["delta"]:g}'
    )
    if claim['kind'] == claims_lib.TOKENS:
      sure += ', of these tokens in their contexts and of no new documents'
    unseen = (
        f' {claim["unseen"]:.4f} unseen at worst,' if 'unseen' in claim else ''
    )
    found.append(
        f'{name}: at most {claim["value"]:.4f}{vacuous}, {sure};'
        f' {claim["empirical"]:.4f} on the sample,{unseen} {heldout:.4f} held'
        f' out, {claim["trivial"]:.4f} by guessing'
    )
    if name == f'{claims_lib.BITS}, {headline}':
      found[-1] = f'CERTIFIED {found[-1]}'
  return found


class Mismatch(Exception):
  """Something in a certificate is not what it should be."""


def _same(name: str, found: Any, held: Any) -> None:
  if found != held:
    raise Mismatch(f'{name} is {held!r} in the certificate and {found!r} here.')


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
  for name in _RECORDED:
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
  kind = getattr(run.data, run.data.kind)
  if hasattr(kind, 'path'):
    there = dataclasses.replace(kind, path=path)
  elif hasattr(kind, 'files'):
    there = dataclasses.replace(kind, files=(path,))
  else:
    raise ValueError(
        f'data of kind {run.data.kind!r} are in no file, got data={path!r}.'
    )
  moved: dict[str, Any] = {run.data.kind: there}
  return dataclasses.replace(run, data=dataclasses.replace(run.data, **moved))


def _best(candidates: list[Candidate], report: Report) -> Candidate:
  """The code with the best estimate of its certificate, on few documents.

  These do not depend on the code, unlike those that the certificate is about.
  """
  if len(candidates) == 1:
    return candidates[0]

  def estimate(candidate):
    code, cfg, job, _ = candidate
    made, documents = job.program.parameterisation, _documents(job)
    options_ = dataclasses.replace(cfg.certificate, top_k=())
    m = documents.num_train
    few = hashing.below(
        hashing.fold(cfg.run.data.seed, np.arange(2048, dtype=np.uint64)), m
    )
    w_d = quantisation.decode(
        code.data, made.num_trained, code.levels, options_
    )
    params = job.program.model_params(made.from_vector(jax.numpy.asarray(w_d)))
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


def _documents(job: loop.Job) -> documents_lib.Documents:
  assert isinstance(job.source, documents_lib.DocumentSource)
  return job.source.documents


def _heldout(job, cfg) -> np.ndarray:
  num = _documents(job).num_heldout
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


def _hash(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()


def _json_bytes(tree) -> bytes:
  return json.dumps(tree, sort_keys=True).encode()
