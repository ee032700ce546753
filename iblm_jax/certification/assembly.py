"""From a vector and losses to claims: the one path of every certificate."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from iblm_jax.bounds import claims as claims_lib
from iblm_jax.bounds import options
from iblm_jax.certification import certificate, quantisation
from iblm_jax.certification.scoring import (
    DocumentLosses,
    Report,
    Subject,
    quiet,
)
from iblm_jax.data import hashing

# As the formulas call them.
_SHORT = {'num_train': 'm', 'vocab_size': 'V'}
# Documents that help to choose among several codes.
_FEW = 2048


class Candidate(NamedTuple):
  """A code of a subject's vector, and the vector before it was coded."""

  code: quantisation.Code
  subject: Subject
  w_d: np.ndarray


class Scores(NamedTuple):
  """Losses of the model that a code stands for.

  Attributes:
    vector: float32 [d], what was decoded.
    train: Losses of the scored units of the training set.
    heldout: Losses of held-out units; None where there are none.
  """

  vector: np.ndarray
  train: DocumentLosses
  heldout: DocumentLosses | None


def assemble(
    candidates: Sequence[Candidate],
    cfg: options.CertificateConfig,
    *,
    started: float,
    made: Mapping[str, Any],
    report: Report = quiet,
) -> certificate.Certificate:
  """Chooses a code, decodes and scores it, and makes all claims.

  Args:
    candidates: Codes to choose from. As many as `cfg` declares; the choice
      among them is paid for in bits.
    cfg: What was declared before the data were seen.
    started: When the work began, by `time.monotonic`.
    made: What differs between two makings of the same certificate.
    report: Receives lines for a person to read.

  Returns:
    The certificate.
  """
  code, subject, w_d = choose(candidates, cfg, report)
  scores = score(code, subject, cfg, report)
  tree = make_tree(code, subject, cfg, scores)
  tree['made'] = {'seconds': 0.0, **made}
  heldout = _heldout(subject, cfg)
  if heldout.size:
    before = subject.scorer(w_d)('heldout', heldout, alphas=(1e-9,))
    tree['made']['heldout_before_quantisation'] = float(before.losses.mean())
  tree['made']['seconds'] = round(time.monotonic() - started, 1)
  losses = certificate.pack_losses(scores.train)
  parts = {name: certificate.part_hash(part) for name, part in tree.items()}
  del parts['hashes']
  tree['hashes'] |= {'losses': certificate.hash_of(losses), 'parts': parts}
  return certificate.Certificate(tree, code.data, losses)


def choose(
    candidates: Sequence[Candidate],
    cfg: options.CertificateConfig,
    report: Report,
) -> Candidate:
  """The code with the best estimate of its certificate, on few documents.

  These do not depend on the code, unlike those that the certificate is about.
  """
  if len(candidates) == 1:
    return candidates[0]

  def estimate(candidate):
    code, subject, _ = candidate
    m = subject.population['num_train']
    few = hashing.below(
        hashing.fold(subject.seed, np.arange(_FEW, dtype=np.uint64)), m
    )
    w_d = quantisation.decode(code.data, subject.size, code.levels, cfg)
    found = subject.scorer(w_d)('train', few, **_smoothing(cfg))
    shape = (cfg.sample or m, len(found.losses))
    claims = _claims(
        code,
        subject,
        dataclasses.replace(cfg, top_k=()),
        found._replace(losses=np.resize(found.losses.T, shape).T),
        about_tokens=False,
    )
    (value,) = (
        claim['value'] for claim in claims if claim['kind'] == cfg.headline
    )
    return value

  scores = [estimate(candidate) for candidate in candidates]
  best = candidates[int(np.argmin(scores))]
  report(
      f'{best.code.levels} levels in {len(best.code.data):,} bytes give the'
      f' best certificate, about {min(scores):.3f} bits per token'
  )
  return best


