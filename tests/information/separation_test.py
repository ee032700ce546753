"""Separation and selectivity against NumPy, closed forms and invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.information import separation


def groups(seed=0, n=13, m=7, d=5):
  rng = np.random.default_rng(seed)
  a = rng.normal(size=(n, d)) + rng.normal(size=d)
  return a.astype(np.float32), rng.normal(size=(m, d)).astype(np.float32)


def expected(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  spread = [
      np.mean([np.linalg.norm(row - x.mean(0)) ** 2 for row in x])
      for x in (a, b)
  ]
  return np.linalg.norm(a.mean(0) - b.mean(0)) / np.sqrt(np.mean(spread))


@pytest.mark.parametrize('seed', range(4))
def test_separation_is_the_definition(seed):
  a, b = groups(seed, n=3 + 5 * seed)
  got = separation.separation_ratio(jnp.asarray(a), jnp.asarray(b))
  assert got.shape == () and got.dtype == jnp.float32
  np.testing.assert_allclose(got, expected(a, b), rtol=1e-5)


def test_separation_closed_form():
  """Spreads 1 and 4, means 5 apart: 5 / sqrt(5 / 2)."""
  a = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
  b = jnp.array([[3.0, 6.0], [3.0, 2.0]])
  got = separation.separation_ratio(a, b)
  np.testing.assert_allclose(got, 5 / np.sqrt(2.5), rtol=1e-6)


def test_separation_is_invariant():
  a, b = groups()
  ratio = lambda a, b: float(separation.separation_ratio(
      jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
  ))
  want = ratio(a, b)
  rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
  for changed in (
      (a @ rotation, b @ rotation),
      (a + 3.0, b + 3.0),
      (7 * a, 7 * b),
      (b, a),
      (np.concatenate([a, a]), b),
      (a[::-1], b),
  ):
    np.testing.assert_allclose(ratio(*changed), want, rtol=1e-4)
  assert ratio(2 * a, b) != pytest.approx(want, rel=1e-2)


@pytest.mark.parametrize('offset, want', [(0.0, 0.0), (1.0, np.inf)])
def test_separation_without_spread(offset, want):
  a = jnp.ones((3, 2))
  assert separation.separation_ratio(a, a + offset) == want


def test_separation_does_not_hide_nan():
  a, b = groups()
  a[0, 0] = np.nan
  assert np.isnan(separation.separation_ratio(jnp.asarray(a), jnp.asarray(b)))


def test_separation_has_a_finite_gradient():
  a, b = (jnp.asarray(x) for x in groups())
  grad = jax.grad(separation.separation_ratio)
  assert np.isfinite(grad(a, b)).all()
  np.testing.assert_array_equal(grad(a, a), 0.0)
  step = 1e-2 * np.random.default_rng(2).normal(size=a.shape)
  rise = expected(a + step, b) - expected(a - step, b)
  np.testing.assert_allclose(
      2 * np.sum(np.asarray(grad(a, b), np.float64) * step), rise, rtol=1e-3
  )


def test_selectivity_is_the_definition():
  a, b = (np.abs(x) for x in groups())
  want = (a.mean(0) - b.mean(0)) / (a.mean(0) + b.mean(0))
  got = separation.selectivity(jnp.asarray(a), jnp.asarray(b))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  share = separation.specialised_share(
      jnp.asarray(a), jnp.asarray(b), threshold=0.2
  )
  assert 0 < np.mean(np.abs(want) > 0.2) < 1
  np.testing.assert_allclose(share, np.mean(np.abs(want) > 0.2), rtol=1e-6)


def test_selectivity_ends():
  a = jnp.array([[2.0, 0.0, 0.0, 1.0]])
  b = jnp.array([[0.0, 3.0, 0.0, 3.0]])
  got = separation.selectivity(a, b)
  np.testing.assert_array_equal(got, [1.0, -1.0, 0.0, -0.5])
  # 0.5 itself is not above the threshold.
  assert separation.specialised_share(a, b) == 0.5
  np.testing.assert_array_equal(separation.selectivity(5 * b, 5 * a), -got)


@pytest.mark.parametrize(
    'a, b, message',
    [
        (np.ones(3), np.ones((3, 2)), 'a_NxD must have shape'),
        (np.ones((3, 2)), np.ones((0, 2)), 'b_MxD must have shape'),
        (np.ones((3, 2), int), np.ones((3, 2)), 'a_NxD must be floating'),
        (np.ones((3, 2)), np.ones((3, 4)), 'one width, got 2 and 4'),
    ],
)
@pytest.mark.parametrize(
    'fn', [separation.separation_ratio, separation.selectivity]
)
def test_bad_arguments(fn, a, b, message):
  with pytest.raises(ValueError, match=message):
    fn(jnp.asarray(a), jnp.asarray(b))


@pytest.mark.parametrize('threshold', [-0.1, 1.0, float('nan')])
def test_bad_threshold(threshold):
  a = jnp.ones((2, 2))
  with pytest.raises(ValueError, match=r'threshold must lie in \[0, 1\)'):
    separation.specialised_share(a, a, threshold=threshold)
