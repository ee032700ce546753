"""All bounds on one model, from its losses and the length of its code."""

import math
from typing import Any

import numpy as np

from iblm_jax.bounds import (
    code_length,
    finite_population,
    kl,
    logwealth,
    martingale,
    occam,
    options,
    smoothing,
)
from iblm_jax.bounds.bound import Bound

BITS = 'bits per token'
# About the tokens of the training documents in their contexts: the mean over
# them of the expected loss given what came before. Not about new documents.
TOKENS = 'azuma_tokens'


def code_bits(
    num_bytes: int, cfg: options.CertificateConfig
) -> dict[str, float]:
  """Length of the model's self-delimiting description, part by part, in bits.

  Args:
    num_bytes: of the code as written.
    cfg: what was declared.

  Returns:
    'payload' (all bytes), 'prefix' (their number, Elias), 'choice' (of
    levels and dims), 'search' (declared), and 'total', their sum.
  """
  payload = 8 * num_bytes
  parts = {
      'payload': float(payload),
      'prefix': float(code_length.prefix_bits(payload) - payload),
      'choice': cfg.choice_bits,
      'search': float(cfg.search_bits),
  }
  return {**parts, 'total': math.fsum(parts.values())}


def make_claims(
    losses_AxN: np.ndarray,
    errors_KxN: np.ndarray,
    *,
    vocab_size: int,
    total_bits: float,
    m: int,
    population: int | None,
    cfg: options.CertificateConfig,
    tokens: int | None = None,
    token_losses_A: np.ndarray | None = None,
) -> list[dict[str, Any]]:
  """Every bound that the scored units allow.

  Which kind is meant must be said before they are seen: the smallest of several
  is none of them.

  Args:
    losses_AxN: bits per token, a row for each of `cfg.alphas`, a column for
      each scored unit.
    errors_KxN: share of tokens outside the k most likely, a row for each of
      `cfg.top_k`.
    vocab_size: V of the smoothing.
    total_bits: K, see `code_bits`.
    m: units of the training set. Where `cfg.sample` is None, N = m.
    population: number of units that these were drawn from without replacement,
      in the order of the columns; None where they are independent.
    cfg: what was declared.
    tokens: scored targets of all units, each unit once; None for no claim about
      tokens. There is none of a sample either.
    token_losses_A: mean loss over these targets for each of `cfg.alphas`.

  Returns:
    A list of JSON objects: 'loss' ('bits per token' or 'top-1 error'), 'unit'
    ('bits' or 'share'), 'kind' of bound, 'value', 'delta' (None for what is
    there for comparison), 'alpha' (of the smoothing; None for errors),
    'trivial' (what guessing reaches), 'empirical' (mean over the scored units)
    and the addends of `Bound.as_dict`. For bits per token each kind is the best
    over `alphas`, which is paid for. Where all units of a finite population's
    training set were scored there is 'unseen', what the bound says of the mean
    over all others, and a kind 'counting', which no code is needed for.
  """
  claims: list[dict[str, Any]] = []
  per_alpha = [
      _loss_bounds(row, vocab_size, alpha, total_bits, m, population, cfg)
      for row, alpha in zip(losses_AxN, cfg.alphas, strict=True)
  ]
  for kind in per_alpha[0]:
    best = min(range(len(per_alpha)), key=lambda a: per_alpha[a][kind])
    claims.append({
        'loss': BITS,
        'unit': 'bits',
        'kind': kind,
        # Its best over alphas is not paid for.
        'delta': {'reference': None, 'counting': 0.0}.get(kind, cfg.delta),
        'alpha': cfg.alphas[best],
        'trivial': math.log2(vocab_size),
        'empirical': float(np.mean(losses_AxN[best])),
        **per_alpha[best][kind].as_dict(),
    })
  if tokens is not None and cfg.sample is None:
    assert token_losses_A is not None
    claims.append(
        _token_claim(token_losses_A, tokens, vocab_size, total_bits, cfg)
    )
  for row, k in zip(errors_KxN, cfg.top_k, strict=True):
    found = _error_bounds(row, total_bits, m, population, cfg)
    for kind, bound in found.items():
      claims.append({
          'loss': f'top-{k} error',
          'unit': 'share',
          'kind': kind,
          'delta': cfg.delta,
          'alpha': None,
          'trivial': max(0.0, 1 - k / vocab_size),
          'empirical': float(np.mean(row)),
          **bound.as_dict(),
      })
  if population is not None and cfg.sample is None:
    for claim in claims:
      if claim['kind'] == TOKENS:
        continue
      claim['unseen'] = finite_population.unseen_risk(
          claim['value'], claim['empirical'], m, population
      )
  return claims


