"""Bounds on the mean over a list of which a random part was drawn."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from iblm_jax import bounds
from iblm_jax.bounds import finite_population


@pytest.mark.parametrize('t', [0.1, 0.6, 0.95])
@pytest.mark.parametrize('m', [1, 4, 6])
def test_wealth_is_fair_over_all_orders(t, m):
  """The mean over every possible draw is 1, in exact enumeration."""
  values = np.array([0.0, 0.1, 0.3, 0.35, 0.9, 1.0])
  mean = values.mean()
  wealth = []
  for order in itertools.permutations(range(6), m):
    x = values[list(order)]
    draws = finite_population._Draws(x, np.cumsum(x) - x, 6)
    wealth.append(math.exp(finite_population.log_wealth(draws, t, mean)[0]))
  assert np.mean(wealth) == pytest.approx(1, rel=1e-12)


def plain_log_wealth(x, size, odds, mean):
  """From the definition, a draw at a time."""
  total, seen = 0.0, 0.0
  for i, value in enumerate(x):
    t = odds / (odds + (size - i) / size)
    left = (size * mean - seen) / (size - i)
    total += math.log1p(-t * value) - math.log1p(-t * left)
    seen += value
  return total


@pytest.mark.parametrize('size', [60, 75, 400])
@pytest.mark.parametrize('bits', [0.0, 20.0])
def test_solves_the_definition(size, bits):
  rng = np.random.default_rng(size)
  x, grid = rng.beta(2, 5, 60), (0.05, 0.3, 0.7)
  lo, width, delta = 1.0, 4.0, 0.05
  nats = bits * math.log(2) + math.log(len(grid) * 3 / delta)
  most = (x.sum() + size - x.size) / size
  values = [most]
  for t in grid:
    gap = lambda mean, t=t: (
        plain_log_wealth(x, size, t / (1 - t), mean) - nats
    )
    if gap(most) > 0:
      values.append(optimize.brentq(gap, x.mean() * 0.5, most, xtol=1e-13))
  bound = bounds.occam_logwealth_finite(
      lo + width * x, lo, width, bits, size, delta, grid, n_alpha=3
  )
  assert bound == pytest.approx(lo + width * min(values), rel=1e-9)
  assert math.fsum(bound.terms.values()) == bound
  assert math.fsum(bound.nats.values()) == pytest.approx(nats)


def test_holds_as_often_as_it_says_and_not_much_more():
  """Three quarters of 200 units are drawn, 2,000 times; losses are skewed."""
  rng = np.random.default_rng(0)
  values = rng.beta(1, 4, 200)
  held, tighter, iid = 0, 0, 0
  for _ in range(2000):
    x = rng.permutation(values)[:150]
    bound = bounds.occam_logwealth_finite(x, 0, 1, 0, 200, 0.05, (0.6,))
    held += values.mean() <= bound
    tighter += values.mean() <= x.mean() + 0.5 * (bound - x.mean())
    iid += bounds.occam_logwealth(x, 0, 1, 0, 150, 0.05, (0.6,)) - bound
  assert held / 2000 >= 0.95
  assert tighter / 2000 < 0.95
  # The bound for independent units wastes what the list's end would tell.
  assert iid > 0


def test_code_is_paid_for():
  """The best looking of 1,024 halves of coins: with 10 bits it holds."""
  rng = np.random.default_rng(1)
  size, m, many = 400, 300, 1024
  held, unpaid = [], []
  for _ in range(300):
    ones = rng.hypergeometric(size // 2, size // 2, m, many).min()
    x = rng.permutation(np.arange(m) < ones).astype(float)
    for bits, results in ((10, held), (0, unpaid)):
      bound = bounds.occam_logwealth_finite(x, 0, 1, bits, size, 0.05, (0.15,))
      results.append(bound >= 0.5)
  assert np.mean(held) >= 0.95
  assert np.mean(unpaid) < 0.95


def test_small_variance_earns_the_factor_of_finite_lists():
  rng = np.random.default_rng(0)
  x, size, bits = 0.3 + 0.2 * rng.uniform(-1, 1, 200_000), 250_000, 10.0
  bound = bounds.occam_logwealth_finite(x, 0, 1, bits, size, 0.05)
  nats = math.fsum(bound.nats.values())
  normal = math.sqrt(2 * x.var() * (1 - 0.8) * nats / x.size)
  # What is left of the list is as random for the bound as its mean so far.
  assert bound - x.mean() == pytest.approx(normal, rel=0.1)
  whole = bounds.occam_logwealth(x, 0, 1, bits, x.size, 0.05)
  assert (bound - x.mean()) < 0.6 * (whole - x.mean())


def test_all_units_known():
  x = np.linspace(0, 1, 50)
  bound = bounds.occam_logwealth_finite(x, 0, 1, 1e6, 50, 0.05)
  assert bound == pytest.approx(0.5)


def test_no_code_is_too_long_for_counting():
  rng = np.random.default_rng(0)
  losses = rng.uniform(1, 3, 90)
  counted = bounds.counting_bound(losses.mean(), 90, 100, 9.0)
  assert counted == pytest.approx((losses.sum() + 10 * 9.0) / 100)
  bound = bounds.occam_logwealth_finite(losses, 0.0, 9.0, 1e9, 100, 0.05)
  assert bound == pytest.approx(counted, rel=1e-12)
  assert bounds.unseen_risk(bound, losses.mean(), 90, 100) == pytest.approx(9)


def test_serfling():
  """His formula by hand; the whole list leaves 1/N of the variance."""
  nats = 30 * math.log(2) + math.log(4 / 0.1)
  bound = bounds.occam_serfling(0.5, 30, 80, 100, 2.0, 0.1, n_alpha=4)
  assert bound == pytest.approx(0.5 + 2 * math.sqrt(0.21 * nats / 160))
  hoeffding = bounds.occam_hoeffding(0.5, 30, 80, 2.0, 0.1, n_alpha=4)
  assert bound < hoeffding
  assert bounds.occam_serfling(0.5, 30, 1, 100, 2.0, 0.1) == pytest.approx(
      bounds.occam_hoeffding(0.5, 30, 1, 2.0, 0.1)
  )


def test_serfling_holds_over_many_draws():
  rng = np.random.default_rng(2)
  ones = rng.hypergeometric(100, 100, 150, (2000, 256)).min(axis=1)
  excess = bounds.occam_serfling(0.0, 8, 150, 200, 1.0, 0.05)
  assert np.mean(ones / 150 + excess >= 0.5) >= 0.95
  assert np.mean(ones / 150 + 0.6 * excess >= 0.5) < 0.95


@pytest.mark.parametrize('call, message', [
    (
        lambda: bounds.occam_logwealth_finite([0.5] * 3, 0, 1, 1, 2, 0.05),
        'population must be an integer >= 3, got 2',
    ),
    (
        lambda: bounds.occam_logwealth_finite([1.5], 0, 1, 1, 2, 0.05),
        'losses must lie in',
    ),
    (
        lambda: bounds.occam_serfling(0.5, 1, 9, 8, 1.0, 0.05),
        'population must be an integer >= 9, got 8',
    ),
    (
        lambda: bounds.unseen_risk(0.5, 0.5, 9, 9),
        'population must be an integer >= 10, got 9',
    ),
    (
        lambda: bounds.counting_bound(0.5, 0, 9, 1.0),
        'm must be an integer >= 1, got 0',
    ),
])
def test_refuses(call, message):
  with pytest.raises(ValueError, match=message):
    call()
