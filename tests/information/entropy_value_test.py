"""Values of matrix and patch entropy against float64 NumPy and closed forms."""

import jax
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


# Operations compile once a shape, so the tests share these few: many small
# matrices (by rotations), few of them and large ones (by LAPACK), each kind
# with fewer and with more rows than columns.
MANY_WIDE, FEW_WIDE, LARGE_WIDE = (40, 8, 16), (8, 8, 16), (6, 40, 90)
MANY_TALL, LARGE_TALL = (40, 12, 7), (6, 128, 64)


def matrix_entropy(z, **keywords):
  """Not compiled as a whole: one order more costs no compilation."""
  return information.matrix_entropy(jnp.asarray(z), **keywords)


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _batches():
  return {
      'many_wide': _normal(*MANY_WIDE),
      'rank_3': _normal(40, 8, 3) @ _normal(40, 3, 16, seed=1),
      'many_tall': _normal(*MANY_TALL),
      'large_wide': _normal(*LARGE_WIDE),
      'large_tall': _normal(*LARGE_TALL),
      'repeated_rows': np.repeat(_normal(6, 4, 64), 32, axis=1),
  }


@pytest.mark.parametrize('alpha', ORDERS_FROM_ONE)
def test_order_one_and_above_matches_numpy(numpy_entropy, alpha):
  for name, z in _batches().items():
    want = [numpy_entropy(m, alpha) for m in z]
    got = matrix_entropy(z, alpha=alpha)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('alpha', ORDERS_BELOW_ONE)
@pytest.mark.parametrize(
    'shape', [MANY_WIDE, MANY_TALL, LARGE_WIDE, LARGE_TALL]
)
def test_order_below_one_matches_numpy_down_to_1e_minus_4(
    numpy_entropy, rows_with_spectrum, alpha, shape
):
  m, n, d = shape
  p = np.geomspace(1.0, 1.5e-4, min(n, d))
  z = np.stack([rows_with_spectrum(p / p.sum(), d, s, n) for s in range(m)])
  assert p.min() / p.sum() < 1e-4 or len(p) < 10
  want = [numpy_entropy(m, alpha) for m in z]
  got = matrix_entropy(z, alpha=alpha)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('ratio', [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize('shape', [MANY_WIDE, LARGE_WIDE])
def test_von_neumann_of_a_geometric_spectrum(
    numpy_entropy, rows_with_spectrum, ratio, shape
):
  """Small eigenvalues that run through the level of rounding."""
  m, n, d = shape
  z = rows_with_spectrum(ratio ** np.arange(n), d)
  want = numpy_entropy(z, 1)
  got = matrix_entropy(np.stack([z] * m), alpha=1.0)
  np.testing.assert_allclose(got, np.full(m, want), rtol=0, atol=1e-5)


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 40.0, INF])
def test_orthonormal_rows_give_log_n(alpha):
  z = np.broadcast_to(np.eye(8, 16, dtype='f'), FEW_WIDE)
  got = matrix_entropy(z, alpha=alpha)
  assert np.abs(np.asarray(got) - np.log(8)).max() < 1e-6


@pytest.mark.parametrize(
    'alpha, want',
    [(1.0, 1.0397208), (2.0, 0.9808293), (INF, np.log(2)), (0.0, np.log(3))],
)
def test_known_spectrum(rows_with_spectrum, alpha, want):
  z = rows_with_spectrum([0.5, 0.25, 0.25], 16, n=8)
  got = matrix_entropy(np.stack([z] * 8), alpha=alpha)
  assert np.abs(np.asarray(got) - want).max() < 1e-5


def test_base_two_gives_bits():
  z = np.broadcast_to(np.eye(8, 16, dtype='f'), FEW_WIDE)
  got = matrix_entropy(z, alpha=1.0, base=2)
  assert np.abs(np.asarray(got) - 3).max() < 1e-6
  x = np.broadcast_to(np.eye(4, dtype='f'), (2, 4, 4))
  base_4 = jax.jit(lambda x: information.patch_entropy(
      x, patch_size=4, base=4.0
  ))
  assert abs(float(base_4(x)) - 1) < 1e-6


def test_falls_as_the_order_grows():
  orders = [
      0.0, 0.2, 0.5, 0.74, 0.76, 0.99, 1.0, 1.01, 1.24, 1.26, 1.5, 1.999, 2.0,
      2.001, 3.0, 7.999, 8.0, 8.001, 20.0, 200.0, 1e6, 1e30, INF,
  ]
  for z in (_normal(*MANY_WIDE), _normal(*LARGE_WIDE)):
    s = np.stack([matrix_entropy(z, alpha=a) for a in orders])
    assert np.all(np.diff(s, axis=0) < 2e-6)
    assert np.all(s[0] - s[-1] > 0.5)


