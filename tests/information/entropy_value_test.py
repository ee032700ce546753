"""Values of matrix and patch entropy against float64 NumPy and closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information

INF = float('inf')
ORDERS_FROM_ONE = [
    1.0, 1 + 1e-6, 1 + 1e-3, 1.1, 1.25, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0,
    8.0, 9.0, 12.5, 40.0, INF,
]
ORDERS_BELOW_ONE = [0.0, 0.05, 0.25, 0.5, 0.7, 0.8, 0.95, 1 - 1e-3, 1 - 1e-6]


def matrix_entropy(z, **keywords):
  """Not compiled as a whole: one order more costs no compilation."""
  return information.matrix_entropy(jnp.asarray(z), **keywords)


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _batches():
  """Many small matrices (Jacobi), and few or large ones (LAPACK)."""
  return {
      'many_8x32': _normal(40, 8, 32),
      'many_7x5': _normal(40, 7, 5),
      'rank_3': _normal(40, 8, 3) @ _normal(40, 3, 32, seed=1),
      'tall_60x24': _normal(2, 60, 24),
      'wide_40x90': _normal(2, 40, 90),
      'repeated_rows': np.repeat(_normal(3, 4, 64), 32, axis=1),
  }


@pytest.mark.parametrize('alpha', ORDERS_FROM_ONE)
def test_order_one_and_above_matches_numpy(numpy_entropy, alpha):
  for name, z in _batches().items():
    want = [numpy_entropy(m, alpha) for m in z]
    got = matrix_entropy(z, alpha=alpha)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('alpha', ORDERS_BELOW_ONE)
@pytest.mark.parametrize('n, d', [(8, 32), (24, 40), (60, 12)])
def test_order_below_one_matches_numpy_down_to_1e_minus_4(
    numpy_entropy, rows_with_spectrum, alpha, n, d
):
  p = np.geomspace(1.0, 1.5e-4, min(n, d))
  z = np.stack([rows_with_spectrum(p / p.sum(), d, s, n) for s in range(40)])
  assert p.min() / p.sum() < 1e-4 or len(p) < 10
  want = [numpy_entropy(m, alpha) for m in z]
  got = matrix_entropy(z, alpha=alpha)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('ratio', [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize('n', [8, 32])
def test_von_neumann_of_a_geometric_spectrum(
    numpy_entropy, rows_with_spectrum, ratio, n
):
  """Small eigenvalues that run through the level of rounding."""
  z = rows_with_spectrum(ratio ** np.arange(n), 2 * n)
  z = np.stack([z] * 40)
  want = numpy_entropy(z[0], 1)
  np.testing.assert_allclose(
      matrix_entropy(z, alpha=1.0), np.full(40, want), rtol=0, atol=1e-5
  )


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 40.0, INF])
def test_orthonormal_rows_give_log_n(alpha):
  got = information.matrix_entropy(jnp.eye(8, 20), alpha=alpha)
  assert abs(float(got) - np.log(8)) < 1e-6


@pytest.mark.parametrize(
    'alpha, want',
    [(1.0, 1.0397208), (2.0, 0.9808293), (INF, np.log(2)), (0.0, np.log(3))],
)
def test_known_spectrum(rows_with_spectrum, alpha, want):
  z = rows_with_spectrum([0.5, 0.25, 0.25], 10, n=6)
  assert abs(float(matrix_entropy(z, alpha=alpha)) - want) < 1e-5


def test_base_two_gives_bits():
  z = jnp.eye(8)
  assert abs(float(matrix_entropy(z, alpha=1.0, base=2)) - 3) < 1e-6
  x = jnp.broadcast_to(jnp.eye(4)[None], (2, 4, 4))
  got = information.patch_entropy(x, patch_size=4, base=4.0)
  assert abs(float(got) - 1) < 1e-6


def test_falls_as_the_order_grows():
  orders = [
      0.0, 0.2, 0.5, 0.74, 0.76, 0.99, 1.0, 1.01, 1.24, 1.26, 1.5, 1.999, 2.0,
      2.001, 3.0, 7.999, 8.0, 8.001, 20.0, 200.0, 1e6, 1e30, INF,
  ]
  for z in (_normal(40, 8, 16), _normal(1, 30, 20)):
    s = np.stack([matrix_entropy(z, alpha=a) for a in orders])
    assert np.all(np.diff(s, axis=0) < 2e-6)
    assert np.all(s[0] - s[-1] > 0.5)


@pytest.mark.parametrize('alpha', [0.5, 1.5, 3.0])
def test_invariances(alpha):
  z = _normal(40, 8, 24)
  want = matrix_entropy(z, alpha=alpha)
  rotation = np.linalg.qr(_normal(24, 24, seed=1))[0]
  order = np.random.default_rng(2).permutation(8)
  padded = np.concatenate([z, np.full((40, 3, 24), np.nan, np.float32)], 1)
  mask = np.broadcast_to(np.arange(11) < 8, (40, 11))
  same = {
      'rotation': matrix_entropy(z @ rotation, alpha=alpha),
      'permutation': matrix_entropy(z[:, order], alpha=alpha),
      'scale': matrix_entropy(z * 1e-12, alpha=alpha),
      'large': matrix_entropy(z * 1e12, alpha=alpha),
      'padding': matrix_entropy(padded, alpha=alpha, mask=mask),
      'zero rows': matrix_entropy(np.nan_to_num(padded), alpha=alpha),
      'transpose': matrix_entropy(z.swapaxes(1, 2), alpha=alpha),
  }
  for name, got in same.items():
    np.testing.assert_allclose(got, want, atol=3e-6, rtol=0, err_msg=name)
  squeezed = matrix_entropy(z * np.linspace(1, 9, 24, dtype='f'), alpha=alpha)
  assert np.abs(squeezed - want).max() > 0.01


@pytest.mark.parametrize('alpha', [1.0, 2.0])
def test_mask_center_and_normalize_by_hand(numpy_entropy, alpha):
  z = _normal(3, 12, 6) + 5.0
  mask = np.random.default_rng(3).random((3, 12)) < 0.7
  for center in (False, True):
    for normalize in (False, True):
      want = []
      for m, keep in zip(z.astype(np.float64), mask, strict=True):
        rows = m[keep]
        if center:
          rows = rows - rows.mean(0)
        if normalize:
          rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        want.append(numpy_entropy(rows, alpha))
      got = matrix_entropy(
          z, alpha=alpha, mask=mask, center=center, normalize=normalize
      )
      np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


def test_equal_rows_have_no_spread_to_measure():
  """The mean of equal rows is not exactly the row: no entropy of noise."""
  row = _normal(1, 1, 33) * 100
  z = np.broadcast_to(row, (3, 11, 33))
  for alpha in (0.0, 0.5, 1.0, 2.0):
    got = matrix_entropy(z, alpha=alpha, center=True, normalize=True)
    np.testing.assert_array_equal(got, np.zeros(3))


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0, 1.5, 2.0, 5.0, 9.0, INF])
@pytest.mark.parametrize('copies', [1, 10])  # by LAPACK, by rotations
def test_degenerate_inputs_give_zero(alpha, copies):
  z = _normal(8, 16)
  row = np.arange(8)[:, None]
  cases = [
      z * 0,
      z * (row == 3),
      np.broadcast_to(z[:1], z.shape),
      z * (np.arange(16)[None] == 5),
  ]
  zs = np.tile(np.stack(cases), (copies, 1, 1)).astype('f')
  got = matrix_entropy(zs, alpha=alpha)
  assert np.all(got >= 0) and np.all(got < 1e-6)
  nobody = jnp.zeros(zs.shape[:2], bool)
  got = matrix_entropy(zs + 1, alpha=alpha, mask=nobody)
  np.testing.assert_array_equal(got, np.zeros(len(zs)))
  one = matrix_entropy(z[:1], alpha=alpha)
  assert 0 <= float(one) < 1e-6


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0])
def test_a_bad_number_is_not_hidden(alpha):
  z = _normal(40, 8, 16)
  z[1, 2, 3] = np.nan
  z[2, 2, 3] = np.inf
  got = np.asarray(matrix_entropy(z, alpha=alpha))
  assert np.isnan(got[1:3]).all()
  assert np.isfinite(got[3:]).all() and np.isfinite(got[0])


def test_bfloat16_is_measured_in_float32(numpy_entropy):
  z = jnp.asarray(_normal(4, 8, 64), jnp.bfloat16)
  got = matrix_entropy(z, alpha=2.0)
  want = [numpy_entropy(np.asarray(m, np.float64), 2) for m in z]
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


def test_leading_axes_and_none():
  z = _normal(2, 3, 8, 5)
  got = matrix_entropy(z, alpha=1.5)
  assert got.shape == (2, 3)
  one = matrix_entropy(z[1, 2], alpha=1.5)
  assert one.shape == ()
  np.testing.assert_allclose(got[1, 2], one, atol=1e-6)


@pytest.mark.parametrize(
    'keywords, message',
    [
        (dict(alpha=-0.1), r'alpha must be a number in \[0, inf\].*-0\.1'),
        (dict(alpha=float('nan')), 'alpha must be'),
        (dict(base=1), 'base must be'),
        (dict(base=-2.0), 'base must be'),
        (dict(mask=np.ones((8, 4), bool)), r'mask must have shape \(8,\)'),
    ],
)
def test_matrix_entropy_refuses(keywords, message):
  with pytest.raises(ValueError, match=message):
    information.matrix_entropy(jnp.ones((8, 4)), **keywords)


def test_matrix_entropy_refuses_shapes_and_integers():
  with pytest.raises(ValueError, match=r'z must have shape'):
    information.matrix_entropy(jnp.ones(8))
  with pytest.raises(ValueError, match=r'N, D >= 1'):
    information.matrix_entropy(jnp.ones((0, 4)))
  with pytest.raises(ValueError, match='z must be floating, got dtype int32'):
    information.matrix_entropy(jnp.ones((8, 4), jnp.int32))
