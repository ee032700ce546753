"""Intervals against a t table and repeated draws; pairing by seed."""

import math

import numpy as np
import pytest

from iblm_jax.reports import statistics

# Two-sided 95 % points of Student's t, from a printed table.
T_TABLE = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 29: 2.045}


def row(method, seed, **metrics):
  return {'method': method, 'seed': seed, **metrics}


@pytest.mark.parametrize('freedom', T_TABLE)
def test_interval_is_the_t_table_times_the_standard_error(freedom):
  values = np.random.default_rng(freedom).normal(3.0, 2.0, freedom + 1)
  mean, (low, high) = statistics.mean_ci(values)
  n = freedom + 1
  centre = sum(values) / n
  variance = sum((v - centre) ** 2 for v in values) / (n - 1)
  half = T_TABLE[freedom] * math.sqrt(variance / n)
  assert mean == pytest.approx(centre, rel=1e-12)
  assert high - mean == pytest.approx(half, rel=3e-4)  # digits of the table
  assert mean - low == pytest.approx(half, rel=3e-4)


def test_ninety_five_percent_of_intervals_hold_the_mean():
  draws = np.random.default_rng(0).normal(-1.0, 3.0, (4000, 5))
  held = 0
  for values in draws:
    _, (low, high) = statistics.mean_ci(values)
    held += low <= -1.0 <= high
  assert abs(held / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize('sign', [1, -1])
def test_relative_intervals_hold_the_true_change(sign):
  rng = np.random.default_rng(1)
  held = 0
  for _ in range(2000):
    base = rng.normal(10.0, 1.0, 5)
    values = 1.35 * base + rng.normal(0.0, 1.0, 5)  # a gain of 35 %
    rows = [row('ce', s, x=sign * v) for s, v in enumerate(base)]
    rows += [row('mbe', s, x=sign * v) for s, v in enumerate(values)]
    _, (low, high) = statistics.relative_ci(rows, 'x', 'mbe', 'ce')
    held += low <= sign * 35 <= high
  assert abs(held / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000) + 0.005


def test_relative_change_of_proportional_values_has_no_width():
  rows = [row('ce', s, x=v) for s, v in enumerate([2.0, 2.5, 3.0])]
  rows += [row('mbe', s, x=0.5 * v) for s, v in enumerate([2.0, 2.5, 3.0])]
  percent, (low, high) = statistics.relative_ci(rows, 'x', 'mbe', 'ce')
  assert (percent, low, high) == pytest.approx((-50, -50, -50), abs=1e-9)


def test_relative_change_of_what_may_be_zero_has_no_interval():
  rows = [row('ce', s, x=v) for s, v in enumerate([-1.0, 0.5, 1.0])]
  rows += [row('mbe', s, x=1.0) for s in range(3)]
  percent, interval = statistics.relative_ci(rows, 'x', 'mbe', 'ce')
  assert percent == pytest.approx(500)
  assert all(math.isnan(end) for end in interval)
  rows[0]['x'] = -1.5
  percent, interval = statistics.relative_ci(rows, 'x', 'mbe', 'ce')
  assert all(math.isnan(number) for number in (percent, *interval))


def test_one_value_has_a_mean_and_no_interval():
  mean, (low, high) = statistics.mean_ci([4.0])
  assert mean == 4.0
  assert math.isnan(low) and math.isnan(high)


def test_pairs_are_of_the_same_seed_whatever_the_order():
  rows = [
      row('ce', 2, x=30.0), row('mbe', 1, x=21.0), row('ce', 0, x=10.0),
      row('mbe', 0, x=10.5), row('ce', 1, x=20.0), row('mbe', 2, x=32.0),
  ]
  assert statistics.paired(rows, 'x', 'mbe', 'ce') == [0.5, 1.0, 2.0]
  assert statistics.paired(rows, 'x', 'ce', 'mbe') == [-0.5, -1.0, -2.0]


def test_seeds_that_one_method_lacks_do_not_count():
  rows = [
      row('ce', 0, x=1.0), row('ce', 1, x=math.nan), row('ce', 2, x=2.0),
      row('ce', 3, x=5.0), row('mbe', 0, x=None), row('mbe', 1, x=9.0),
      row('mbe', 3, x=4.0), row('mbe', 4, x=9.0), row('mbe', 2, y=9.0),
  ]
  assert statistics.paired(rows, 'x', 'mbe', 'ce') == [-1.0]


@pytest.mark.parametrize('values', [[], [1.0, math.nan], [math.inf, 1.0]])
def test_no_mean_of_nothing_or_of_what_is_not_finite(values):
  with pytest.raises(ValueError, match='values must be'):
    statistics.mean_ci(values)


def test_no_common_seed_is_refused():
  rows = [row('ce', 0, x=1.0), row('mbe', 1, x=1.0)]
  with pytest.raises(ValueError, match=r"no seed has 'x' of both 'mbe'"):
    statistics.paired(rows, 'x', 'mbe', 'ce')


def test_two_rows_of_a_seed_are_refused():
  rows = [row('ce', 0, x=1.0), row('mbe', 0, x=1.0), row('ce', 0, x=2.0)]
  with pytest.raises(ValueError, match="'ce' has two rows of seed 0"):
    statistics.paired(rows, 'x', 'mbe', 'ce')
