"""Codebooks, uniform steps and gradients through the quantiser."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import bounds

W = np.array([-1, -0.9, -0.2, 0, 0.05, 0.1, 0.3, 0.31, 0.95, 1])


def error(w, codebook, symbols):
  return np.mean((w - codebook.astype(np.float64)[symbols]) ** 2)


def test_uniform_bins():
  codebook, symbols = bounds.fit_codebook(W, 5)
  assert (codebook.dtype, symbols.dtype) == (np.float16, np.int32)
  expected = [-0.9501953, -0.6000977, -0.0124969, 0.3049316, 0.9750977]
  np.testing.assert_allclose(codebook, expected, atol=5e-8)
  assert symbols.tolist() == [0, 0, 2, 2, 2, 2, 3, 3, 4, 4]


def test_lloyd_from_uniform_bins():
  codebook, symbols = bounds.fit_codebook(W, 3, iters=50)
  expected = np.array([-0.95, 0.28 / 3, 0.975]).astype(np.float16)
  np.testing.assert_array_equal(codebook, expected)
  assert error(W, codebook, symbols) == pytest.approx(0.0192583, abs=2e-6)


def best_error(w, L):
  """Smallest error of any split of the sorted numbers into L runs."""
  w, best = np.sort(w), np.inf
  for cuts in itertools.combinations(range(1, w.size), L - 1):
    runs = np.split(w, cuts)
    best = min(best, sum(((r - r.mean()) ** 2).sum() for r in runs) / w.size)
  return best


def test_kmeans_is_near_the_best_split():
  rng = np.random.default_rng(0)
  for _ in range(5):
    w = rng.normal(size=14)
    codebook, symbols = bounds.fit_codebook(w, 3, 'kmeans')
    got, best = error(w, codebook, symbols), best_error(w, 3)
    assert best * (1 - 1e-6) <= got <= 1.35 * best
  w = rng.normal(size=5000)
  uniform = error(w, *bounds.fit_codebook(w, 11))
  kmeans = error(w, *bounds.fit_codebook(w, 11, 'kmeans'))
  assert kmeans < 0.7 * uniform
  # Of a Gaussian itself: Max, Quantizing for minimum distortion, table I.
  assert kmeans == pytest.approx(0.01922, rel=0.1)


@pytest.mark.parametrize('scale', [1e-4, 1.0, 40.0, 6e4])
@pytest.mark.parametrize('init', ['uniform', 'kmeans'])
def test_the_largest_weight_keeps_its_bin(init, scale):
  # In float32, where a margin of 1e-6 vanishes beside 32.
  w = (np.linspace(-1, 1, 101) * scale).astype(np.float32)
  codebook, symbols = bounds.fit_codebook(w, 7, init)
  assert symbols.min() == 0 and symbols.max() == 6
  assert error(w / scale, codebook / scale, symbols) < 2e-2


@pytest.mark.parametrize('init', ['uniform', 'kmeans'])
def test_constant_vectors(init):
  codebook, symbols = bounds.fit_codebook(np.zeros(9), 3, init)
  np.testing.assert_array_equal(codebook[symbols], 0)
  codebook, symbols = bounds.fit_codebook(np.full(9, 0.25), 2, init)
  np.testing.assert_array_equal(codebook[symbols], 0.25)
  codebook, symbols = bounds.fit_codebook([0.5], 4, init)
  np.testing.assert_array_equal(codebook[symbols], 0.5)


def test_more_levels_than_numbers():
  codebook, symbols = bounds.fit_codebook([1.0, -1.0, 0.5], 64, 'kmeans')
  np.testing.assert_array_equal(codebook[symbols], [1.0, -1.0, 0.5])


@pytest.mark.parametrize('L', [2, 5, 8])
def test_steps_are_near_the_best_of_a_search(L):
  w = np.random.default_rng(L).normal(size=500)
  step, symbols = bounds.fit_step(w, L)
  assert step.dtype == np.float16 and symbols.dtype == np.int32
  values = bounds.step_values(step, L)
  nearest = np.abs(w[:, None] - values).argmin(1)
  np.testing.assert_array_equal(symbols, nearest)
  searched = min(
      np.mean(np.abs(w[:, None] - bounds.step_values(s, L)).min(1) ** 2)
      for s in np.linspace(0.05, 4, 300)
  )
  assert error(w, values, symbols) <= 1.01 * searched


def test_nearest_symbols_in_any_order_with_ties_and_copies():
  codebook = np.array([1.0, -1.0, 0.0, 1.0])
  w = np.array([-5, -0.5, -0.4, 0.5, 0.51, 9])
  assert bounds.nearest_symbols(w, codebook).tolist() == [1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: bounds.fit_codebook([1e6], 3), 'w must .* got 1e'),
        (lambda: bounds.fit_codebook([1e-8], 3), 'w must .* got 1e-08'),
        (lambda: bounds.fit_codebook([1.0, np.nan], 3), 'w must be finite'),
        (lambda: bounds.fit_codebook([], 3), 'w must be a vector'),
        (lambda: bounds.fit_codebook(W, 1), 'L must be an integer >= 2'),
        (lambda: bounds.fit_codebook(W, 3, 'best'), 'init must be one of'),
        (lambda: bounds.fit_codebook(W, 3, iters=-1), 'iters must be'),
        (lambda: bounds.fit_step(np.zeros(3), 3), 'w must not be all 0'),
        (lambda: bounds.fit_step([7e-5], 4096), 'w must have a step in'),
        (
            lambda: bounds.ste_quantize(np.zeros((2, 2)), np.zeros(2)),
            r'w must be floating of shape \[d\]',
        ),
        (
            lambda: bounds.ste_quantize(np.zeros(2), np.zeros(1)),
            'codebook must be floating',
        ),
    ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_gradients_pass_straight_through():
  codebook, _ = bounds.fit_codebook(W, 5)
  # Another order of the values must not matter but to their own gradients.
  shuffle = np.array([3, 0, 4, 2, 1])
  g = jnp.arange(1.0, 11.0)

  @jax.jit
  def run(w, codebook):
    out, pull = jax.vjp(bounds.ste_quantize, w, codebook)
    return out, *pull(g)

  out, dw, dcodebook = run(
      jnp.asarray(W, jnp.float32), jnp.asarray(codebook, jnp.float32)[shuffle]
  )
  symbols = [0, 0, 2, 2, 2, 2, 3, 3, 4, 4]
  np.testing.assert_array_equal(out, codebook.astype(np.float32)[symbols])
  np.testing.assert_array_equal(dw, g)
  np.testing.assert_array_equal(
      dcodebook, np.array([3, 0, 18, 15, 19])[shuffle]
  )
