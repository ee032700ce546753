"""Windows, masks and documents, against a plain loop over windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information


def patch_entropy(x, *, mask=None, segment_ids=None, **keywords):
  """`information.patch_entropy` of NumPy arrays."""
  mask = None if mask is None else jnp.asarray(mask)
  segment_ids = None if segment_ids is None else jnp.asarray(segment_ids)
  return information.patch_entropy(
      jnp.asarray(x), mask=mask, segment_ids=segment_ids, **keywords
  )


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _by_loop(numpy_entropy, x, size, alpha, mask, segments, center=False):
  """Mean over windows, written from the definition."""
  entropies = []
  for b in range(x.shape[0]):
    for start in range(0, x.shape[1] - size + 1, size):
      keep = [i for i in range(start, start + size) if mask[b, i]]
      ids = [segments[b, i] for i in keep]
      if ids:  # the earliest of the best represented documents
        best = max(ids, key=lambda s: (ids.count(s), -ids.index(s)))
        keep = [i for i in keep if segments[b, i] == best]
      if len(keep) < 2:
        continue
      rows = x[b, keep].astype(np.float64)
      rows = rows - rows.mean(0) if center else rows
      entropies.append(numpy_entropy(rows, alpha))
  return np.mean(entropies) if entropies else 0.0


@pytest.mark.parametrize('documents', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_against_a_loop_over_windows(
    quick_jit, numpy_entropy, masked, documents
):
  batch, length = 6, 37
  rng = np.random.default_rng(4)
  x = _normal(batch, length, 12) + 1.0
  mask = rng.random((batch, length)) < 0.6
  ids = np.sort(rng.integers(0, 9, (batch, length)), axis=1)
  options = [(a, c) for a in (1.0, 2.0) for c in (False, True)]

  @quick_jit
  def entropies(x):
    return [
        information.patch_entropy(
            x, patch_size=8, alpha=alpha, center=center,
            mask=jnp.asarray(mask) if masked else None,
            segment_ids=jnp.asarray(ids) if documents else None,
        )
        for alpha, center in options
    ]

  for got, (alpha, center) in zip(entropies(x), options, strict=True):
    want = _by_loop(
        numpy_entropy, x, 8, alpha, mask if masked else np.ones_like(mask),
        ids if documents else np.zeros_like(ids), center,
    )
    np.testing.assert_allclose(
        got, want, atol=1e-5, rtol=0, err_msg=f'{alpha=} {center=}'
    )


def test_the_tail_and_dropped_rows_do_not_matter(quick_jit):
  x = _normal(2, 21, 6)
  mask = np.ones((2, 21), bool)
  mask[0, 3:11] = False  # window 0 keeps three rows, window 1 none
  f = quick_jit(jax.value_and_grad(
      lambda x: patch_entropy(x, patch_size=8, mask=mask)
  ))
  other = x.copy()
  other[:, 16:] = 7.0
  other[0, 3:11] = np.nan
  value, gradient = f(other)
  assert float(f(x)[0]) == float(value)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[:, 16:], np.zeros((2, 5, 6)))
  np.testing.assert_array_equal(gradient[0, 3:11], np.zeros((8, 6)))
  assert np.abs(gradient[0, :3]).max() > 1e-4


def test_a_window_with_one_token_is_left_out_not_averaged_as_zero():
  x = np.broadcast_to(np.eye(4, dtype='f'), (1, 4, 4))
  x = np.concatenate([x, x], axis=1)
  mask = np.array([[True] * 4 + [True] + [False] * 3])
  got = jax.jit(lambda x: patch_entropy(x, patch_size=4, mask=mask))(x)
  np.testing.assert_allclose(got, np.log(4), atol=1e-6)


def test_no_valid_window_gives_zero_and_zero_gradient(quick_jit):
  x = _normal(2, 16, 4)
  mask = np.zeros((2, 16), bool)
  mask[:, ::8] = True
  orders = [0.5, 1.0, 2.0]

  def f(x, alpha):
    return patch_entropy(x, patch_size=8, alpha=alpha, mask=mask, center=True)

  grads = quick_jit(lambda x: [jax.value_and_grad(f)(x, a) for a in orders])
  for value, gradient in grads(x):
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 16, 4)))


def test_matches_the_mean_of_matrix_entropies(quick_jit):
  x = _normal(4, 64, 10)
  got = quick_jit(
      lambda x: patch_entropy(x, patch_size=16, alpha=1.5, normalize=True)
  )(x)
  want = quick_jit(
      lambda z: information.matrix_entropy(z, alpha=1.5, normalize=True)
  )(x.reshape(4, 4, 16, 10))
  np.testing.assert_allclose(got, np.mean(want), atol=1e-6)


@pytest.mark.parametrize('size', [1, 0, -3, 17])
def test_patch_size_out_of_range(size):
  with pytest.raises(ValueError, match=r'patch_size must be.*\[2, 16\]'):
    information.patch_entropy(jnp.ones((2, 16, 4)), patch_size=size)


def test_patch_entropy_refuses_shapes():
  x = jnp.ones((2, 16, 4))
  with pytest.raises(ValueError, match=r'x must have shape \[B, L, D\]'):
    information.patch_entropy(x[0], patch_size=4)
  with pytest.raises(ValueError, match='mask must have shape'):
    information.patch_entropy(x, patch_size=4, mask=jnp.ones((2, 15), bool))
  with pytest.raises(ValueError, match='segment_ids must have shape'):
    information.patch_entropy(
        x, patch_size=4, segment_ids=jnp.ones((16,), jnp.int32)
    )
  with pytest.raises(ValueError, match='alpha must be'):
    information.patch_entropy(x, patch_size=4, alpha=-1.0)


def test_config_checks_its_values():
  config = information.EntropyConfig(alpha=1.0, patch_size=16, center=True)
  assert (config.alpha, config.normalize) == (1.0, False)
  with pytest.raises(ValueError, match='alpha must be'):
    information.EntropyConfig(alpha=-1.0)
  with pytest.raises(ValueError, match=r'patch_size must be.*patch_size=1'):
    information.EntropyConfig(patch_size=1)
