"""Independent truth: entropies in float64 NumPy, from the definition."""

import functools

import jax
import numpy as np
import pytest


def _entropy(z, alpha):
  """S_α in nats of the rows of one matrix, through its singular values."""
  square = np.linalg.svd(np.asarray(z, np.float64), compute_uv=False) ** 2
  if square.sum() == 0:
    return 0.0
  p = square / square.sum()
  p = p[p > 1e-13]
  if alpha == 0:
    return np.log(len(p))
  if alpha == 1:
    return -np.sum(p * np.log(p))
  if np.isinf(alpha):
    return -np.log(p.max())
  # log Σ p^α about its value at α = 1, exact in float64 close to 1 too
  if abs(alpha - 1) < 0.1:
    tilt = np.sum(p * np.expm1((alpha - 1) * np.log(p)))
    return np.log1p(tilt) / (1 - alpha)
  return np.log(np.sum(p**alpha)) / (1 - alpha)


def _gradient(f, x, step=1e-5):
  """Central differences of `f` at `x` in float64."""
  x = np.asarray(x, np.float64)
  gradient = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    high, low = x.copy(), x.copy()
    high[i] += step
    low[i] -= step
    gradient[i] = (f(high) - f(low)) / (2 * step)
  return gradient


def _with_spectrum(p, d, seed=0, n=None):
  """Rows [n, d] float32 whose Gram matrix has the spectrum `p`."""
  rng = np.random.default_rng(seed)
  k = len(p)
  left = np.linalg.qr(rng.normal(size=(n or k, k)))[0]
  right = np.linalg.qr(rng.normal(size=(d, k)))[0]
  return ((left * np.sqrt(p)) @ right.T).astype(np.float32)


@pytest.fixture(scope='session')
def quick_jit():
  """jit for programs of many orders or rotations: half the compile time.

  The level concerns LLVM alone. entropy_value_test.py, which bounds rounding
  most tightly, keeps to the default level.
  """
  options = {'xla_backend_optimization_level': 0}
  return functools.partial(jax.jit, compiler_options=options)


@pytest.fixture(scope='session')
def numpy_entropy():
  return _entropy


@pytest.fixture(scope='session')
def finite_differences():
  return _gradient


@pytest.fixture(scope='session')
def rows_with_spectrum():
  return _with_spectrum