def _token_claim(losses_A, tokens, vocab_size, bits, cfg) -> dict[str, Any]:
  num = len(cfg.alphas)
  found = [
      martingale.azuma_tokens(
          float(loss),
          bits,
          tokens,
          smoothing.smooth_range(alpha, vocab_size).delta,
          cfg.delta,
          n_alpha=num,
      )
      for loss, alpha in zip(losses_A, cfg.alphas, strict=True)
  ]
  best = min(range(num), key=found.__getitem__)
  return {
      'loss': BITS,
      'unit': 'bits',
      'kind': TOKENS,
      'delta': cfg.delta,
      'alpha': cfg.alphas[best],
      'trivial': math.log2(vocab_size),
      'empirical': float(losses_A[best]),
      **found[best].as_dict(),
  }


def _loss_bounds(
    losses_N, vocab_size, alpha, bits, m, population, cfg
) -> dict[str, Bound]:
  lo, hi, width = smoothing.smooth_range(alpha, vocab_size)
  num = len(cfg.alphas)
  mean = float(np.mean(losses_N))
  if cfg.sample is None:
    iid = population is None
    found = {
        'hoeffding': occam.occam_hoeffding(
            mean, bits, m, width, cfg.delta, n_alpha=num
        ),
        'freedman': martingale.empirical_freedman(
            losses_N, lo, width, bits, m, cfg.delta, n_alpha=num,
            # Draws without replacement depend on those before them.
            predictions=None if iid else math.log2(vocab_size),
        ),
        'log_wealth': logwealth.occam_logwealth(
            losses_N, lo, width, bits, m, cfg.delta, n_alpha=num
        ),
    }
    if iid:
      return found
    counted = finite_population.counting_bound(mean, m, population, hi)
    return {
        **found,
        'serfling': finite_population.occam_serfling(
            mean, bits, m, population, width, cfg.delta, n_alpha=num
        ),
        'log_wealth_finite': finite_population.occam_logwealth_finite(
            losses_N, lo, width, bits, population, cfg.delta, n_alpha=num
        ),
        'counting': Bound.of_terms(
            {'empirical': mean, 'unseen': counted - mean}, {}
        ),
    }
  n, half = len(losses_N), cfg.delta / 2
  return {
      'hoeffding': occam.occam_subsample(
          mean, bits, m, n, width, half, half, num, n_runs=cfg.runs
      ),
      # Without the union over alphas and runs: for comparison.
      'reference': occam.occam_subsample_ref(
          mean, bits, m, n, width, cfg.delta
      ),
      'log_wealth': logwealth.occam_logwealth_subsample(
          losses_N, lo, width, bits, m, half, half,
          n_alpha=num, n_runs=cfg.runs,
      ),
  }


def _error_bounds(errors_N, bits, m, population, cfg) -> dict[str, Bound]:
  num, mean = len(cfg.top_k), float(np.mean(errors_N))
  if cfg.sample is None:
    found = {
        'kl': kl.occam_kl(mean, bits, m, cfg.delta, n_alpha=num),
        'log_wealth': logwealth.occam_logwealth(
            errors_N, 0.0, 1.0, bits, m, cfg.delta, n_alpha=num
        ),
    }
    if population is not None:
      found['log_wealth_finite'] = finite_population.occam_logwealth_finite(
          errors_N, 0.0, 1.0, bits, population, cfg.delta, n_alpha=num
      )
    return found
  half = cfg.delta / 2
  return {
      'log_wealth': logwealth.occam_logwealth_subsample(
          errors_N, 0.0, 1.0, bits, m, half, half,
          n_alpha=num, n_runs=cfg.runs,
      ),
  }
