"""Mean cosine, curvature and TwoNN against NumPy and against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information

_cosine = jax.jit(information.mean_cosine)
_curvature = jax.jit(information.curvature)
_dimension = jax.jit(
    information.intrinsic_dimension, static_argnames='discard'
)
FUNCTIONS = (_cosine, _curvature, _dimension)


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _unit(z):
  z = np.asarray(z, np.float64)
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def _cosine_of_pairs(z):
  u = _unit(z)
  return np.mean([
      u[i] @ u[j] for i in range(len(u)) for j in range(len(u)) if i != j
  ])


def _angle(z):
  step = _unit(np.diff(np.asarray(z, np.float64), axis=0))
  return np.arccos(np.clip((step[1:] * step[:-1]).sum(-1), -1, 1)).mean()


def _two_nn(z, discard=0.1):
  z = np.asarray(z, np.float64)
  mu = []
  for i in range(len(z)):
    distance = np.sort(np.linalg.norm(z - z[i], axis=-1))
    mu.append(distance[2] / distance[1])
  mu = np.sort(mu)
  n = len(z)
  used = min(int(np.floor(np.float32(n) * np.float32(1 - discard))), n - 1)
  x = np.log(mu[:used])
  y = -np.log(1 - np.arange(1, used + 1) / n)
  return (x * y).sum() / (x * x).sum()


@pytest.mark.parametrize(
    'function, reference',
    [
        (_cosine, _cosine_of_pairs), (_curvature, _angle), (_dimension, _two_nn)
    ],
)
def test_values_are_those_of_numpy_whatever_the_scale(function, reference):
  z = _normal(3, 40, 6) + 0.5
  keep = np.ones((3, 40), bool)
  keep[1, ::3] = False
  keep[2, 20:] = False
  dirty = np.where(keep[..., None], z, np.nan)
  for scale in (1e-20, 1.0, 1e20):
    found = function(dirty * np.float32(scale), mask=keep)
    assert found.dtype == jnp.float32
    for b in range(3):
      assert float(found[b]) == pytest.approx(
          reference(z[b][keep[b]]), rel=2e-5
      )
  np.testing.assert_allclose(function(z[0]), reference(z[0]), rtol=2e-5)


def test_too_few_rows_give_no_number():
  for function in FUNCTIONS:
    assert np.isnan(function(_normal(1, 4)))
    assert np.isnan(function(_normal(5, 4), mask=np.arange(5) < 1))
    assert np.isnan(function(np.zeros((5, 4), np.float32)))
  for function in FUNCTIONS[1:]:
    assert np.isnan(function(_normal(2, 4)))
    assert np.isnan(function(np.ones((5, 4), np.float32)))


def test_a_bad_row_does_not_pass():
  z = _normal(6, 4)
  z[2, 1] = np.nan
  for function in FUNCTIONS:
    assert np.isnan(function(z))


def test_cosines_of_known_rows():
  assert float(_cosine(np.eye(8, dtype=np.float32))) == 0
  assert float(_cosine(np.ones((8, 3), np.float32))) == pytest.approx(1)
  pair = np.float32([[1, 2], [-3, -6]])
  assert float(_cosine(pair)) == pytest.approx(-1)
  # Zero rows have no direction.
  assert float(_cosine(np.float32([[1, 0], [0, 0], [2, 0]]))) == 1


def test_rows_about_a_mean_have_the_cosine_that_it_gives_them():
  """Monte Carlo: E cos is close to m² / (m² + D) for a mean of length m."""
  d, m = 256, 8.0
  z = _normal(2000, d) + np.float32(m / np.sqrt(d))
  expected = m**2 / (m**2 + d)
  assert float(_cosine(z)) == pytest.approx(expected, abs=0.003)


def test_angles_of_known_paths():
  line = np.outer(np.arange(9.0), [1, 2, 3]).astype(np.float32)
  assert float(_curvature(line)) == pytest.approx(0, abs=1e-6)
  back = np.float32([[0, 0], [1, 0], [0, 0], [1, 0]])
  assert float(_curvature(back)) == pytest.approx(np.pi, rel=1e-6)
  turn = np.pi / 7
  steps = np.exp(1j * turn * np.arange(20))
  path = np.cumsum(steps)
  path = np.stack([path.real, path.imag], -1).astype(np.float32)
  assert float(_curvature(path)) == pytest.approx(turn, rel=1e-5)
  # A pause has no direction; the angles about it are left out.
  pause = np.float32([[0, 0], [1, 0], [2, 0], [2, 0], [2, 1], [2, 2]])
  assert float(_curvature(pause)) == pytest.approx(0, abs=1e-6)


def test_small_angles_keep_their_digits():
  path = np.float32([[0, 0], [1, 0], [2, 1e-4]])
  assert float(_curvature(path)) == pytest.approx(1e-4, rel=1e-3)


def test_independent_states_turn_by_two_thirds_of_pi():
  """Steps of white noise have cosine -1/2."""
  z = _normal(400, 2048)
  assert float(_curvature(z)) == pytest.approx(2 * np.pi / 3, abs=0.01)


@pytest.mark.parametrize('dimension', [1, 2, 4])
def test_dimension_of_uniform_cubes_and_circles(dimension):
  rng = np.random.default_rng(dimension)
  x = rng.uniform(size=(1500, dimension))
  if dimension == 1:
    x = np.concatenate([np.cos(2 * np.pi * x), np.sin(2 * np.pi * x)], -1)
  basis = np.linalg.qr(_normal(20, x.shape[1], seed=3))[0]
  found = float(_dimension((x @ basis.T).astype(np.float32)))
  # Standard error about d / sqrt(N); edges of a cube pull down.
  assert found == pytest.approx(dimension, rel=0.12)


def test_repeated_rows_do_not_change_the_dimension():
  z = _normal(60, 3)
  expected = float(_dimension(z))
  twice = np.concatenate([z, z[:40]])
  assert float(_dimension(twice)) == pytest.approx(expected, rel=1e-5)


def test_orthonormal_rows_have_no_finite_dimension():
  assert np.isposinf(_dimension(np.eye(8, dtype=np.float32)))


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='discard must lie in'):
    information.intrinsic_dimension(jnp.ones((3, 2)), discard=1.0)
  for function in FUNCTIONS:
    with pytest.raises(ValueError, match='z must be floating'):
      function(jnp.ones((3, 2), int))
    with pytest.raises(ValueError, match='mask must have shape'):
      function(jnp.ones((3, 2)), mask=jnp.ones(2, bool))
