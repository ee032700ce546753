"""All entropies in one call, Diff-eRank, and predictions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information

ORDERS = (0.0, 0.5, 1.0, 2.0, np.inf)
_summary = jax.jit(information.entropy_summary)


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _prepared(z, ending):
  z = z.astype(np.float64)
  if 'centered' in ending:
    z = z - z.mean(0)
  if 'normalized' in ending:
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
  return z


ENDINGS = ('', '_centered', '_normalized', '_centered_normalized')


def test_values_are_those_of_numpy(numpy_entropy):
  z = _normal(2, 24, 20) + 0.7
  keep = np.ones((2, 24), bool)
  keep[1, [0, 5, 23]] = False
  dirty = np.where(keep[..., None], z, np.nan)
  found = _summary(dirty, mask=keep)
  for b in range(2):
    rows = z[b][keep[b]]
    for ending in ENDINGS:
      ready = _prepared(rows, ending)
      for alpha in ORDERS:
        name = f'entropy{ending}/order_{alpha:g}'
        s = numpy_entropy(ready, alpha)
        assert float(found[name][b]) == pytest.approx(s, abs=2e-5)
        for end, most in (('log_n', len(rows)), ('log_d', 20)):
          assert float(found[f'{name}/{end}'][b]) == pytest.approx(
              s / np.log(most), abs=2e-5
          )
      p = np.linalg.svd(ready, compute_uv=False) ** 2
      ratio = p.sum() ** 2 / (p**2).sum()
      expected = {
          'effective_rank': np.exp(numpy_entropy(ready, 1)),
          'participation_ratio': ratio,
          'first_direction': p.max() / p.sum(),
      }
      for name, value in expected.items():
        assert float(found[name + ending][b]) == pytest.approx(value, rel=2e-5)


def test_a_gaussian_in_a_subspace_fills_its_dimensions():
  basis = np.linalg.qr(_normal(64, 5, seed=1))[0]
  z = _normal(4096, 5, seed=2) @ basis.T
  found = _summary(z)
  assert float(found['effective_rank']) == pytest.approx(5, rel=2e-3)
  assert float(found['participation_ratio']) == pytest.approx(5, rel=4e-3)
  assert float(found['entropy/order_0']) == pytest.approx(np.log(5), abs=1e-5)
  assert float(found['first_direction']) == pytest.approx(0.2, abs=0.01)


def test_orthonormal_and_identical_rows():
  found = _summary(np.eye(16, 64, dtype=np.float32))
  for alpha in ORDERS:
    name = f'entropy/order_{alpha:g}'
    assert float(found[f'{name}/log_n']) == pytest.approx(1, abs=1e-6)
    assert float(found[f'{name}/log_d']) == pytest.approx(2 / 3, abs=1e-6)
  assert float(found['participation_ratio_centered']) == pytest.approx(15)
  same = _summary(np.ones((16, 64), np.float32))
  for ending in ENDINGS:
    assert float(same[f'effective_rank{ending}']) == pytest.approx(1)
    assert float(same[f'entropy{ending}/order_2']) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('scale', [1e-20, 1e20])
def test_no_scale_matters(scale):
  z = _normal(24, 20) + 0.7
  expected, found = _summary(z), _summary(z * np.float32(scale))
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


def test_nothing_gives_zero_and_ranks_of_one():
  found = _summary(np.zeros((3, 4), np.float32), mask=np.zeros(3, bool))
  for name, value in found.items():
    assert float(value) == (0 if name.startswith('entropy') else 1), name
  one = _summary(_normal(1, 8))
  assert float(one['entropy/order_1/log_n']) == 0


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='alpha must be'):
    information.entropy_summary(jnp.ones((2, 2)), orders=(-1.0,))
  with pytest.raises(ValueError, match=r'mask must have shape \(2,\)'):
    information.entropy_summary(jnp.ones((2, 2)), mask=jnp.ones(3, bool))
  with pytest.raises(ValueError, match=r'trained must have shape'):
    information.diff_erank(jnp.ones(2), jnp.ones(3))


def test_diff_erank_is_a_difference_of_exponentials_of_means():
  rng = np.random.default_rng(0)
  a, b = rng.uniform(0, 3, (2, 4, 7))
  expected = np.exp(a.mean(-1)) - np.exp(b.mean(-1))
  found = jax.jit(information.diff_erank)(jnp.asarray(a), jnp.asarray(b))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  keep = np.arange(7) < 3
  mask = np.broadcast_to(keep, (4, 7))
  a[:, 3:] = np.nan
  expected = np.exp(a[:, :3].mean(-1)) - np.exp(b[:, :3].mean(-1))
  found = information.diff_erank(jnp.asarray(a), jnp.asarray(b), mask)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  none = information.diff_erank(
      jnp.asarray(a), jnp.asarray(b), jnp.zeros((4, 7), bool)
  )
  assert not np.any(none)


def test_diff_erank_of_rows_follows_the_paper():
  """Covariance of centred unit rows, from the definition in NumPy."""
  prompts = _normal(3, 30, 12, seed=4), _normal(3, 30, 12, seed=5)[..., :4]
  name = 'entropy_centered_normalized/order_1'
  entropies, ranks = [], []
  for z in prompts:
    entropies.append(_summary(z)[name])
    h = []
    for rows in z.astype(np.float64):
      rows = rows - rows.mean(0)
      rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
      sigma = np.linalg.svd(rows.T @ rows / len(rows), compute_uv=False)
      p = sigma / sigma.sum()
      p = p[p > 1e-12]
      h.append(-(p * np.log(p)).sum())
    ranks.append(np.exp(np.mean(h)))
  found = information.diff_erank(*entropies)
  assert float(found) == pytest.approx(ranks[0] - ranks[1], rel=1e-4)


_entropy = jax.jit(information.prediction_entropy, static_argnames='base')


def test_entropy_of_predictions_is_that_of_numpy():
  logits = (5 * _normal(3, 40)).astype(np.float64)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = -(p * np.log(p)).sum(-1)
  found = _entropy(logits.astype(np.float32))
  np.testing.assert_allclose(found, expected, rtol=2e-5)
  np.testing.assert_allclose(
      _entropy(logits.astype(np.float32), base=2), expected / np.log(2),
      rtol=2e-5,
  )


def test_entropy_of_certain_and_impossible_tokens():
  assert float(_entropy(np.float32([1e20, 0, -1e20]))) == 0
  found = float(_entropy(np.float32([0, 0, -np.inf])))
  assert found == pytest.approx(np.log(2), rel=1e-6)
  assert np.isnan(_entropy(np.float32([0, np.nan])))
  with pytest.raises(ValueError, match='logits must be floating'):
    information.prediction_entropy(jnp.ones(3, int))


def test_perplexity_is_the_number_of_equally_likely_tokens():
  assert float(information.perplexity(np.log(50.0))) == pytest.approx(50)


def test_the_accumulated_spectrum_is_that_of_all_rows():
  z = (_normal(200, 12) * np.geomspace(1, 0.05, 12) + 0.3).astype(np.float32)
  state = functools.reduce(
      jax.jit(information.accumulate), z.reshape(4, 50, 12),
      information.accumulator_init(12),
  )
  spectrum = jax.jit(
      information.accumulated_spectrum, static_argnames='center'
  )
  for center in (False, True):
    rows = z.astype(np.float64) - center * z.mean(0, dtype=np.float64)
    p = np.linalg.svd(rows, compute_uv=False) ** 2
    np.testing.assert_allclose(
        spectrum(state, center=center), p / p.sum(), rtol=2e-4, atol=1e-6
    )