def score(
    code: quantisation.Code,
    subject: Subject,
    cfg: options.CertificateConfig,
    report: Report = quiet,
) -> Scores:
  """Decodes a code and scores training and held-out units with its vector.

  Raises:
    ValueError: The code is damaged.
  """
  w_d = quantisation.decode(code.data, subject.size, code.levels, cfg)
  measure, heldout = subject.scorer(w_d), _heldout(subject, cfg)
  every: dict[str, Any] = _smoothing(cfg) | dict(
      top_k=cfg.top_k, report=report
  )
  drawn = sample(code.data, subject.population['num_train'], cfg.sample)
  return Scores(
      w_d,
      measure('train', drawn, **every),
      measure('heldout', heldout, **every) if heldout.size else None,
  )


def make_tree(
    code: quantisation.Code,
    subject: Subject,
    cfg: options.CertificateConfig,
    scores: Scores,
) -> dict[str, Any]:
  """The content of certificate.json, from bits, declarations and losses.

  The hashes of its files and parts are left out, and so is what differs from
  one making to the next.
  """
  losses, population = scores.train, subject.population
  bits = claims_lib.code_bits(len(code.data), cfg)
  claims = _claims(code, subject, cfg, losses, subject.claims_tokens)
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
          'drawn': 'all' if cfg.sample is None else (
              'uniformly with replacement, by the hash of the code'
          ),
          'tokens': losses.tokens,
      },
      'code': {
          **bits,
          'codebook': 16 * (1 if cfg.codebook == 'step' else code.levels),
          'numbers': subject.size,
          'levels': code.levels,
          'bits_per_number': bits['payload'] / subject.size,
      },
      'model': subject.model,
      'hashes': {
          'code': certificate.hash_of(code.data),
          'decoded': certificate.hash_of(
              np.ascontiguousarray(scores.vector, '<f4')
          ),
          'data': population['hash'],
      },
      'heldout': _heldout_risks(scores.heldout, cfg, claims),
  }
  return json.loads(json.dumps(tree))


def sample(code: bytes, m: int, n: int | None) -> np.ndarray:
  """Numbers of the units that are scored, int64 [n]; all m for None.

  The hash of the code decides: the sample is known once the model is, and
  another model is scored on another sample. Who makes several codes and keeps
  the one with the best sample must declare so many `runs`.
  """
  if n is None:
    return np.arange(m)
  digest = hashlib.sha256(b'sample' + code).digest()
  key = np.frombuffer(digest[:8], '<u8')[0]
  return hashing.below(hashing.fold(key, np.arange(n, dtype=np.uint64)), m)


def _claims(code, subject, cfg, found, about_tokens) -> list[dict[str, Any]]:
  population = subject.population
  return claims_lib.make_claims(
      found.losses,
      found.errors,
      vocab_size=population['vocab_size'],
      total_bits=claims_lib.code_bits(len(code.data), cfg)['total'],
      m=population['num_train'],
      population=population['size'],
      cfg=cfg,
      tokens=found.tokens if about_tokens else None,
      token_losses_A=found.token_losses,
  )


def _smoothing(cfg) -> dict[str, Any]:
  return dict(alphas=cfg.alphas, betas=cfg.betas, shortest=cfg.shortest)


def _heldout(subject, cfg) -> np.ndarray:
  return np.arange(min(subject.population['num_heldout'], cfg.heldout))


def _heldout_risks(found, cfg, claims) -> dict[str, Any]:
  """Mean loss on documents that training never saw, at the claims' alphas."""
  if found is None:
    return {'documents': 0}
  risks = {'documents': found.losses.shape[1]}
  for claim in claims:
    if claim['alpha'] is not None:
      row = found.losses[claims_lib.row_of(claim, cfg)]
      risks[f'{claim["loss"]}, {claim["kind"]}'] = float(row.mean())
  for row, k in zip(found.errors, cfg.top_k, strict=True):
    risks[f'top-{k} error'] = float(row.mean())
  return risks
