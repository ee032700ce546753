"""Gradients against float64 finite differences, and where there are none."""

import functools

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


# Operations compile once a shape, so the tests share these few: many small
# matrices (by rotations) and few (by LAPACK), wide and tall.
MANY, FEW, WIDE, TALL = 40, 8, (8, 16), (12, 7)


def _gradient(z, **keywords):
  """Gradient of the sum of entropies; op by op, so an order costs little."""
  f = lambda z: jnp.sum(information.matrix_entropy(z, **keywords))
  return jax.grad(f)(jnp.asarray(z))


def _close(got, want):
  """Within 1e-4 of the largest entry of the true gradient."""
  want = np.asarray(want)
  error = np.abs(np.asarray(got, np.float64) - want).max()
  assert error < 1e-4 * np.abs(want).max(), error / np.abs(want).max()


@pytest.mark.parametrize('shape', [WIDE, TALL])
def test_matches_finite_differences(
    quick_jit, numpy_entropy, finite_differences, shape
):
  many = _normal(MANY, *shape)
  gradients = quick_jit(lambda z: [_gradient(z, alpha=a) for a in ORDERS])
  for alpha, few in zip(ORDERS, gradients(many[:FEW]), strict=True):
    f = lambda z, alpha=alpha: numpy_entropy(z, alpha)
    want = finite_differences(f, many[3])
    _close(few[3], want)
    _close(_gradient(many, alpha=alpha)[3], want)


def test_larger_matrices_and_small_eigenvalues(
    quick_jit, numpy_entropy, finite_differences, rows_with_spectrum
):
  orders = [0.3, 1.0, 1.5]
  z = rows_with_spectrum(np.geomspace(1, 1e-3, 18), 20)
  gradients = quick_jit(lambda z: [_gradient(z, alpha=a) for a in orders])
  for alpha, got in zip(orders, gradients(z), strict=True):
    f = lambda z, alpha=alpha: numpy_entropy(z, alpha)
    _close(got, finite_differences(f, z, step=1e-6))


@pytest.mark.parametrize('center', [False, True])
@pytest.mark.parametrize('normalize', [False, True])
def test_through_mask_center_and_normalize(
    quick_jit, numpy_entropy, finite_differences, center, normalize
):
  z = _normal(9, 6) + 1.0
  keep = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], bool)

  def f(z):
    rows = z[keep]
    rows = rows - rows.mean(0) if center else rows
    if normalize:
      rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return numpy_entropy(rows, 1.5)

  gradient = quick_jit(functools.partial(
      _gradient, alpha=1.5, center=center, normalize=normalize
  ))
  _close(gradient(z, mask=keep), finite_differences(f, z))


def test_patch_entropy_matches_finite_differences(
    quick_jit, numpy_entropy, finite_differences
):
  orders = [0.5, 1.0, 2.0, 3.0]
  x = _normal(2, 11, 5)
  gradient = jax.grad(information.patch_entropy)
  gradients = quick_jit(
      lambda x: [gradient(x, patch_size=4, alpha=a) for a in orders]
  )
  for alpha, got in zip(orders, gradients(x), strict=True):

    def f(x, alpha=alpha):
      windows = x[:, :8].reshape(4, 4, 5)
      return np.mean([numpy_entropy(w, alpha) for w in windows])

    _close(got, finite_differences(f, x))


@pytest.mark.parametrize('copies', [1, 4])  # by LAPACK, by rotations
def test_finite_where_the_spectrum_is_degenerate(quick_jit, copies):
  orders = [0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 5.0, 9.0, INF]
  z = _normal(*WIDE)
  row = np.arange(8)[:, None]
  cases = [
      z * 0,
      z * (row == 3),
      np.broadcast_to(z[:1], z.shape),
      z[[0, 1] * 4],
      z * (row != 2),
      np.eye(8, 16),
      z * (row < 2),
      z[[0, 1, 2, 3] * 2],
  ]
  # The last eight matrices have no row that counts.
  zs = np.stack(cases * (copies + 1)).astype('f')
  mask = np.ones(zs.shape[:2], bool)
  mask[-8:] = False

  def gradients(z, mask):
    f = functools.partial(_gradient, z)
    return [(f(alpha=a, mask=mask), f(alpha=a, center=True)) for a in orders]

  gradients = quick_jit(gradients) if copies == 1 else gradients
  for alpha, (g, centred) in zip(orders, gradients(zs, mask), strict=True):
    assert np.isfinite(g).all()
    assert np.isfinite(centred).all()
    np.testing.assert_array_equal(g[0], np.zeros_like(z))
    # Orthonormal rows have the largest entropy: no direction raises it.
    assert np.abs(g[5]).max() < 1e-5
    if alpha == 0:
      np.testing.assert_array_equal(g, np.zeros_like(zs))
    else:
      assert np.abs(g[4]).max() > 1e-4
    np.testing.assert_array_equal(g[-8:], np.zeros_like(zs[-8:]))


