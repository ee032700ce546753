"""Every bound holds as often as it says, and no addend can be left out.

Losses are coins whose expectation is known, 2,000 repetitions each. The bounds
are also shown to be near what is possible: with part of the excess, or without
one addend, they fail more often than δ.
"""

import functools
import itertools
import math

import numpy as np
import pytest

from iblm_jax import bounds

DRAWS = 2000
DELTA = 0.05
P = 0.5
# Models (or losses, or runs) out of which the one that looks best is taken.
MANY = 1024
BITS = 10
M = 200


def coins(ones, count):
  return (np.arange(count) < ones).astype(np.float32)


# From the number of ones among M losses to the bound.
WHOLE = {
    'hoeffding': lambda ones, **union: bounds.occam_hoeffding(
        ones / M, m=M, delta_width=1, **union
    ),
    'azuma': lambda ones, **union: bounds.azuma_tokens(
        ones / M, m=M, widths=1, **union
    ),
    'kl': lambda ones, **union: bounds.occam_kl(ones / M, m=M, **union),
    'catoni': lambda ones, **union: bounds.catoni(ones / M, m=M, **union),
    'logwealth': lambda ones, **union: bounds.occam_logwealth(
        coins(ones, M), 0, 1, m=M, grid=(0.3, 0.5), **union
    ),
    'freedman': lambda ones, **union: bounds.empirical_freedman(
        coins(ones, M), 0, 1, m=M, grid=(0.4, 0.8), predictions=P, **union
    ),
}


@functools.cache
def best_of_many(seed, count):
  """Fewest ones in `count` tosses that any of many coins had, per draw."""
  tosses = np.random.default_rng(seed).binomial(count, P, (DRAWS, MANY))
  return tosses.min(axis=1)


def coverage(bound, ones, part=1.0):
  """Share of draws in which P is at most the bound, or part of its excess."""
  values, index = np.unique(ones, return_inverse=True)
  held = []
  for value in values.tolist():
    b = bound(value)
    empirical = b.terms['empirical']
    held.append(P <= empirical + part * (b - empirical))
  return np.array(held)[index].mean()


@pytest.mark.parametrize('name', WHOLE)
def test_for_all_models_at_once(name):
  ones = best_of_many(0, M)
  bound = functools.partial(WHOLE[name], K_bits=BITS, delta=DELTA)
  assert coverage(bound, ones) >= 1 - DELTA
  assert coverage(bound, ones, part=0.7) < 1 - DELTA
  no_code = functools.partial(WHOLE[name], K_bits=0, delta=DELTA)
  assert coverage(no_code, ones) < 1 - DELTA


@pytest.mark.parametrize('name', ['hoeffding', 'azuma', 'kl', 'catoni'])
def test_without_confidence(name):
  ones = best_of_many(0, M)
  careless = functools.partial(WHOLE[name], K_bits=BITS, delta=1 - 1e-12)
  assert coverage(careless, ones) < 1 - DELTA


@pytest.mark.parametrize('name', WHOLE)
def test_for_all_losses_at_once(name):
  ones = best_of_many(1, M)
  paid = functools.partial(WHOLE[name], K_bits=0, delta=DELTA, n_alpha=MANY)
  assert coverage(paid, ones) >= 1 - DELTA
  unpaid = functools.partial(WHOLE[name], K_bits=0, delta=DELTA)
  assert coverage(unpaid, ones) < 1 - DELTA


# From the number of ones among n draws to the bound.
def reference(ones, n, m, K_bits, n_alpha=1, n_runs=1):
  assert n_alpha == n_runs == 1
  return bounds.occam_subsample_ref(ones / n, K_bits, m, n, 1, DELTA)


def corrected(ones, n, m, K_bits, n_alpha=1, n_runs=1):
  half = DELTA / 2
  return bounds.occam_subsample(
      ones / n, K_bits, m, n, 1, half, half, n_alpha, n_runs
  )


def logwealth(ones, n, m, K_bits, n_alpha=1, n_runs=1):
  half, t = DELTA / 2, 0.02 if m > n else 0.6
  return bounds.occam_logwealth_subsample(
      coins(ones, n), 0, 1, K_bits, m, half, half, (t,), (0.4,), n_alpha,
      n_runs,
  )  # fmt: skip


@pytest.mark.parametrize('bound', [reference, corrected, logwealth])
def test_subsampled_for_all_models_at_once(bound):
  # Few units and many draws, so that the first term decides.
  m, n = 50, 4000
  seen = np.random.default_rng(2).binomial(n, best_of_many(2, m) / m)
  at = functools.partial(bound, n=n, m=m)
  assert coverage(functools.partial(at, K_bits=BITS), seen) >= 1 - DELTA
  assert coverage(functools.partial(at, K_bits=0), seen) < 1 - DELTA
  if bound is not reference:
    paid = functools.partial(at, K_bits=0, n_alpha=MANY)
    assert coverage(paid, seen) >= 1 - DELTA


@pytest.mark.parametrize('union', ['n_runs', 'n_alpha'])
@pytest.mark.parametrize('bound', [corrected, logwealth])
def test_subsampled_for_all_runs_at_once(bound, union):
  # Many units and few draws, so that the second term decides.
  m, n = 10**6, 100
  seen = best_of_many(3, n)
  at = functools.partial(bound, n=n, m=m, K_bits=0)
  paid = functools.partial(at, **{union: MANY})
  assert coverage(paid, seen) >= 1 - DELTA
  assert coverage(paid, seen, part=0.65) < 1 - DELTA
  assert coverage(at, seen) < 1 - DELTA


