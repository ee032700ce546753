"""Batched Jacobi rotations against float64 LAPACK."""

import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.information import jacobi


def _symmetric(n, values, seed=0):
  rng = np.random.default_rng(seed)
  q = np.linalg.qr(rng.normal(size=(len(values), n, n)))[0]
  a = (q * values[:, None, :]) @ q.swapaxes(1, 2)
  return (0.5 * (a + a.swapaxes(1, 2))).astype(np.float32)


def _spectra(n):
  rng = np.random.default_rng(1)
  return np.stack([
      *rng.normal(size=(200, n)),
      *rng.dirichlet(np.ones(n), size=200),
      np.ones(n),
      np.zeros(n),
      np.eye(n)[0],
      np.repeat([1.0, 2.0], n)[::2],
      0.1 ** np.arange(n),
      0.5 ** np.arange(n),
      1 + 1e-4 * np.arange(n),
  ])


@pytest.mark.parametrize('n', [1, 2, 5, 8, 16])
def test_values_and_vectors(quick_jit, n):
  a = _symmetric(n, _spectra(n))
  values, vectors = (
      np.asarray(x, np.float64) for x in quick_jit(jacobi.eigh)(a)
  )
  want = np.linalg.eigvalsh(a.astype(np.float64))
  size = np.maximum(np.abs(want).max(-1), 1e-30)[:, None]
  assert np.max(np.abs(np.sort(values) - want) / size) < 2e-6
  rebuilt = (vectors * values[:, None, :]) @ vectors.swapaxes(1, 2)
  assert np.max(np.abs(rebuilt - a) / size[..., None]) < 5e-6
  unit = vectors.swapaxes(1, 2) @ vectors
  np.testing.assert_allclose(unit, np.broadcast_to(np.eye(n), a.shape),
                             atol=1e-5)
  alone = quick_jit(jacobi.eigvalsh)(a)
  np.testing.assert_allclose(alone, values, atol=2e-6 * size.max())


@pytest.mark.parametrize('n', [8, 16])
def test_many_rotations_of_hard_spectra_converge(quick_jit, n):
  """The number of sweeps is fixed, so rare slow cases must be looked for."""
  for spectrum in (np.repeat([1.0, 2.0], n // 2), 0.1 ** np.arange(n)):
    a = _symmetric(n, np.tile(spectrum, (4000, 1)), seed=n)
    values, vectors = (
        np.asarray(x, np.float64) for x in quick_jit(jacobi.eigh)(a)
    )
    size = spectrum.max()
    want = np.linalg.eigvalsh(a.astype(np.float64))
    assert np.max(np.abs(np.sort(values) - want)) < 2e-6 * size
    rebuilt = (vectors * values[:, None, :]) @ vectors.swapaxes(1, 2)
    assert np.max(np.abs(rebuilt - a)) < 1e-4 * size


def test_diagonal_and_hard_off_diagonal_matrices_converge():
  """Equal diagonals rotate by 45 degrees; a diagonal matrix by nothing."""
  n = 8
  a = np.zeros((40, n, n), np.float32)
  a[:20] = np.ones((n, n)) - np.eye(n)
  a[20:] = np.diag(np.arange(n))
  values = np.sort(np.asarray(jacobi.eigvalsh(jnp.asarray(a))))
  np.testing.assert_allclose(values[0], [-1] * 7 + [7], atol=1e-5)
  np.testing.assert_array_equal(values[20], np.arange(n))


def test_refuses_a_matrix_that_is_too_large():
  with pytest.raises(ValueError, match=r'n in \[1, 16\], got \(17, 17, 2\)'):
    jacobi.jacobi(jnp.zeros((17, 17, 2)))
