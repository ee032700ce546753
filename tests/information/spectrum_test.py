"""Spectra, effective rank and the streaming accumulator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _probabilities(z):
  square = np.linalg.svd(z.astype(np.float64), compute_uv=False) ** 2
  return square / square.sum(-1, keepdims=True)


_spectrum = jax.jit(information.matrix_spectrum, static_argnames='center')
_accumulate = jax.jit(information.accumulate)
_accumulated_entropy = jax.jit(
    information.accumulated_entropy, static_argnames=('alpha', 'center')
)
_effective_rank = jax.jit(
    information.effective_rank, static_argnames='singular_values'
)


@pytest.mark.parametrize('shape', [(40, 8, 16), (30, 12), (6, 9)])
def test_spectrum_against_singular_values(shape):
  z = _normal(*shape)
  got = np.asarray(_spectrum(z))
  np.testing.assert_allclose(got, _probabilities(z), rtol=1e-5, atol=1e-8)
  assert np.all(np.diff(got, axis=-1) <= 0)


def test_spectrum_keeps_the_digits_of_small_eigenvalues(rows_with_spectrum):
  p = np.geomspace(1, 1e-6, 12)
  z = rows_with_spectrum(p, 20)
  np.testing.assert_allclose(_spectrum(z), _probabilities(z), rtol=1e-3)


def test_spectrum_with_mask_and_center():
  z = _normal(10, 4) + 3
  keep = np.arange(10) % 3 > 0
  got = _spectrum(z, mask=keep, center=True)
  want = _probabilities(z[keep] - z[keep].astype(np.float64).mean(0))
  np.testing.assert_allclose(got, want, atol=1e-6)
  nobody = _spectrum(z, mask=np.zeros(10, bool), center=True)
  np.testing.assert_array_equal(nobody, np.zeros(4))


def test_entropy_of_the_spectrum_is_the_matrix_entropy(quick_jit):
  orders = [0.5, 1.0, 1.5, 2.0, 4.0]

  def through_spectrum(z, alpha):
    p = information.matrix_spectrum(z)
    return information.entropy_of_spectrum(p, alpha=alpha)

  direct = lambda z, alpha: information.matrix_entropy(z, alpha=alpha)
  both = lambda z, alpha: [
      jax.value_and_grad(f)(z, alpha) for f in (through_spectrum, direct)
  ]
  results = quick_jit(lambda z: [both(z, a) for a in orders])(_normal(9, 14))
  for (a, a_grad), (b, b_grad) in results:
    np.testing.assert_allclose(a, b, atol=3e-6)
    np.testing.assert_allclose(a_grad, b_grad, atol=2e-5 * np.abs(b_grad).max())


def test_gradient_of_one_eigenvalue(finite_differences):
  z = _normal(5, 7)
  got = jax.jit(jax.grad(lambda z: information.matrix_spectrum(z)[1]))(z)
  want = finite_differences(lambda z: _probabilities(z)[1], z)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize('base', [1, 0, -1.0, float('inf')])
def test_bad_base(base):
  with pytest.raises(ValueError, match='base must be'):
    information.entropy_of_spectrum(jnp.ones(1), base=base)


def test_effective_rank():
  eye = np.eye(5, 9, dtype='f')
  assert abs(float(_effective_rank(eye)) - 5) < 1e-5
  z = eye * np.array([[3], [1], [0], [0], [0]], 'f')
  p = np.array([0.9, 0.1])
  want = np.exp(-np.sum(p * np.log(p)))
  np.testing.assert_allclose(_effective_rank(z), want, rtol=1e-6)
  p = np.array([0.75, 0.25])
  want = np.exp(-np.sum(p * np.log(p)))
  got = _effective_rank(z, singular_values=True)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert float(_effective_rank(z * 0)) == 1


def _accumulated(batches, masks=None):
  state = information.accumulator_init(batches[0].shape[1])
  for i, z in enumerate(batches):
    state = _accumulate(state, z, None if masks is None else masks[i])
  return state


@pytest.mark.parametrize('center', [False, True])
def test_accumulated_equals_stacked(quick_jit, numpy_entropy, center):
  batches = [_normal(n, 6, seed=n) + 2 for n in (50, 1, 30, 77)]
  rows = np.concatenate(batches).astype(np.float64)
  rows = rows - rows.mean(0) if center else rows
  orders = [1.0, 1.5, 2.0, 3.0, float('inf')]

  @quick_jit
  def entropies(state):
    f = functools.partial(
        information.accumulated_entropy, state, center=center
    )
    return [(f(alpha=alpha), f(alpha=alpha, base=2)) for alpha in orders]

  merged = information.accumulator_merge(
      _accumulated(batches[:1]), _accumulated(batches[1:])
  )
  for state in (_accumulated(batches), merged):
    for (nats, bits), alpha in zip(entropies(state), orders, strict=True):
      want = numpy_entropy(rows, alpha)
      np.testing.assert_allclose(nats, want, atol=1e-5)
      np.testing.assert_allclose(bits * np.log(2), nats, atol=1e-6)


def test_a_large_offset_costs_no_digits(numpy_entropy):
  """Centring at the end of a plain sum would leave nothing but rounding."""
  spread = _normal(400, 5) * np.array([1, 2, 3, 4, 5], 'f')
  rows = spread + np.float32(3000)
  state = _accumulated(np.split(rows, 8))
  got = _accumulated_entropy(state, alpha=1.0, center=True)
  exact = rows.astype(np.float64)
  want = numpy_entropy(exact - exact.mean(0), 1)
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_masked_rows_and_empty_accumulators():
  z = _normal(20, 4)
  keep = np.arange(20) % 2 == 0
  padded = np.where(keep[:, None], z, np.nan).astype('f')
  state = _accumulated([padded], [keep])
  got = _accumulated_entropy(state)
  want = jax.jit(information.matrix_entropy)(z[keep])
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert float(state.count) == 10
  empty = information.accumulator_init(4)
  assert float(_accumulated_entropy(empty, alpha=1.0, center=True)) == 0
  same = information.accumulator_merge(state, empty)
  for a, b in zip(same, state, strict=True):
    np.testing.assert_array_equal(a, b)
  equal = _accumulated([np.ones((7, 4), 'f') * 0.3] * 3)
  assert float(_accumulated_entropy(equal, alpha=1.0, center=True)) == 0


def test_accumulate_in_a_scan():
  z = jnp.asarray(_normal(5, 16, 4))
  step = lambda state, z: (information.accumulate(state, z), None)
  state, _ = jax.lax.scan(step, information.accumulator_init(4), z)
  got = _accumulated_entropy(state, alpha=1.5)
  want = jax.jit(lambda z: information.matrix_entropy(z, alpha=1.5))(
      z.reshape(80, 4)
  )
  np.testing.assert_allclose(got, want, atol=2e-6)


def test_accumulator_refuses():
  with pytest.raises(ValueError, match='dim must be at least 1, got dim=0'):
    information.accumulator_init(0)
  state = information.accumulator_init(4)
  with pytest.raises(ValueError, match=r'z must have shape \[N, 4\]'):
    information.accumulate(state, jnp.ones((3, 5)))
  with pytest.raises(ValueError, match=r'mask must have shape \(3,\)'):
    information.accumulate(state, jnp.ones((3, 4)), jnp.ones(4, bool))
  with pytest.raises(ValueError, match='alpha must be'):
    information.accumulated_entropy(state, alpha=-1)
