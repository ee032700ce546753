"""What does not depend on scale is right at any, or refused with NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information, optim
from iblm_jax.information import gram, profile

SCALES = [1e-30, 1e-25, 1e-20, 1e-13, 1e13, 1e20, 1e25, 1e30]
Z = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
OPTIONS = [
    {}, {'center': True}, {'normalize': True},
    {'center': True, 'normalize': True},
]


def _gradient(f, z):
  value, gradient = jax.value_and_grad(f)(jnp.asarray(z))
  return float(value), np.array(gradient, np.float64)


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0, float('inf')])
@pytest.mark.parametrize('options', OPTIONS)
def test_entropies_and_their_gradients(alpha, options):
  f = lambda z: information.matrix_entropy(z, alpha=alpha, **options)
  want, slope = _gradient(f, Z)
  for scale in SCALES:
    got, gradient = _gradient(f, Z * np.float32(scale))
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg=f'{scale}')
    np.testing.assert_allclose(
        gradient * scale, slope, atol=1e-4, err_msg=f'{scale}'
    )


def test_a_power_of_two_changes_no_digit():
  for options in OPTIONS:
    f = lambda z, options=options: information.matrix_entropy(
        z, alpha=1.5, **options
    )
    want, slope = _gradient(f, Z)
    got, gradient = _gradient(f, Z * np.float32(2.0**80))
    assert got == want
    np.testing.assert_array_equal(gradient * 2.0**80, slope)


@pytest.mark.parametrize('small', [1e-8, 1e-13, 1e-20, 1e-30, 0.0])
def test_a_short_row_among_others_has_a_slope(small):
  f = lambda z: information.matrix_entropy(z, normalize=True)
  z = Z[:4].copy()
  want, slope = _gradient(f, z)
  z[0] *= np.float32(small)
  got, gradient = _gradient(f, z)
  assert np.isfinite(gradient).all()
  if small:
    np.testing.assert_allclose(got, want, atol=1e-6)
    gradient[0] *= small
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


@pytest.mark.parametrize('alpha', [0.5, 1.5, 2.0])
@pytest.mark.parametrize('options', OPTIONS)
def test_windows_are_right_or_refused(alpha, options):
  """One pass more over the rows, to scale them, would slow training down."""
  x = jnp.asarray(Z.reshape(1, 12, 6))
  f = jax.jit(
      lambda x: information.patch_entropy(
          x, patch_size=4, alpha=alpha, **options
      )
  )
  want, slope = _gradient(f, x)
  for scale in (1e-15, 1e-13, 1e13, 1e15):
    got, gradient = _gradient(f, x * scale)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(gradient * scale, slope, atol=1e-4)
  for scale in (1e-30, 1e-20, 1e20, 1e30):
    assert np.isnan(f(x * scale)), scale
  for zeros in (x * 0, x.at[:, :4].set(0)):
    value, gradient = _gradient(f, zeros)
    assert np.isfinite(value) and np.isfinite(gradient).all()
  one = x.at[:, 1].multiply(1e-13)
  assert np.isfinite(_gradient(f, one)[1]).all()


def test_padding_is_not_looked_at():
  x = jnp.asarray(Z.reshape(1, 12, 6))
  mask = jnp.arange(12)[None] < 8
  f = lambda x: information.patch_entropy(x, patch_size=4, mask=mask)
  for scale in (1e-30, 1e30, np.nan):
    np.testing.assert_array_equal(f(x.at[:, 8:].multiply(scale)), f(x))


def test_rows_that_are_added_up_are_right_or_refused():
  for scale, known in [(1e-20, False), (1e-12, True), (1e20, False)]:
    state = information.accumulate(
        information.accumulator_init(6), jnp.asarray(Z) * scale
    )
    for center in (False, True):
      got = information.accumulated_entropy(state, center=center)
      want = information.matrix_entropy(jnp.asarray(Z), center=center)
      np.testing.assert_allclose(got, want if known else np.nan, atol=1e-5)


def test_figures_of_a_profile_and_the_distance_of_groups():
  x = jnp.asarray(Z.reshape(1, 12, 6))
  want = information.compression_profile(x, patch_size=4)
  apart = information.separation_ratio(x[0], x[0] + 1)
  for scale in SCALES:
    got = information.compression_profile(x * scale, patch_size=4)
    for name, value in got.items():
      value = value / scale if name == 'rms' else value
      np.testing.assert_allclose(value, want[name], atol=2e-5, err_msg=name)
    np.testing.assert_allclose(
        profile.mean_share(x * scale), profile.mean_share(x), rtol=1e-5
    )
    np.testing.assert_allclose(
        information.separation_ratio(x[0] * scale, x[0] * scale + scale),
        apart, rtol=1e-5,
    )


def test_cosines():
  g = {'w': jnp.asarray(Z[0]), 'b': jnp.asarray(Z[1])}
  h = {'w': jnp.asarray(Z[2]), 'b': jnp.asarray(Z[3])}
  want = information.tree_cosine(g, h)
  for scale in SCALES:
    scaled = jax.tree.map(lambda x, s=scale: x * s, g)
    for pair in ((scaled, h), (h, scaled)):
      got = information.tree_cosine(*pair, min_norm=0)
      np.testing.assert_allclose(got, want, rtol=1e-5)
      short = scale < 1e-8  # which rounding noise is, unless it is asked for
      got = information.tree_cosine(*pair)
      np.testing.assert_allclose(got, 0.0 if short else want, rtol=1e-5)
  long = jax.tree.map(lambda x: x * 1e25, g)
  both = information.layer_alignment(long, h, stacked=None)
  assert np.isnan(both.total.cosine)  # its squares are no float32: not 0
  with pytest.raises(ValueError, match='min_norm must be at least 0, got -1'):
    information.tree_cosine(g, h, min_norm=-1)


def test_a_factor_leaves_what_has_no_scale():
  for x in (0.0, np.inf, np.nan):
    np.testing.assert_array_equal(
        gram.to_unit(jnp.full([2], x), axis=None), [1.0]
    )


@pytest.mark.parametrize('main', [1e-30, 1e-23, 1e-20, 1.0, 1e20, 1e30])
@pytest.mark.parametrize('aux', [1e-23, 1e-20, 1.0, 1e20])
def test_the_projection_of_gradients(main, aux):
  x = np.float32([1.0, 2.0, 0.0]) * np.float32(main)
  y = np.float32([-3.0, 0.5, -3.0]) * np.float32(aux)
  tx = optim.gapt(optim.GateConfig(patience_main=1), projection='pcgrad')
  state = tx.init({'w': x})
  losses = {'value': 1.0, 'aux_value': 1.0}
  for _ in range(2):
    updates, state = tx.update(
        {'w': jnp.asarray(x)}, state, aux_updates={'w': jnp.asarray(y)},
        **losses,
    )
  long_x, long_y = x.astype(np.float64), y.astype(np.float64)
  opposed = (long_x @ long_y) / (long_x @ long_x)
  want = long_x + long_y - opposed * long_x
  np.testing.assert_allclose(
      updates['w'], want, rtol=1e-5, atol=1e-6 * np.abs(want).max()
  )


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf')])
def test_a_weight_is_checked_whatever_holds_it(weight):
  for kind in (float, np.float32, jnp.float32):
    with pytest.raises(ValueError, match='weight must be finite and >= 0'):
      optim.gapt(optim.GateConfig(), weight=kind(weight))
