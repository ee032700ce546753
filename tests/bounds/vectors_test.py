"""Published and hand-computed values of the bounds, to the digits given."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import bounds
from iblm_jax.bounds import betting as wealth

LOSSES = np.array([0.2] * 50 + [0.4] * 30 + [0.9] * 20)
GRID = (0.1, 0.3, 0.5, 0.7, 0.9)


def digits(value, count=10):
  return pytest.approx(value, abs=0.51 * 10.0**-count, rel=0)


def width(alpha, V):
  return bounds.smooth_range(alpha, V).delta


@pytest.mark.parametrize(
    'V, alpha, expected',
    [
        (27, 0.05, 9.005625),
        (27, 0.1, 7.930737),
        (27, 0.5, 4.807355),
        (256, 0.05, 12.248224),
        (256, 0.1, 11.170551),
        (50257, 1e-4, 28.904605),
        (50257, 0.01, 22.246394),
        (50257, 0.1, 18.786965),
        (50257, 0.5, 15.617066),
        (32000, 0.1, 18.135714),
    ],
)
def test_widths(V, alpha, expected):
  lo, hi, delta = bounds.smooth_range(alpha, V)
  assert delta == digits(expected, 6)
  assert hi - lo == pytest.approx(delta, rel=1e-12)
  assert lo == pytest.approx(-math.log2(1 - alpha + alpha / V), rel=1e-9)


def test_smoothed_losses():
  expected = [1.0740006, 4.8783214, 5.3219281]
  p = np.array([0.5, 0.01, 0.0])
  with np.errstate(divide='ignore'):
    logp = np.log(p)
  host = bounds.smoothed_nll_bits(logp, 0.1, 4)
  assert host.dtype == np.float64
  np.testing.assert_allclose(host, expected, atol=5e-8)
  device = jax.jit(lambda x: bounds.smoothed_nll_bits(x, 0.1, 4))(
      logp.astype(np.float32)
  )
  assert device.dtype == jnp.float32
  np.testing.assert_allclose(device, expected, rtol=1e-6)


def test_hoeffding():
  assert bounds.occam_hoeffding(0.4, 1000, 1e5, 1, 0.05) == digits(0.4589975810)
  synthetic = bounds.occam_hoeffding(2.0, 2000, 1e6, width(0.05, 27), 0.05)
  assert synthetic == digits(2.2373533188)
  assert synthetic == bounds.azuma_tokens(
      2.0, 2000, 1e6, width(0.05, 27), 0.05
  )
  losses = bounds.occam_hoeffding(LOSSES.mean(), 8, 100, 1, 0.05)
  assert losses == digits(0.6066507890)


def test_subsampled_as_the_reference_has_it():
  bound = bounds.occam_subsample_ref(0.4, 1000, 1e5, 1000, 1, 0.05)
  assert bound == digits(0.4979593191)
  assert bound.terms['complexity'] == digits(0.0591928219)
  assert bound.terms['resampling'] == digits(0.0387664972)
  bound = bounds.occam_subsample_ref(
      2.0, 2000, 1e6, 20000, width(0.05, 27), 0.05
  )
  assert bound == digits(2.3158816139)
  scale = width(0.1, 50257)
  bound = bounds.occam_subsample_ref(10, 150000, 8009762, 10000, scale, 0.05)
  assert bound == digits(11.7435740677)
  assert bound.terms['complexity'] / scale == digits(0.0805663666)
  assert bound.terms['resampling'] / scale == digits(0.0122412826)


def test_subsampled_with_its_unions():
  K_bits = bounds.prefix_bits(2000) + 8
  assert K_bits == 2029
  bound = bounds.occam_subsample(
      2, K_bits, 1e6, 2e4, width(0.05, 27), 0.025, 0.025, 8, 1
  )
  assert bound == digits(2.3474448087)


@pytest.mark.parametrize(
    'q, c, expected',
    [
        (0.4, 0.006961429128, 0.4585329830),
        (0.1, 0.05, 0.2200786011),
        (0.0, 0.05, 0.0487705755),
        (0.95, 0.012981043983, 0.9776313920),
    ],
)
def test_kl_inverse(q, c, expected):
  assert bounds.kl_inverse(q, c) == digits(expected)


def test_kl_inverse_at_the_ends():
  assert bounds.kl_inverse(1.0, 0.3) == 1.0
  assert bounds.kl_inverse(0.3, 0.0) == 0.3
  assert bounds.kl_inverse(0.0, 0.2) == pytest.approx(-math.expm1(-0.2))
  assert bounds.kl_inverse(0.5, 1e4) == 1.0
  # Gaps near 1e-8, where q ln(q/p) + ... as written has no digits left.
  c = 2e-16
  gap = math.sqrt(2 * c * 0.4 * 0.6)
  assert bounds.kl_inverse(0.4, c) - 0.4 == pytest.approx(gap, rel=1e-6)


def test_catoni():
  catoni = bounds.catoni(0.4, 1000, 1e5, 0.05, gamma=1e4)
  assert catoni == digits(0.4820781527)
  best = bounds.catoni(0.4, 1000, 1e5, 0.05)
  assert best == digits(0.4585329830)
  assert best == bounds.occam_kl(0.4, 1000, 1e5, 0.05)
  assert best.chosen['gamma'] == pytest.approx(23921.5, abs=0.1)
  at_best = bounds.catoni(0.4, 1000, 1e5, 0.05, gamma=best.chosen['gamma'])
  assert at_best == pytest.approx(best, abs=1e-12)


def test_logwealth_at_every_t():
  grid = np.array(GRID)
  bound = bounds.occam_logwealth(LOSSES, 0, 1, 8, 100, 0.05, GRID)
  assert math.fsum(bound.nats.values()) == digits(10.1503476305)
  growth = wealth.mean_log(LOSSES, 0, 1, grid)
  curve = wealth.solve(growth, grid, 0, 1, 10.1503476305 / 100).value
  expected = [
      1.3299762616, 0.6947571010, 0.5774472330, 0.5395568564, 0.5407016880,
  ]  # fmt: skip
  np.testing.assert_allclose(curve, expected, atol=1e-9)
  assert bound == digits(0.5395568564)
  assert bound.chosen == {'t': 0.7}


def test_logwealth_subsample_at_every_t():
  def at(*grid_t):
    return bounds.occam_logwealth_subsample(
        LOSSES, 0, 1, 8, 10000, 0.025 / 5 * len(grid_t),
        0.025 / 5 * len(grid_t), grid_t, (0.5, 0.8, 0.95), 1,
    )  # fmt: skip

  bound = at(*GRID)
  first = [x for name, x in bound.nats.items() if 'resampling' not in name]
  second = [x for name, x in bound.nats.items() if 'resampling' in name]
  assert math.fsum(first) == digits(10.8434948110)
  assert math.fsum(second) == digits(6.3969296552)
  expected = [
      0.5230995357, 0.5277624082, 0.5424100827, 0.5656175667, 0.6089096471,
  ]  # fmt: skip
  # One t alone, with δ shrunk so that the penalties stay the same.
  assert [at(t) for t in GRID] == [digits(value) for value in expected]
  assert (bound, bound.chosen['t']) == (digits(0.5230995357), 0.1)


def test_freedman():
  bound = bounds.empirical_freedman(
      LOSSES, 0, 1, 8, 100, 0.05, GRID, predictions=0.4
  )
  assert bound == digits(0.5536818414)
  assert bound.chosen == {'s': 0.9}


@pytest.mark.parametrize(
    'V, alpha, risk, m, n, expected',
    [
        (27, 0.05, 2.5, 1e5, 2e4, 16388),
        (27, 0.05, 2.5, 1e6, 2e4, 163951),
        (256, 0.05, 3, 1e4, 1e4, 4408),
        (256, 0.05, 3, 1e5, 2e4, 45288),
    ],
)
def test_budgets(V, alpha, risk, m, n, expected):
  delta = 0.025
  K_bits = bounds.max_code_bits(V, alpha, risk, m, n, delta, delta)
  assert round(K_bits) == expected
  scale = width(alpha, V)
  at = bounds.occam_subsample(risk, K_bits, m, n, scale, delta, delta, 8)
  assert at == pytest.approx(math.log2(V), abs=1e-12)


def test_budget_of_open_web_text_and_of_a_hopeless_model():
  openwebtext = bounds.max_code_bits(
      50257, 0.1, 10.2, 8009762, 10000, 0.025, 0.025
  )
  assert round(openwebtext / 1e6, 2) == 1.70
  arguments = (27, 0.05, 4.7, 1e5, 2e4, 0.025, 0.025)
  assert bounds.max_code_bits(*arguments) == 0
  assert bounds.max_code_bits(27, 0.05, 2.5, 10, 2e4, 0.025, 0.025) == 0


@pytest.mark.parametrize(
    'V, alpha, m, K_bits, expected',
    [
        (27, 0.05, 1e4, 1000, 1.68),
        (27, 0.05, 1e6, 150000, 2.05),
        (256, 0.05, 1e5, 4000, 1.44),
        (50257, 0.1, 8.0e6, 20000, 0.55),
        (50257, 0.1, 1e6, 150000, 4.28),
    ],
)
def test_complexity_terms(V, alpha, m, K_bits, expected):
  bound = bounds.occam_hoeffding(0, K_bits, m, width(alpha, V), 0.05)
  assert round(bound, 2) == expected
