"""What bounds return, how they relate, and what they refuse."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from iblm_jax import bounds
from iblm_jax.bounds import betting as wealth

RNG = np.random.default_rng(0)
LOSSES = RNG.uniform(2.0, 5.0, 400)
ARGUMENTS = {
    'occam_hoeffding': (0.4, 100, 5000, 1.0, 0.05),
    'occam_subsample_ref': (0.4, 100, 5000, 400, 1.0, 0.05),
    'occam_subsample': (0.4, 100, 5000, 400, 1.0, 0.02, 0.03, 8, 3),
    'occam_kl': (0.4, 100, 5000, 0.05),
    'catoni': (0.4, 100, 5000, 0.05),
    'azuma_tokens': (0.4, 100, 400, np.linspace(1.0, 2.0, 400), 0.05),
    'empirical_freedman': (LOSSES, 1.0, 8.0, 10, 400, 0.05),
    'occam_logwealth': (LOSSES, 1.0, 8.0, 10, 400, 0.05),
    'occam_logwealth_subsample': (LOSSES, 1.0, 8.0, 10, 5000, 0.02, 0.03),
}


def all_bounds():
  return {
      name: getattr(bounds, name)(*arguments)
      for name, arguments in ARGUMENTS.items()
  }


def test_terms_add_up_and_every_one_is_a_price():
  for name, bound in all_bounds().items():
    assert bound == pytest.approx(math.fsum(bound.terms.values()), rel=1e-12)
    assert min(bound.terms.values()) > 0, name
    assert min(bound.nats.values()) >= 0, name
    assert bound.nats['code'] == pytest.approx(
        (100 if name[-1] != 'h' and LOSSES is not ARGUMENTS[name][0] else 10)
        * math.log(2)
    )


def test_a_bound_is_a_number():
  for bound in all_bounds().values():
    assert isinstance(bound, float) and float(bound) == bound
    assert json.loads(json.dumps(bound)) == float(bound)
    written = json.loads(json.dumps(bound.as_dict()))
    assert written['value'] == bound and written['terms'] == bound.terms
    for twin in (copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):
      assert twin == bound and twin.as_dict() == bound.as_dict()


def test_logwealth_is_the_kl_inverse_for_losses_of_zero_and_one():
  fine = wealth.logistic_grid(9, 0.002)
  for ones, K_bits in [(0, 10), (3, 5), (40, 20), (150, 60), (199, 3)]:
    losses = (np.arange(200) < ones).astype(np.float32)
    logwealth_bound = bounds.occam_logwealth(
        losses, 0, 1, K_bits, 200, 0.05, fine
    )
    # The same penalty: the grid's price as so many more losses.
    kl_bound = bounds.occam_kl(
        losses.mean(), K_bits, 200, 0.05, n_alpha=len(fine)
    )
    assert math.fsum(logwealth_bound.nats.values()) == pytest.approx(
        math.fsum(kl_bound.nats.values())
    )
    # Exactly 0 or 1 would need t = 1 or t = 0, which no grid has.
    slack = 1e-6 if 0 < ones < 199 else 2e-4
    assert kl_bound - 1e-12 <= logwealth_bound <= kl_bound + slack


def test_the_default_grid_costs_little():
  fine = wealth.logistic_grid(9, 0.05)
  for spread in (0.02, 0.2, 1.0):
    x = np.clip(RNG.normal(0.4, 0.1 * spread, 5000), 0, 1)
    for K_bits in (600, 5000):
      growth = wealth.mean_log(x, 0, 1, np.array(fine))
      nats = K_bits * math.log(2) + math.log(1 / 0.05)
      best = wealth.solve(growth, np.array(fine), 0, 1, nats / x.size)
      bound = bounds.occam_logwealth(x, 0, 1, K_bits, x.size, 0.05)
      excess, least = bound - x.mean(), best.value.min() - x.mean()
      assert least < excess < 1.015 * least


@pytest.mark.parametrize('size', [1, 63, 1000, 7001])
def test_products_of_factors_are_sums_of_logarithms(size, monkeypatch):
  monkeypatch.setattr(wealth, '_CHUNK', 4096)
  losses = RNG.uniform(-3, 7, size).astype(np.float32)
  losses[0] = 7
  grid = np.array([1e-6, 1e-3, 0.5, 0.999, 1 - 1e-12])
  x = (losses.astype(np.float64) + 3) / 10
  expected = np.log1p(-grid[:, None] * x).mean(-1)
  got = wealth.mean_log(losses, -3, 10, grid)
  np.testing.assert_allclose(got / grid, expected / grid, rtol=1e-9)
  # Products of the smallest factors there are.
  worst = wealth.mean_log(np.full(size, 7.0), -3, 10, grid)
  np.testing.assert_allclose(worst, np.log1p(-grid), rtol=1e-9)


def test_bounds_do_not_depend_on_the_unit():
  # Halving the unit of the loss halves the bound; moving it moves the bound.
  for name in ('occam_logwealth', 'empirical_freedman'):
    bound = getattr(bounds, name)
    here = bound(LOSSES, 1.0, 8.0, 10, 400, 0.05)
    there = bound(LOSSES * 3 - 7, -4.0, 24.0, 10, 400, 0.05)
    assert there == pytest.approx(3 * here - 7, rel=1e-9)


def test_small_variance_makes_the_width_harmless():
  losses, mean = np.tile(LOSSES, 100), LOSSES.mean()
  excess = []
  for width in (5.0, 20.0):
    bound = bounds.occam_logwealth(losses, 1.0, width, 50, 40_000, 0.05)
    other = bounds.occam_hoeffding(mean, 50, 40_000, width, 0.05)
    excess.append((bound - mean, other - mean))
  narrow, wide = excess
  assert wide[1] == pytest.approx(4 * narrow[1])
  assert wide[0] < 1.2 * narrow[0]
  # And it is about sqrt(2 Var 𝓛 / m), with the price of the grid in 𝓛.
  nats = 50 * math.log(2) + math.log(57 / 0.05)
  expected = math.sqrt(2 * losses.var() * nats / 40_000)
  assert narrow[0] == pytest.approx(expected, rel=0.1)


def test_freedman_with_a_constant_centre_is_never_below_logwealth():
  for y in (1.0, 3.5, 9.0):
    s = np.array([0.05, 0.3, 0.9])
    centre = (y - 1) / 8
    t = s / (1 + s * centre)
    for one_s, one_t in zip(s, t, strict=True):
      freedman = bounds.empirical_freedman(
          LOSSES, 1.0, 8.0, 10, 400, 0.05, [one_s], predictions=y
      )
      least = bounds.occam_logwealth(LOSSES, 1.0, 8.0, 10, 400, 0.05, [one_t])
      assert least <= freedman + 1e-12


def test_default_predictions_look_at_the_past_only():
  x = np.array([2.0, 4.0, 9.0])
  default = bounds.empirical_freedman(x, 1.0, 8.0, 10, 3, 0.05)
  given = bounds.empirical_freedman(
      x, 1.0, 8.0, 10, 3, 0.05, predictions=[5.0, 3.5, 11 / 3]
  )
  assert default.as_dict() == given.as_dict()


def test_predicted_widths_cost_half_a_percent_and_the_grid():
  widths = np.full(10**6, 9.0, np.float32)
  predicted = bounds.azuma_tokens(2.0, 2000, 10**6, widths, 0.05)
  fixed = bounds.azuma_tokens(2.0, 2000, 10**6, 9.0, 0.05, n_alpha=33)
  assert predicted.nats['grid'] == math.log(33)
  assert fixed.terms['complexity'] <= predicted.terms['complexity']
  assert predicted.terms['complexity'] < 1.004 * fixed.terms['complexity']
  mixed = bounds.azuma_tokens(2.0, 2000, 4, [1.0, 1.0, 7.0, 7.0], 0.05)
  assert mixed.chosen['width'] == pytest.approx(5.0, rel=0.1)


def test_vacuous_values_are_not_hidden():
  assert bounds.occam_hoeffding(0.95, 1000, 1000, 1.0, 0.05) > 1
  assert bounds.occam_logwealth([1.0, 1.0], 0, 1, 100, 2, 0.05) > 1
  assert bounds.occam_kl(1.0, 1000, 10, 0.05) == 1


BAD_VALUES = [
    ('occam_hoeffding', 0, float('nan'), 'risk must be a finite number'),
    ('occam_hoeffding', 0, np.zeros(2), 'risk must be a finite number'),
    ('occam_hoeffding', 1, -1, 'K_bits must be a finite number'),
    ('occam_hoeffding', 2, 10.5, 'm must be an integer >= 1, got 10.5'),
    ('occam_hoeffding', 2, 0, 'm must be an integer >= 1, got 0'),
    ('occam_hoeffding', 3, 0.0, 'delta_width must be a finite number'),
    ('occam_hoeffding', 4, 1.0, r'delta must be .* \(0, 1\), got 1.0'),
    ('occam_subsample_ref', 5, 0.0, 'delta must be'),
    ('occam_subsample_ref', 3, float('inf'), 'n must be an integer'),
    ('occam_subsample', 5, 0.0, 'delta1 must be'),
    ('occam_subsample', 6, 0.99, r'delta1 \+ delta2 must be'),
    ('occam_subsample', 7, 0, 'n_alpha must be an integer'),
    ('occam_subsample', 8, True, 'n_runs must be an integer'),
    ('occam_kl', 0, 1.01, 'risk01 must be'),
    ('catoni', 0, -0.1, 'risk01 must be'),
    ('azuma_tokens', 3, np.ones(3), 'widths must be one number or m=400'),
    ('azuma_tokens', 3, np.zeros(400), 'widths must be one number or m=400'),
    ('azuma_tokens', 3, 0.0, 'widths must be a finite number'),
    ('empirical_freedman', 4, 399, 'm must be the number of losses, 400'),
    ('empirical_freedman', 2, 2.0, 'losses must lie in'),
    ('occam_logwealth', 0, LOSSES - 2, r'losses must lie in .*\[1, 9\]'),
    ('occam_logwealth', 0, LOSSES[None], 'losses must be a vector'),
    ('occam_logwealth', 0, [], 'losses must be a vector'),
    ('occam_logwealth', 0, ['a'], 'losses must be a vector'),
    ('occam_logwealth', 1, float('inf'), 'lo must be a finite number'),
    ('occam_logwealth', 2, -1.0, 'width must be a finite number'),
    ('occam_logwealth', 4, 5000, 'occam_logwealth_subsample'),
    ('occam_logwealth_subsample', 5, 1.0, 'delta1 must be'),
]


@pytest.mark.parametrize('name, place, value, message', BAD_VALUES)
def test_bad_arguments(name, place, value, message):
  arguments = list(ARGUMENTS[name])
  arguments[place] = value
  with pytest.raises(ValueError, match=message):
    getattr(bounds, name)(*arguments)


@pytest.mark.parametrize('grid', [[], [0.0, 0.5], [1.0], [0.5, 0.5], [[0.5]]])
def test_bad_grids(grid):
  for name, key in [
      ('occam_logwealth', 'grid'),
      ('empirical_freedman', 'grid'),
      ('occam_logwealth_subsample', 'grid_t'),
      ('occam_logwealth_subsample', 'grid_s'),
  ]:
    with pytest.raises(ValueError, match=f'{key} must be'):
      getattr(bounds, name)(*ARGUMENTS[name], **{key: grid})


def test_bad_options():
  with pytest.raises(ValueError, match='gamma must be'):
    bounds.catoni(0.4, 100, 5000, 0.05, gamma=0)
  for bad in (0.5, np.full(400, 9.5), np.full(3, 2.0)):
    with pytest.raises(ValueError, match='predictions|losses must lie'):
      bounds.empirical_freedman(
          *ARGUMENTS['empirical_freedman'], predictions=bad
      )
  for q, c in [(1.1, 0.1), (-0.1, 0.1), (0.5, -1e-9), (0.5, float('inf'))]:
    with pytest.raises(ValueError, match='must be a finite number'):
      bounds.kl_inverse(q, c)
  with pytest.raises(ValueError, match='reach must be'):
    bounds.logistic_grid(0, 1)
