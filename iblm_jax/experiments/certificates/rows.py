"""From a config to a row: one certificate of the experiment `certificates`."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from iblm_jax import bounds, files
from iblm_jax.bounds import claims as claims_lib
from iblm_jax.certification import pipeline, quantisation
from iblm_jax.training import config


class Run(NamedTuple):
  """One certificate to be made.

  Attributes:
    score_all: Score all units of the training set too, for the bounds that
      need them and for the time it takes.
  """

  method: str
  seed: int
  cfg: pipeline.CertifyConfig
  score_all: bool = False


def make(
    run: Run, workdir: epath.Path, report: Callable[[str], None]
) -> dict[str, Any]:
  """Trains where that is left to do and certifies; gives the row."""
  config.claim_workdir(run.cfg.run, workdir)
  row = make_row(pipeline.certify(run.cfg, workdir, report))
  if run.score_all:
    row |= score_all(run.cfg, workdir / 'certificate')
  return row


def say(row: Mapping[str, Any]) -> str:
  """A row in a few words."""
  return (
      f'at most {row["bound/log_wealth"]:.3f} bits, {row["heldout"]:.3f} held'
      ' out'
  )


def make_row(tree: Mapping[str, Any]) -> dict[str, Any]:
  """What the experiment reports of a certificate.

  Returns:
    Bits per token: 'bound/KIND' for every kind of bound, and 'unseen/KIND'
    where all units of a finite list's training set were scored; 'empirical'
    (the scored units, at the smoothing that is best for log-wealth); 'heldout'
    (the same model on documents that training never saw), 'heldout/unsmoothed'
    (before quantisation and smoothing) and 'margin', log-wealth bound minus
    'heldout'; 'term/NAME', addends of the log-wealth bound. Shares:
    'top_1/bound', 'top_1/heldout'. Bits: 'code_bits', 'bits_per_number'. And
    'unigram' (the best model without context, in bits per token), the
    'numbers' that were coded, 'parameters' of the model, 'units' m, 'alpha'
    of the smoothing and 'seconds'.
  """
  row: dict[str, Any] = {}
  for claim in tree['claims']:
    if claim['loss'] == claims_lib.BITS:
      row[f'bound/{claim["kind"]}'] = claim['value']
      if 'unseen' in claim:
        row[f'unseen/{claim["kind"]}'] = claim['unseen']
  name = f'{claims_lib.BITS}, log_wealth'
  best = _claim(tree, claims_lib.BITS)
  terms = tree['terms'][name]['sum']
  heldout = tree['heldout'][name]
  return row | {
      'empirical': best['empirical'],
      'heldout': heldout,
      'heldout/unsmoothed': tree['made']['heldout_before_quantisation'],
      'margin': best['value'] - heldout,
      **{f'term/{term}': value for term, value in terms.items()},
      'top_1/bound': _claim(tree, 'top-1 error')['value'],
      'top_1/heldout': tree['heldout']['top-1 error'],
      'code_bits': tree['code']['total'],
      'bits_per_number': tree['code']['bits_per_number'],
      'numbers': tree['code']['numbers'],
      'parameters': tree['model']['parameters'],
      'units': tree['population']['m'],
      'alpha': best['alpha'],
      'unigram': tree['population']['unigram'],
      'seconds': tree['made']['seconds'],
  }


def held_line(rows: Sequence[Mapping[str, Any]]) -> str:
  """How many certificates were not contradicted by held-out documents."""
  margins = [row['margin'] for row in rows]
  held = sum(margin >= 0 for margin in margins)
  return (
      f'held-out risk at most the log-wealth bound in {held} of {len(rows)}'
      f' certificates, by {min(margins):.4f} bits or more'
  )


def score_all(
    cfg: pipeline.CertifyConfig, folder: epath.Path
) -> dict[str, Any]:
  """Bounds from all units of the training set, and what scoring them takes.

  Returns:
    'all/KIND', see `all_bounds`; 'seconds/all' and 'seconds/sample', of
    scoring with everything compiled.
  """
  options = dataclasses.replace(cfg.certificate, sample=None)
  held = files.read_object(folder / 'certificate.json')
  code = (folder / 'code.bin').read_bytes()
  subject = pipeline.subject_of(cfg, pipeline.prepare(cfg))
  m = subject.population['num_train']
  measure = subject.scorer(
      quantisation.decode(code, subject.size, held['code']['levels'], options)
  )

  def timed(indices):
    started = time.perf_counter()
    losses = measure(
        'train', indices, alphas=options.alphas, top_k=options.top_k
    )
    return losses, time.perf_counter() - started

  drawn = pipeline.sample(code, m, cfg.certificate.sample)
  timed(drawn)  # Nothing is compiled while the clock runs.
  _, sample_seconds = timed(drawn)
  found, all_seconds = timed(np.arange(m))
  return {
      **all_bounds(
          found,
          vocab_size=subject.population['vocab_size'],
          total_bits=held['code']['total'],
          options=options,
      ),
      'seconds/all': all_seconds,
      'seconds/sample': sample_seconds,
  }


def all_bounds(found, *, vocab_size, total_bits, options) -> dict[str, float]:
  """Every bound on the bits per token of one model, from all m units.

  Args:
    options: `CertificateConfig` with `sample=None`.

  Returns:
    'all/KIND' for 'hoeffding', 'kl' (also Catoni's at its best), 'freedman',
    'log_wealth', and 'azuma_tokens', which is about the tokens of the training
    documents in their contexts and not about new documents.
  """
  m, num = found.losses.shape[1], len(options.alphas)
  claims = claims_lib.make_claims(
      found.losses,
      found.errors,
      vocab_size=vocab_size,
      total_bits=total_bits,
      m=m,
      population=None,
      cfg=options,
      tokens=found.tokens,
      token_losses_A=found.token_losses,
  )
  values = {
      f'all/{claim["kind"]}': claim['value']
      for claim in claims
      if claim['loss'] == claims_lib.BITS
  }
  kl = []
  for alpha, row_N in zip(options.alphas, found.losses, strict=True):
    lo, _, width = bounds.smooth_range(alpha, vocab_size)
    mean = math.fsum(row_N) / m
    share = bounds.occam_kl(
        (mean - lo) / width, total_bits, m, options.delta, n_alpha=num
    )
    kl.append(lo + width * share)
  return values | {'all/kl': float(min(kl))}


def _claim(tree, loss) -> Mapping[str, Any]:
  (claim,) = (
      claim
      for claim in tree['claims']
      if claim['loss'] == loss and claim['kind'] == 'log_wealth'
  )
  return claim
