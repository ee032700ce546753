"""Smoothing of whole documents: masses, ranges, and coverage of excesses."""

import itertools
import math

import numpy as np
import pytest

from iblm_jax import bounds

DRAWS, DELTA, M = 2000, 0.05, 200


def test_what_is_certified_is_a_distribution():
  # All documents of up to 9 tokens of which the last, and only it, ends them.
  V, beta, mass = 3, 0.2, 0.0
  p = {0: 0.5, 1: 0.3, 2: 0.2}  # of each token, whatever was before
  for n in range(1, 10):
    for body in itertools.product((0, 1), repeat=n - 1):
      nll = -sum(math.log2(p[token]) for token in (*body, 2))
      loss = bounds.smoothed_documents([nll], [n], beta, V)[0]
      direct = -math.log2((1 - beta) * 2**-nll + beta * V**-n) / n
      assert loss == pytest.approx(direct, abs=1e-12)
      mass += 2 ** (-n * loss)
  # What is longer has the rest: of the model 0.8^9, of the uniform (2/3)^9.
  rest = 0.8 * 0.8**9 + 0.2 * (2 / 3) ** 9
  assert mass == pytest.approx(1 - rest, abs=1e-12)


def test_ranges_are_reached_and_not_left():
  interval = bounds.document_range(0.1, 256, 64)
  worst = bounds.smoothed_documents([np.inf, np.inf], [64, 200], 0.1, 256)
  assert worst[0] == pytest.approx(interval.hi, abs=1e-12)
  assert worst[1] < interval.hi
  best = bounds.smoothed_documents([0.0], [10**6], 0.1, 256)
  assert interval.lo <= best[0] < 1e-6
  limit = bounds.excess_limit(0.25, 64)
  excess = bounds.excess_of_documents([np.inf], [90.0], [64], 0.25)
  assert excess[0] == pytest.approx(limit, abs=1e-12)


def test_the_excess_over_the_uniform_is_its_special_case():
  nll, counts = np.array([3.0, 700.0]), np.array([4, 60])
  excess = bounds.excess_of_documents(nll, counts * math.log2(7), counts, 0.3)
  np.testing.assert_allclose(
      bounds.smoothed_documents(nll, counts, 0.3, 7),
      math.log2(7) + excess,
      rtol=1e-14,
  )


def test_losses_without_a_smallest_one():
  # A loss as far below as it may be changes nothing but the mean of the logs.
  excess = np.array([-5.0, -0.3, 0.02, 0.04])
  bound = bounds.occam_logwealth(
      excess, 0.05 - 1, 1.0, 3, 4, 0.1, [0.2], bounded_below=False
  )
  x = excess - (0.05 - 1)
  penalty = 3 * math.log(2) - math.log(0.1)
  kept = math.exp(np.log(1 - 0.2 * x).mean() - penalty / 4)
  by_hand = -0.95 + (1 - kept) / 0.2
  assert bound == pytest.approx(by_hand, abs=1e-12)
  with pytest.raises(ValueError, match='losses must lie in'):
    bounds.occam_logwealth(excess, 0.05 - 1, 1.0, 3, 4, 0.1)
  with pytest.raises(ValueError, match=r'losses must be at most .* 0\.01'):
    bounds.occam_logwealth(
        excess, 0.01 - 1, 1.0, 3, 4, 0.1, bounded_below=False
    )


def excesses(rng, shape):
  """Small losses often, large gains seldom: the mean is 0 exactly."""
  return np.where(rng.random(shape) < 0.95, 0.04, -0.76)


@pytest.mark.parametrize('K_bits', [0, 10])
def test_an_improvement_holds_as_often_as_it_says(K_bits):
  rng = np.random.default_rng(0)
  models = 1 if K_bits == 0 else 2**K_bits
  held, nearly = [], []
  for _ in range(DRAWS):
    # The model that looks best of as many as the code can tell apart.
    gains = rng.binomial(M, 0.05, models).max()
    drawn = np.repeat([-0.76, 0.04], [gains, M - gains])
    bound = bounds.occam_logwealth(
        drawn, 0.04 - 1, 1.0, K_bits, M, DELTA, [0.6], bounded_below=False
    )
    held.append(bound >= 0)
    nearly.append(drawn.mean() + 0.5 * (bound - drawn.mean()) >= 0)
  assert np.mean(held) >= 1 - DELTA
  assert np.mean(nearly) < 1 - DELTA


def test_an_improvement_on_a_finite_list_holds_as_often_as_it_says():
  rng = np.random.default_rng(1)
  population = np.repeat([-0.76, 0.04], [15, 285])  # the mean is 0
  held, nearly = [], []
  for _ in range(DRAWS):
    drawn = rng.permutation(population)[:M]
    bound = bounds.occam_logwealth_finite(
        drawn, 0.04 - 1, 1.0, 0, 300, DELTA, [0.5], bounded_below=False
    )
    held.append(bound >= -1e-12)
    nearly.append(drawn.mean() + 0.5 * (bound - drawn.mean()) >= 0)
  assert np.mean(held) >= 1 - DELTA
  assert np.mean(nearly) < 1 - DELTA


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (([1.0], [2.0], [0], 0.5), 'num_tokens must be integers >= 1'),
        (([1.0], [2.0], [1.5], 0.5), 'num_tokens must be integers >= 1'),
        (([1.0], [np.inf], [1], 0.5), 'reference_bits must be .* finite'),
        (([np.nan], [1.0], [1], 0.5), 'nll_bits must be .* >= 0'),
        (([1.0, 1.0], [1.0], [1], 0.5), 'nll_bits must be 1 numbers'),
        (([1.0], [1.0], [1], 1.0), 'beta'),
    ],
)
def test_mistakes(args, message):
  with pytest.raises(ValueError, match=message):
    bounds.excess_of_documents(*args)
