"""Claims of a sample of units, from their formulas in NumPy."""

import math

import numpy as np
import pytest

from iblm_jax import bounds
from iblm_jax.bounds import claims as claims_lib
from iblm_jax.bounds import options

M, BITS, VOCAB, DELTA, RUNS = 5000, 300.0, 27, 0.05, 3
ALPHAS, TOP_K = (0.1, 0.5), (1, 2)


def log_wealth(x_N, num):
  """Bound on the mean over all units of losses in [0, 1], of which N are seen.

  Half of delta is for the code, half for the draw; each of `num` losses, of the
  values of t and, in the draw, of s and of the runs has its share of it.
  """
  logistic = lambda reach, step: 1 / (
      1 + np.exp(-np.arange(-reach, reach + step / 2, step))
  )
  t_T, s_S = logistic(7, 0.25), logistic(4, 0.5)
  code = BITS * math.log(2) + math.log(num * t_T.size / (DELTA / 2))
  draw = math.log(num * RUNS * t_T.size * s_S.size / (DELTA / 2))
  found = []
  for t in t_T:
    y_N, largest = -np.log(1 - t * x_N), -math.log(1 - t)
    mean = min(
        largest / s * (
            1 - np.exp(np.log(1 - s * y_N / largest).mean() - draw / x_N.size)
        )
        for s in s_S
    )
    found.append((1 - np.exp(-mean - code / M)) / t)
  return min(found)


@pytest.fixture(scope='module')
def drawn():
  rng = np.random.default_rng(0)
  # The second smoothing is better here, and the first in the mean of others.
  losses = np.stack([rng.uniform(3.0, 4.0, 400), rng.uniform(2.0, 3.0, 400)])
  return losses, rng.uniform(0, [[0.9], [0.5]], (2, 400))


@pytest.fixture(scope='module')
def claims(drawn):
  cfg = options.CertificateConfig(
      sample=400, alphas=ALPHAS, top_k=TOP_K, runs=RUNS, delta=DELTA
  )
  found = claims_lib.make_claims(
      *drawn, vocab_size=VOCAB, total_bits=BITS, m=M, population=None, cfg=cfg
  )
  return {(claim['loss'], claim['kind']): claim for claim in found}


def test_bits_per_token(drawn, claims):
  hoeffding, wealth = [], []
  for alpha, x_N in zip(ALPHAS, drawn[0], strict=True):
    low = -math.log2(1 - alpha + alpha / VOCAB)
    width = math.log2(VOCAB / alpha) - low
    wealth.append(low + width * log_wealth((x_N - low) / width, len(ALPHAS)))
    code = BITS * math.log(2) + math.log(2 / (DELTA / 2))
    draw = math.log(2 * RUNS / (DELTA / 2))
    hoeffding.append(
        x_N.mean()
        + width * math.sqrt(code / (2 * M))
        + width * math.sqrt(draw / (2 * x_N.size))
    )
  for kind, values in (('log_wealth', wealth), ('hoeffding', hoeffding)):
    claim = claims['bits per token', kind]
    best = int(np.argmin(values))
    assert claim['value'] == pytest.approx(values[best], rel=1e-9), kind
    assert claim['alpha'] == ALPHAS[best] == 0.5
    assert claim['empirical'] == pytest.approx(drawn[0][best].mean())
    assert claim['delta'] == DELTA


def test_errors(drawn, claims):
  for k, x_N in zip(TOP_K, drawn[1], strict=True):
    claim = claims[f'top-{k} error', 'log_wealth']
    assert claim['value'] == pytest.approx(
        log_wealth(x_N, len(TOP_K)), rel=1e-9
    )
    assert claim['empirical'] == pytest.approx(x_N.mean())
    assert claim['trivial'] == pytest.approx(1 - k / VOCAB)


def test_whole_documents_and_the_excess_over_a_base():
  # One row over tokens, two of whole documents, two over the base.
  rng = np.random.default_rng(1)
  betas, shortest, m, size = (0.1, 0.5), 4, 200, 1000
  losses = np.concatenate([
      rng.uniform(2.0, 3.0, (3, m)),
      rng.uniform(-0.5, 0.0, (2, m)) + [[0.0], [-0.2]],
  ])
  cfg = options.CertificateConfig(
      sample=None, alphas=(0.1,), betas=betas, shortest=shortest, top_k=(),
      delta=DELTA, headline='document_log_wealth_finite',
  )
  assert cfg.num_losses(True) == 5 and cfg.num_losses(False) == 3
  found = claims_lib.make_claims(
      losses, np.zeros((0, m)), vocab_size=VOCAB, total_bits=20.0, m=m,
      population=size, cfg=cfg,
  )
  claims = {(claim['loss'], claim['kind']): claim for claim in found}
  assert len(claims) == 6 + 6 + 2
  hi = math.log2(VOCAB) + math.log2(1 / 0.1) / shortest
  expected = [
      bounds.occam_logwealth_finite(
          row, 0.0, width, 20.0, size, DELTA, n_alpha=2
      )
      for row, width in (
          (losses[1], hi),
          (losses[2], math.log2(VOCAB) + math.log2(1 / 0.5) / shortest),
      )
  ]
  claim = claims[claims_lib.BITS, 'document_log_wealth_finite']
  best = int(np.argmin(expected))
  assert claim['value'] == expected[best] and claim['alpha'] == betas[best]
  assert claims_lib.row_of(claim, cfg) == 1 + best
  claim = claims[claims_lib.EXCESS, 'log_wealth_finite']
  limit = math.log2(1 / 0.5) / shortest
  assert claim['value'] == bounds.occam_logwealth_finite(
      losses[4], limit - 1, 1.0, 20.0, size, DELTA, n_alpha=2,
      bounded_below=False,
  )
  assert claim['alpha'] == 0.5 and claims_lib.row_of(claim, cfg) == 4
  assert claim['value'] < claim['unseen'] < claim['trivial'] == 0
  with pytest.raises(ValueError, match='needs betas'):
    options.CertificateConfig(
        sample=None, headline='document_log_wealth_finite'
    )