def test_poles_below_one_are_dropped_not_the_rest(
    quick_jit, numpy_entropy, finite_differences
):
  """With a row of zeros, the gradient of the other rows is their own."""
  z = _normal(FEW, *WIDE)
  z[:, 6:] = 0
  got = np.asarray(quick_jit(lambda z: _gradient(z, alpha=0.5))(z))
  want = finite_differences(lambda z: numpy_entropy(z, 0.5), z[0, :6])
  _close(got[0, :6], want)
  np.testing.assert_array_equal(got[:, 6:], np.zeros((FEW, 2, 16)))


def test_order_infinity_splits_a_tie_evenly(quick_jit):
  """S_inf = -log(λ_1 / tr): λ_1 shared by the tied, slopes by hand."""
  z = np.zeros((FEW, *WIDE), np.float32)
  z[:, :3, :3] = np.diag([2.0, 2.0, 1.0])
  got = quick_jit(lambda z: _gradient(z, alpha=INF))(z)
  # dS = -dλ_1/λ_1 + dtr/tr with λ_i = z_ii², tr = 9, dλ_1 = mean of the two
  want = np.zeros_like(z)
  want[:, :3, :3] = np.diag([-0.5 * 4 / 4 + 4 / 9, -0.5 * 4 / 4 + 4 / 9, 2 / 9])
  np.testing.assert_allclose(got, want, atol=1e-5)


def _patch_entropy(x, alpha=2.0):
  return information.patch_entropy(x, patch_size=4, alpha=alpha)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_gradient_has_the_dtype_of_the_input(quick_jit, dtype):
  x = jnp.asarray(_normal(2, 8, 6), dtype)
  gradients = quick_jit(
      lambda x: [jax.grad(_patch_entropy)(x, a) for a in (1.0, 2.0)]
  )
  full = gradients(x.astype(jnp.float32))
  for got, want in zip(gradients(x), full, strict=True):
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got.astype(jnp.float32), want, atol=0.01 * np.abs(want).max()
    )


@functools.partial(jax.jit, static_argnames='alpha')
def _pull_back(x, cotangent, alpha=2.0):
  return jax.vjp(lambda x: _patch_entropy(x, alpha), x)[1](cotangent)[0]


@pytest.mark.parametrize('alpha', [0.5, 1.5, 2.0])
def test_zero_cotangent_gives_exactly_zero(alpha):
  x = _normal(2, 8, 6)
  zero, one, two = (_pull_back(x, np.float32(c), alpha) for c in (0, 1, 2))
  np.testing.assert_array_equal(zero, np.zeros_like(x))
  assert np.abs(one).max() > 1e-3
  np.testing.assert_allclose(two, 2 * one, rtol=1e-6)


def test_zero_cotangent_never_enters_the_backward_pass():
  """Had it been computed and multiplied by 0, the NaN would show."""
  x = _normal(2, 8, 6)
  x[0, 0, 0] = np.nan
  zero = _pull_back(x, np.float32(0), 2.0)
  np.testing.assert_array_equal(zero, np.zeros_like(x))
  assert np.isnan(_pull_back(x, np.float32(1), 2.0)).any()


def test_backward_work_is_under_a_conditional():
  """Outside the cond's branches the pull-back has no product or rotation."""
  x = jnp.asarray(_normal(2, 8, 6))
  pull = jax.jit(lambda x: jax.vjp(lambda x: _patch_entropy(x, 1.5), x)[1])(x)
  names = [
      e.primitive.name for e in jax.make_jaxpr(pull)(jnp.float32(0)).eqns
  ]
  assert 'cond' in names
  assert not {'dot_general', 'while', 'scan', 'eigh'} & set(names)


@pytest.mark.parametrize('alpha', [1.5, 2.0])
def test_jit_vmap_scan_and_checkpoint(quick_jit, alpha):
  x = _normal(3, 2, 8, 6)
  f = lambda x: _patch_entropy(x, alpha)
  grad = jax.value_and_grad(f)
  jitted = quick_jit(grad)
  want_value, want = zip(*[jitted(row) for row in x], strict=True)
  scan = lambda g: lambda x: jax.lax.scan(lambda c, row: (c, g(row)), 0, x)[1]
  transformed = {
      'vmap': jax.vmap(grad),
      'scan': scan(grad),
      'checkpoint': scan(jax.value_and_grad(jax.checkpoint(f))),
  }
  together = quick_jit(lambda x: {k: g(x) for k, g in transformed.items()})
  for name, (value, gradient) in together(x).items():
    np.testing.assert_allclose(value, want_value, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        gradient, np.stack(want), atol=2e-6, err_msg=name
    )
  total = quick_jit(jax.grad(lambda x: jnp.sum(scan(f)(x))))(x)
  np.testing.assert_allclose(total, np.stack(want), atol=2e-6)