@pytest.mark.parametrize('alpha', [0.5, 1.5, 3.0])
def test_invariances(alpha):
  z = _normal(*MANY_WIDE)
  want = matrix_entropy(z, alpha=alpha)
  rotation = np.linalg.qr(_normal(16, 16, seed=1))[0]
  order = np.random.default_rng(2).permutation(8)
  same = {
      'rotation': matrix_entropy(z @ rotation, alpha=alpha),
      'permutation': matrix_entropy(z[:, order], alpha=alpha),
      'scale': matrix_entropy(z * 1e-12, alpha=alpha),
      'large': matrix_entropy(z * 1e12, alpha=alpha),
      'transpose': matrix_entropy(z.swapaxes(1, 2), alpha=alpha),
  }
  for name, got in same.items():
    np.testing.assert_allclose(got, want, atol=3e-6, rtol=0, err_msg=name)
  squeezed = matrix_entropy(z * np.linspace(1, 9, 16, dtype='f'), alpha=alpha)
  assert np.abs(squeezed - want).max() > 0.01


@pytest.mark.parametrize('alpha', [0.5, 1.5, 3.0])
def test_padding_does_not_count(numpy_entropy, alpha):
  z = _normal(*MANY_WIDE)
  want = [numpy_entropy(m[:5], alpha) for m in z]
  z[:, 5:] = np.nan
  mask = np.broadcast_to(np.arange(8) < 5, z.shape[:2])
  padded = matrix_entropy(z, alpha=alpha, mask=mask)
  np.testing.assert_allclose(padded, want, atol=3e-6, rtol=0)
  zero_rows = matrix_entropy(np.nan_to_num(z), alpha=alpha)
  np.testing.assert_allclose(zero_rows, want, atol=3e-6, rtol=0)


@pytest.mark.parametrize('alpha', [1.0, 2.0])
@pytest.mark.parametrize('center', [False, True])
@pytest.mark.parametrize('normalize', [False, True])
def test_mask_center_and_normalize_by_hand(
    numpy_entropy, alpha, center, normalize
):
  z = _normal(*MANY_TALL) + 5.0
  mask = np.random.default_rng(3).random(z.shape[:2]) < 0.7
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


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0, 2.0])
def test_equal_rows_have_no_spread_to_measure(alpha):
  """The mean of equal rows is not exactly the row: no entropy of noise."""
  z = np.broadcast_to(_normal(40, 1, 7) * 100, MANY_TALL)
  assert np.abs(z - z.mean(1, keepdims=True)).max() > 0
  got = matrix_entropy(z, alpha=alpha, center=True, normalize=True)
  np.testing.assert_array_equal(got, np.zeros(40))


DEGENERATE_ORDERS = [0.0, 0.5, 1.0, 1.5, 2.0, 5.0, 9.0, INF]


@pytest.mark.parametrize('alpha', DEGENERATE_ORDERS)
@pytest.mark.parametrize('shape', [FEW_WIDE, MANY_WIDE])
def test_degenerate_inputs_give_zero(alpha, shape):
  z = _normal(8, 16)
  row = np.arange(8)[:, None]
  cases = [
      z * 0,
      z * (row == 3),
      np.broadcast_to(z[:1], z.shape),
      z * (np.arange(16)[None] == 5),
  ]
  zs = np.tile(np.stack(cases), (shape[0] // 4, 1, 1)).astype('f')
  got = matrix_entropy(zs, alpha=alpha)
  assert np.all(got >= 0) and np.all(got < 1e-6)
  nobody = np.zeros(zs.shape[:2], bool)
  got = matrix_entropy(zs + 1, alpha=alpha, mask=nobody)
  np.testing.assert_array_equal(got, np.zeros(len(zs)))


def test_one_row_gives_zero():
  @jax.jit
  def entropies(z):
    f = information.matrix_entropy
    return jnp.stack([f(z, alpha=alpha) for alpha in DEGENERATE_ORDERS])

  got = entropies(_normal(1, 16))
  assert np.all(got >= 0) and np.all(got < 1e-6)


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0])
def test_a_bad_number_is_not_hidden(alpha):
  z = _normal(*MANY_WIDE)
  z[1, 2, 3] = np.nan
  z[2, 2, 3] = np.inf
  got = np.asarray(matrix_entropy(z, alpha=alpha))
  assert np.isnan(got[1:3]).all()
  assert np.isfinite(got[3:]).all() and np.isfinite(got[0])


def test_bfloat16_is_measured_in_float32(numpy_entropy):
  z = jnp.asarray(_normal(*FEW_WIDE), jnp.bfloat16)
  got = matrix_entropy(z, alpha=2.0)
  want = [numpy_entropy(m, 2) for m in np.asarray(z, np.float64)]
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


def test_leading_axes_and_none():
  z = _normal(2, 3, 8, 5)
  entropy = jax.jit(lambda z: information.matrix_entropy(z, alpha=1.5))
  got = entropy(z)
  assert got.shape == (2, 3)
  one = entropy(z[1, 2])
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