def test_the_draw_alone_without_its_term():
  m, n = 10**6, 100
  rng = np.random.default_rng(4)
  seen = rng.binomial(n, P, DRAWS)
  for bound in (reference, corrected, logwealth):
    at = functools.partial(bound, n=n, m=m, K_bits=0)
    assert coverage(at, seen) >= 1 - DELTA
    assert coverage(at, seen, part=0.5) < 1 - DELTA
    without = []
    for ones in np.unique(seen).tolist():
      b = at(ones)
      rest = b - b.terms['resampling']
      without.append((seen == ones).mean() * (P <= rest))
    assert sum(without) < 1 - DELTA


def test_dependent_tokens():
  # After a loss of 1 the next is likely 0, and the other way round.
  length = 100
  rng = np.random.default_rng(5)
  uniform = rng.uniform(size=(DRAWS, length))
  losses, means = np.zeros((2, DRAWS, length))
  before = rng.integers(0, 2, DRAWS)
  for i in range(length):
    means[:, i] = 0.7 - 0.4 * before
    before = (uniform[:, i] < means[:, i]).astype(int)
    losses[:, i] = before
  risk = means.mean(axis=1)
  # The log-wealth bound does not look at the order, Freedman's default does.
  ordered = np.sort(losses, axis=1)
  for bound, seen in [
      (bounds.occam_logwealth, ordered),
      (bounds.empirical_freedman, losses),
  ]:
    rows, index = np.unique(seen, axis=0, return_inverse=True)
    at = functools.partial(
        bound, lo=0, width=1, K_bits=0, m=length, delta=DELTA, grid=(0.2, 0.4)
    )
    values = np.array([at(row) for row in rows])[index]
    assert (risk <= values).mean() >= 1 - DELTA
    mean = losses.mean(axis=1)
    assert (risk <= mean + 0.4 * (values - mean)).mean() < 1 - DELTA


def test_widths_that_depend_on_the_prefix():
  # The losses stop varying as soon as the model is ahead by what the formula
  # for fixed widths allows.
  length, rest = 2000, 1e-3
  rng = np.random.default_rng(6)
  ahead = np.cumsum(0.5 - rng.integers(0, 2, (DRAWS, length)), axis=1)
  steps = np.arange(1, length + 1)
  limit = 1.001 * np.sqrt(steps * math.log(1 / DELTA) / 2)
  crossed = (ahead > limit) & (steps >= 5)
  stops = np.where(crossed.any(1), crossed.argmax(1), length - 1)
  gaps = np.take_along_axis(ahead, stops[:, None], 1)[:, 0] / length
  fixed, predicted = {}, {}
  for stop in set(stops.tolist()):
    widths = np.where(steps <= stop + 1, 1.0, rest)
    size = math.sqrt(np.mean(widths**2))
    fixed[stop] = bounds.azuma_tokens(0.0, 0, length, size, DELTA)
    predicted[stop] = bounds.azuma_tokens(0.0, 0, length, widths, DELTA)
  held = lambda table: np.mean([
      gap <= table[stop] for gap, stop in zip(gaps, stops.tolist(), strict=True)
  ])
  assert held(predicted) >= 1 - DELTA
  assert held(fixed) < 1 - DELTA


def test_units_drawn_without_replacement():
  rng = np.random.default_rng(7)
  population = np.repeat([0.0, 0.3, 0.9, 1.0], [20, 10, 5, 25])
  mean, m = population.mean(), 30
  drawn = rng.permuted(np.tile(population, (DRAWS, 1)), axis=1)[:, :m]
  rows, index = np.unique(np.sort(drawn), axis=0, return_inverse=True)
  for at in (
      lambda x: bounds.occam_hoeffding(x.mean(), 0, m, 1, DELTA),
      lambda x: bounds.occam_kl(x.mean(), 0, m, DELTA),
      lambda x: bounds.occam_logwealth(x, 0, 1, 0, m, DELTA, (0.2, 0.5)),
      lambda x: bounds.empirical_freedman(
          x, 0, 1, 0, m, DELTA, (0.2, 0.5), predictions=0.4
      ),
  ):
    values, seen = np.array([(at(row), row.mean()) for row in rows])[index].T
    assert (mean <= values).mean() >= 1 - DELTA
    assert (mean <= seen + (values - seen) / 4).mean() < 1 - DELTA


@pytest.mark.parametrize('m', [1, 2, 4, 7])
@pytest.mark.parametrize('t', [0.1, 0.7, 0.99])
def test_wealth_without_replacement_is_a_fair_bet_or_worse(m, t):
  # Over all subsets: E Π(1 - t x_i) <= (1 - t mean)^m, what the proof needs.
  rng = np.random.default_rng(m)
  for shape in (0.1, 1.0, 5.0):
    factors = 1 - t * rng.beta(shape, shape, 9)
    subsets = itertools.combinations(factors, m)
    wealth = np.mean([math.prod(subset) for subset in subsets])
    assert wealth <= factors.mean() ** m * (1 + 1e-12)
