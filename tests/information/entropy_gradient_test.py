"""Gradients against float64 finite differences, and where there are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information

INF = float('inf')
ORDERS = [
    0.1, 0.5, 0.74, 0.9, 1 - 1e-3, 1.0, 1 + 1e-6, 1.2, 1.3, 1.5, 2.0, 3.0, 5.0,
    8.0, 9.0, 40.0, INF,
]


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _gradient(z, **keywords):
  """Gradient of the sum of entropies; op by op, so an order costs little."""
  f = lambda z: jnp.sum(information.matrix_entropy(z, **keywords))
  return jax.grad(f)(jnp.asarray(z))


def _close(got, want):
  """Within 1e-4 of the largest entry of the true gradient."""
  want = np.asarray(want)
  error = np.abs(np.asarray(got, np.float64) - want).max()
  assert error < 1e-4 * np.abs(want).max(), error / np.abs(want).max()


@pytest.mark.parametrize('alpha', ORDERS)
@pytest.mark.parametrize('n, d', [(5, 7), (7, 4)])
def test_matches_finite_differences(
    numpy_entropy, finite_differences, alpha, n, d
):
  z = _normal(n, d)
  many = np.broadcast_to(z, (40, n, d))  # by rotations; alone: by LAPACK
  want = finite_differences(lambda z: numpy_entropy(z, alpha), z)
  _close(_gradient(z, alpha=alpha), want)
  _close(_gradient(many, alpha=alpha)[17], want)


@pytest.mark.parametrize('alpha', [0.3, 1.0, 1.5])
def test_larger_matrices_and_small_eigenvalues(
    numpy_entropy, finite_differences, rows_with_spectrum, alpha
):
  p = np.geomspace(1, 1e-3, 18)
  z = rows_with_spectrum(p, 20)
  want = finite_differences(lambda z: numpy_entropy(z, alpha), z, step=1e-6)
  _close(_gradient(z, alpha=alpha), want)


@pytest.mark.parametrize('center', [False, True])
@pytest.mark.parametrize('normalize', [False, True])
def test_through_mask_center_and_normalize(
    numpy_entropy, finite_differences, center, normalize
):
  z = _normal(9, 6) + 1.0
  keep = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], bool)

  def f(z):
    rows = z[keep]
    rows = rows - rows.mean(0) if center else rows
    if normalize:
      rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return numpy_entropy(rows, 1.5)

  got = _gradient(
      z, alpha=1.5, mask=jnp.asarray(keep), center=center, normalize=normalize
  )
  _close(got, finite_differences(f, z))


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0, 3.0])
def test_patch_entropy_matches_finite_differences(
    numpy_entropy, finite_differences, alpha
):
  x = _normal(2, 11, 5)

  def f(x):
    windows = x[:, :8].reshape(4, 4, 5)
    return np.mean([numpy_entropy(w, alpha) for w in windows])

  got = jax.grad(information.patch_entropy)(
      jnp.asarray(x), patch_size=4, alpha=alpha
  )
  _close(got, finite_differences(f, x))


@pytest.mark.parametrize('alpha', [0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 5.0, 9.0, INF])
@pytest.mark.parametrize('copies', [1, 8])  # by LAPACK, by rotations
def test_finite_where_the_spectrum_is_degenerate(alpha, copies):
  z = _normal(8, 16)
  row = np.arange(8)[:, None]
  cases = [
      z * 0,
      z * (row == 3),
      np.broadcast_to(z[:1], z.shape),
      z[[0, 1] * 4],
      z * (row != 2),
      np.eye(8, 16),
  ]
  zs = np.tile(np.stack(cases), (copies, 1, 1)).astype('f')
  g = _gradient(zs, alpha=alpha)
  assert np.isfinite(g).all()
  assert np.isfinite(_gradient(zs, alpha=alpha, center=True)).all()
  np.testing.assert_array_equal(g[0], np.zeros_like(z))
  # Orthonormal rows have the largest entropy there is: no direction raises it.
  assert np.abs(g[5]).max() < 1e-5
  if alpha == 0:
    np.testing.assert_array_equal(g, np.zeros_like(zs))
  else:
    assert np.abs(g[4]).max() > 1e-4
  nobody = jnp.zeros(zs.shape[:2], bool)
  g = _gradient(zs, alpha=alpha, mask=nobody)
  np.testing.assert_array_equal(g, np.zeros_like(zs))


def test_poles_below_one_are_dropped_not_the_rest(
    numpy_entropy, finite_differences
):
  """With a row of zeros, the gradient of the other rows is their own."""
  z = _normal(6, 9)
  padded = np.concatenate([z, np.zeros((2, 9), 'f')])
  got = np.asarray(_gradient(padded, alpha=0.5))
  want = finite_differences(lambda z: numpy_entropy(z, 0.5), z)
  _close(got[:6], want)
  np.testing.assert_array_equal(got[6:], np.zeros((2, 9)))


def test_order_infinity_splits_a_tie_evenly():
  """S_inf = -log(λ_1 / tr): λ_1 shared by the tied, slopes by hand."""
  z = np.diag([2.0, 2.0, 1.0]).astype('f')
  got = _gradient(z, alpha=INF)
  # dS = -dλ_1/λ_1 + dtr/tr with λ_i = z_ii², tr = 9, dλ_1 = mean of the two
  want = np.diag([-0.5 * 4 / 4 + 4 / 9, -0.5 * 4 / 4 + 4 / 9, 2 / 9])
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('alpha', [1.0, 2.0])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_gradient_has_the_dtype_of_the_input(alpha, dtype):
  x = jnp.asarray(_normal(2, 8, 6), dtype)
  g = jax.grad(information.patch_entropy)(x, patch_size=4, alpha=alpha)
  assert g.dtype == dtype
  full = jax.grad(information.patch_entropy)(
      x.astype(jnp.float32), patch_size=4, alpha=alpha
  )
  np.testing.assert_allclose(
      g.astype(jnp.float32), full, atol=0.01 * np.abs(full).max()
  )


@pytest.mark.parametrize('alpha', [0.5, 1.5, 2.0])
def test_zero_cotangent_gives_exactly_zero(alpha):
  x = jnp.asarray(_normal(2, 8, 6))
  f = lambda x: information.patch_entropy(x, patch_size=4, alpha=alpha)
  _, pull = jax.vjp(f, x)
  np.testing.assert_array_equal(pull(jnp.float32(0))[0], np.zeros_like(x))
  one, two = pull(jnp.float32(1))[0], pull(jnp.float32(2))[0]
  assert np.abs(one).max() > 1e-3
  np.testing.assert_allclose(two, 2 * one, rtol=1e-6)


def test_zero_cotangent_never_enters_the_backward_pass():
  """Had it been computed and multiplied by 0, the NaN would show."""
  x = jnp.asarray(_normal(2, 8, 6)).at[0, 0, 0].set(jnp.nan)
  f = lambda x: information.patch_entropy(x, patch_size=4)
  _, pull = jax.vjp(f, x)
  np.testing.assert_array_equal(pull(jnp.float32(0))[0], np.zeros_like(x))
  assert np.isnan(pull(jnp.float32(1))[0]).any()


def test_backward_work_is_under_a_conditional():
  """Outside the cond's branches the pull-back has no product or rotation."""
  x = jnp.asarray(_normal(2, 8, 6))
  f = lambda x: information.patch_entropy(x, patch_size=4, alpha=1.5)
  _, pull = jax.vjp(f, x)
  names = [
      e.primitive.name for e in jax.make_jaxpr(pull)(jnp.float32(0)).eqns
  ]
  assert 'cond' in names
  assert not {'dot_general', 'while', 'scan', 'eigh'} & set(names)


@pytest.mark.parametrize('alpha', [1.5, 2.0])
def test_jit_vmap_scan_and_checkpoint(alpha):
  x = jnp.asarray(_normal(3, 2, 8, 6))
  f = lambda x: information.patch_entropy(x, patch_size=4, alpha=alpha)
  grad = jax.value_and_grad(f)
  want_value, want = zip(*[grad(row) for row in x], strict=True)
  scan = lambda g: lambda x: jax.lax.scan(lambda c, row: (c, g(row)), 0, x)[1]
  transformed = {
      'jit': jax.jit(lambda x: jax.lax.map(grad, x)),
      'vmap': jax.jit(jax.vmap(grad)),
      'scan': scan(grad),
      'checkpoint': scan(jax.value_and_grad(jax.checkpoint(f))),
  }
  for name, g in transformed.items():
    value, gradient = g(x)
    np.testing.assert_allclose(value, want_value, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        gradient, np.stack(want), atol=2e-6, err_msg=name
    )
  total = jax.grad(lambda x: jnp.sum(scan(f)(x)))(x)
  np.testing.assert_allclose(total, np.stack(want), atol=2e-6)
