"""All bounds on one model, from its losses and the length of its code."""

import math
from typing import Any, NamedTuple

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
    whole_documents,
)
from iblm_jax.bounds.bound import Bound

BITS = 'bits per token'
# About the difference to a model that was fixed before the data were seen.
EXCESS = 'bits per token over the base'
# About the tokens of the training documents in their contexts: the mean over
# them of the expected loss given what came before. Not about new documents.
TOKENS = 'azuma_tokens'


def code_bits(
    num_bytes: int, cfg: options.CertificateConfig
) -> dict[str, float]:
  """Length of a model's self-delimiting description, part by part, in bits.

  Args:
    num_bytes: Bytes of the code as written.
    cfg: What was declared.

  Returns:
    'payload' (all bytes), 'prefix' (their number, Elias), 'choice' (of levels
    and dims), 'search' (declared), and 'total', their sum.

  Example:
    >>> cfg = options.CertificateConfig(levels=(9, 15), search_bits=2.5)
    >>> code_bits(125, cfg)['total']
    1022.5
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
  """Computes every bound that the scored units allow.

  Which kind is meant must be said before they are seen: the smallest of several
  is none of them.

  Args:
    losses_AxN: Bits per token, a column for each scored unit. Rows are those of
      `cfg.alphas`, then of `cfg.betas` (see `whole_documents`), and then, where
      there is a base and no sample, the excess over it for each of the betas.
    errors_KxN: Share of tokens outside the k most likely, a row for each of
      `cfg.top_k`.
    vocab_size: V of the smoothing.
    total_bits: K, see `code_bits`.
    m: Units of the training set. Where `cfg.sample` is None, N = m.
    population: Number of units that these were drawn from without replacement,
      in the order of the columns; None where they are independent.
    cfg: What was declared.
    tokens: Scored targets of all units, each unit once; None for no claim about
      tokens. There is none of a sample either.
    token_losses_A: Mean loss over these targets for each of `cfg.alphas`.

  Returns:
    A list of JSON objects: 'loss' (`BITS`, `EXCESS` or 'top-1 error'), 'unit'
    ('bits' or 'share'), 'kind' of bound, 'value', 'delta' (None for what is
    there for comparison), 'alpha' (or beta, of the smoothing; None for errors),
    'trivial' (what guessing reaches), 'empirical' (mean over the scored units)
    and the addends of `Bound.as_dict`. For bits per token each kind is the best
    over `alphas`, which is paid for. Where all units of a finite population's
    training set were scored there is 'unseen', what the bound says of the mean
    over all others, and a kind 'counting', which no code is needed for.
  """
  given = _Given(total_bits, m, population, cfg)
  guess = math.log2(vocab_size)
  num, more = len(cfg.alphas), len(cfg.betas)
  claims = _best_of(
      BITS, '', losses_AxN[:num], cfg.alphas, guess, cfg.delta,
      lambda row, alpha: _loss_bounds(
          row, smoothing.smooth_range(alpha, vocab_size), guess, given, num
      ),
  )
  if more:
    claims += _best_of(
        BITS, options.DOCUMENT, losses_AxN[num : num + more], cfg.betas, guess,
        cfg.delta,
        lambda row, beta: _loss_bounds(
            row,
            whole_documents.document_range(beta, vocab_size, cfg.shortest),
            guess, given, more,
        ),
    )
  if len(losses_AxN) > num + more:
    claims += _best_of(
        EXCESS, '', losses_AxN[num + more :], cfg.betas, 0.0, cfg.delta,
        lambda row, beta: _excess_bounds(row, beta, given),
    )
  if tokens is not None and cfg.sample is None:
    assert token_losses_A is not None
    found = [
        martingale.azuma_tokens(
            float(loss), total_bits, tokens,
            smoothing.smooth_range(alpha, vocab_size).delta, cfg.delta,
            n_alpha=len(cfg.alphas),
        )
        for loss, alpha in zip(token_losses_A, cfg.alphas, strict=True)
    ]
    best = min(range(len(found)), key=found.__getitem__)
    claims.append(_claim(
        BITS, TOKENS, found[best], float(token_losses_A[best]), guess,
        delta=cfg.delta, alpha=cfg.alphas[best],
    ))
  for row, k in zip(errors_KxN, cfg.top_k, strict=True):
    claims += [
        _claim(
            f'top-{k} error', kind, bound, float(np.mean(row)),
            max(0.0, 1 - k / vocab_size), delta=cfg.delta, alpha=None,
        )
        for kind, bound in _error_bounds(row, given).items()
    ]
  if population is not None and cfg.sample is None:
    for claim in claims:
      if claim['kind'] != TOKENS:
        claim['unseen'] = finite_population.unseen_risk(
            claim['value'], claim['empirical'], m, population
        )
  return claims


def row_of(claim: dict[str, Any], cfg: options.CertificateConfig) -> int:
  """Returns which row of losses a claim about bits was made of."""
  num, more = len(cfg.alphas), len(cfg.betas)
  if claim['loss'] == EXCESS:
    return num + more + cfg.betas.index(claim['alpha'])
  if claim['kind'].startswith(options.DOCUMENT):
    return num + cfg.betas.index(claim['alpha'])
  return cfg.alphas.index(claim['alpha'])


class _Given(NamedTuple):
  """What all bounds on a model have in common."""

  bits: float
  m: int
  population: int | None
  cfg: options.CertificateConfig


def _claim(
    loss, kind, bound, empirical, trivial, *, delta, alpha
) -> dict[str, Any]:
  return {
      'loss': loss,
      'unit': 'bits' if loss in (BITS, EXCESS) else 'share',
      'kind': kind,
      'delta': delta,
      'alpha': alpha,
      'trivial': trivial,
      'empirical': empirical,
      **bound.as_dict(),
  }


def _best_of(
    loss, prefix, losses_BxN, weights, guess, delta, bounds_of
) -> list[dict[str, Any]]:
  """For each kind of bound the claim of the best weight of a smoothing."""
  found = [
      bounds_of(row, weight)
      for row, weight in zip(losses_BxN, weights, strict=True)
  ]
  claims = []
  for kind in found[0]:
    best = min(range(len(found)), key=lambda b: found[b][kind])
    claims.append(_claim(
        loss, f'{prefix}{kind}', found[best][kind],
        float(np.mean(losses_BxN[best])), guess,
        # The reference's best over alphas is not paid for.
        delta={'reference': None, 'counting': 0.0}.get(kind, delta),
        alpha=weights[best],
    ))
  return claims


def _excess_bounds(excess_N, beta, given) -> dict[str, Bound]:
  """Bounds that need to know only how large an excess can be."""
  bits, m, population, cfg = given
  lo = whole_documents.excess_limit(beta, cfg.shortest) - 1.0
  every = dict(n_alpha=len(cfg.betas), bounded_below=False)
  found = {
      'log_wealth': logwealth.occam_logwealth(
          excess_N, lo, 1.0, bits, m, cfg.delta, **every
      )
  }
  if population is not None:
    found['log_wealth_finite'] = finite_population.occam_logwealth_finite(
        excess_N, lo, 1.0, bits, population, cfg.delta, **every
    )
  return found


def _loss_bounds(losses_N, interval, guess, given, num) -> dict[str, Bound]:
  bits, m, population, cfg = given
  lo, hi, width = interval
  mean, half = float(np.mean(losses_N)), cfg.delta / 2
  sharp = _sharp_bounds(losses_N, lo, width, num, given)
  if cfg.sample is not None:
    n = len(losses_N)
    return {
        'hoeffding': occam.occam_subsample(
            mean, bits, m, n, width, half, half, num, n_runs=cfg.runs
        ),
        # Without the union over alphas and runs: for comparison.
        'reference': occam.occam_subsample_ref(
            mean, bits, m, n, width, cfg.delta
        ),
        **sharp,
    }
  found = {
      'hoeffding': occam.occam_hoeffding(
          mean, bits, m, width, cfg.delta, n_alpha=num
      ),
      'freedman': martingale.empirical_freedman(
          losses_N, lo, width, bits, m, cfg.delta, n_alpha=num,
          # Draws without replacement depend on those before them.
          predictions=None if population is None else guess,
      ),
  }
  if population is None:
    return found | sharp
  counted = finite_population.counting_bound(mean, m, population, hi)
  return {
      **found,
      'log_wealth': sharp['log_wealth'],
      'serfling': finite_population.occam_serfling(
          mean, bits, m, population, width, cfg.delta, n_alpha=num
      ),
      'log_wealth_finite': sharp['log_wealth_finite'],
      'counting': Bound.of_terms(
          {'empirical': mean, 'unseen': counted - mean}, {}
      ),
  }


def _error_bounds(errors_N, given) -> dict[str, Bound]:
  num = len(given.cfg.top_k)
  sharp = _sharp_bounds(errors_N, 0.0, 1.0, num, given)
  if given.cfg.sample is not None:
    return sharp
  chernoff = kl.occam_kl(
      float(np.mean(errors_N)), given.bits, given.m, given.cfg.delta,
      n_alpha=num,
  )
  return {'kl': chernoff, **sharp}


def _sharp_bounds(losses_N, lo, width, num, given) -> dict[str, Bound]:
  """The bounds that see the variance of losses."""
  bits, m, population, cfg = given
  if cfg.sample is not None:
    half = cfg.delta / 2
    return {
        'log_wealth': logwealth.occam_logwealth_subsample(
            losses_N, lo, width, bits, m, half, half,
            n_alpha=num, n_runs=cfg.runs,
        )
    }
  found = {
      'log_wealth': logwealth.occam_logwealth(
          losses_N, lo, width, bits, m, cfg.delta, n_alpha=num
      )
  }
  if population is not None:
    found['log_wealth_finite'] = finite_population.occam_logwealth_finite(
        losses_N, lo, width, bits, population, cfg.delta, n_alpha=num
    )
  return found
