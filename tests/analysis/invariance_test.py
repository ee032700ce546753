"""InfoNCE, LiDAR and DiME of views, against NumPy from the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.analysis import invariance

_infonce = jax.jit(invariance.view_infonce)
_lidar = jax.jit(invariance.lidar, static_argnames='delta')
_dime = jax.jit(invariance.dime, static_argnames=('alpha', 'permutations'))
KEY = jax.random.key(0)


def _views(n=20, q=3, d=6, noise=0.3, seed=0):
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(n, 1, d)) + noise * rng.normal(size=(n, q, d))
  return (z + 0.2).astype(np.float32)


def _unit(z):
  z = np.asarray(z, np.float64)
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def _numpy_infonce(a, b, temperature=0.1):
  score = _unit(a) @ _unit(b).T / temperature
  nll = lambda s: np.mean(np.log(np.exp(s).sum(1)) - np.diag(s))
  return np.log(len(a)) - (nll(score) + nll(score.T)) / 2


def _numpy_lidar(z, delta=1e-4):
  z = np.asarray(z, np.float64)
  n, q, d = z.shape
  mean = z.mean(1)
  between = np.cov(mean.T, bias=True)
  within = sum(
      np.outer(v - m, v - m) for rows, m in zip(z, mean, strict=True)
      for v in rows
  ) / (n * q)
  within += delta * np.trace(between + within) / d * np.eye(d)
  values, vectors = np.linalg.eigh(within)
  root = vectors @ np.diag(values**-0.5) @ vectors.T
  p = np.linalg.eigvalsh(root @ between @ root)
  p = p[p > 1e-12] / p[p > 1e-12].sum()
  return np.exp(-(p * np.log(p)).sum())


def _numpy_dime(a, b, alpha, count=400):
  rng = np.random.default_rng(1)
  k_a, k_b = _unit(a) @ _unit(a).T, _unit(b) @ _unit(b).T

  def s(k):
    p = np.linalg.eigvalsh(k / len(k))
    p = p[p > 1e-12]
    if alpha == 1:
      return -(p * np.log(p)).sum()
    return np.log((p**alpha).sum()) / (1 - alpha)

  others = []
  for _ in range(count):
    order = rng.permutation(len(a))
    others.append(s(k_a * k_b[np.ix_(order, order)]))
  return np.mean(others) - s(k_a * k_b)


MASK = np.arange(20) % 4 != 1


@pytest.mark.parametrize('scale', [1e-20, 1.0, 1e20])
def test_values_are_those_of_numpy(scale):
  z = _views()
  dirty = np.where(MASK[:, None, None], z, np.nan) * np.float32(scale)
  kept = z[MASK]
  assert float(
      _infonce(dirty[:, 0], dirty[:, 1], mask_N=MASK)
  ) == pytest.approx(_numpy_infonce(kept[:, 0], kept[:, 1]), rel=1e-4)
  assert float(_lidar(dirty, mask_N=MASK)) == pytest.approx(
      _numpy_lidar(kept), rel=1e-3
  )


@pytest.mark.parametrize('alpha', [1.0, 2.0])
def test_dime_is_that_of_numpy(alpha):
  z = _views()
  dirty = np.where(MASK[:, None, None], z, np.nan)
  expected = _numpy_dime(z[MASK][:, 0], z[MASK][:, 1], alpha)
  found = _dime(
      dirty[:, 0] * np.float32(1e20), dirty[:, 1] * np.float32(1e-20), KEY,
      mask_N=MASK, alpha=alpha, permutations=400,
  )
  assert expected > 0.1
  assert float(found) == pytest.approx(expected, rel=0.02)


def test_views_that_say_nothing():
  a, b = _views(64, 2, noise=0).swapaxes(0, 1), _views(64, 2, seed=1)
  unrelated = (a[0], b[:, 1])
  assert abs(float(_dime(*unrelated, KEY))) < 0.05
  assert float(_infonce(*unrelated)) < 0.3
  same = np.ones((8, 4), np.float32)
  assert float(_dime(same, same, KEY)) == pytest.approx(0, abs=1e-5)
  assert float(_infonce(same, same)) == pytest.approx(0, abs=1e-6)


def test_closed_forms_of_separate_texts():
  eye = np.eye(8, dtype=np.float32)
  # exp(-1 / 0.1) of the seven others is all that is lost.
  assert float(_infonce(eye, eye)) == pytest.approx(
      np.log(8) - np.log1p(7 * np.exp(-10.0)), rel=1e-6
  )
  # Identical views: the rank of eight means about their mean.
  twice = np.repeat(eye[:, None], 2, axis=1)
  assert float(_lidar(twice)) == pytest.approx(7, rel=1e-5)
  none = _lidar(np.ones((8, 2, 4), np.float32))
  assert float(none) == pytest.approx(1)


def test_two_groups_have_the_bit_that_tells_them_apart():
  """Own: log 2 of order 2. Shuffled: four groups, up to chance."""
  z = np.repeat(np.eye(2, dtype=np.float32), 64, axis=0)
  for permutations in (2, 32):
    found = _dime(z, z, KEY, alpha=2.0, permutations=permutations)
    assert float(found) == pytest.approx(np.log(2), abs=0.03)


def test_noise_between_views_lowers_all_of_them():
  values = []
  for noise in (0.1, 1.0, 4.0):
    z = _views(48, 4, 12, noise)
    values.append([
        float(_infonce(z[:, 0], z[:, 1])),
        float(_dime(z[:, 0], z[:, 1], KEY)),
    ])
  assert (np.diff(values, axis=0) < 0).all()


def test_tokens_are_replaced_at_the_rate_by_tokens_of_the_batch():
  tokens = np.arange(4000, dtype=np.int32).reshape(8, 500) % 50
  mask = np.ones((8, 500), bool)
  mask[:, 400:] = False
  tokens[~mask] = 99
  replace = jax.jit(invariance.replace_tokens, static_argnames='rate')
  found = np.asarray(replace(KEY, tokens, mask, rate=0.25))
  assert found.dtype == np.int32
  assert (found[~mask] == 99).all() and (found[mask] < 50).all()
  changed = (found != tokens)[mask].mean()
  assert changed == pytest.approx(0.25 * 49 / 50, abs=0.03)
  assert (np.asarray(replace(KEY, tokens, mask, rate=0.0)) == tokens).all()


def test_bad_arguments_are_refused():
  z = jnp.ones((4, 3))
  with pytest.raises(ValueError, match=r'Q >= 2'):
    invariance.lidar(z[:, None])
  with pytest.raises(ValueError, match='delta must be'):
    invariance.lidar(jnp.ones((4, 2, 3)), delta=0.0)
  with pytest.raises(ValueError, match=r'b_NxD must have shape \(4, 3\)'):
    invariance.dime(z, z[:3], KEY)
  with pytest.raises(ValueError, match='permutations must be at least 1'):
    invariance.dime(z, z, KEY, permutations=0)
  with pytest.raises(ValueError, match='temperature must be'):
    invariance.view_infonce(z, z, temperature=0.0)
  with pytest.raises(ValueError, match='rate must lie'):
    invariance.replace_tokens(KEY, z[:1], z[:1] > 0, rate=2.0)
