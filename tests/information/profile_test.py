"""The profile of a layer, against a plain loop over windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information

NAMES = {
    *(f'entropy/order_{order}' for order in ('1', '2', 'inf')),
    *(f'entropy_centered/order_{order}' for order in ('1', '2', 'inf')),
    'entropy_normalized/order_2',
    'mean_share',
    'longest_row',
    'effective_rank',
    'rms',
}


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnames='patch_size')
def _compiled(x, patch_size, mask, segment_ids):
  return information.compression_profile(
      x, patch_size=patch_size, mask=mask, segment_ids=segment_ids
  )


def _profile(x, patch_size=8, mask=None, segment_ids=None):
  found = _compiled(x.astype(np.float32), patch_size, mask, segment_ids)
  return {name: float(value) for name, value in found.items()}


def _by_loop(numpy_entropy, x, size, mask, segments):
  """Means over windows, written from the definitions, in float64."""
  windows = []
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
      mean = rows.mean(0)
      unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
      window = {
          'entropy_normalized/order_2': numpy_entropy(unit, 2),
          'mean_share': len(keep) * mean @ mean / np.sum(rows**2),
          'longest_row': max(row @ row for row in rows) / np.sum(rows**2),
          'effective_rank': np.exp(numpy_entropy(rows, 1)),
      }
      for order in ('1', '2', 'inf'):
        alpha = float(order)
        window[f'entropy/order_{order}'] = numpy_entropy(rows, alpha)
        window[f'entropy_centered/order_{order}'] = numpy_entropy(
            rows - mean, alpha
        )
      windows.append(window)
  found = {name: np.mean([w[name] for w in windows]) for name in windows[0]}
  found['rms'] = np.sqrt(np.mean(x[mask].astype(np.float64) ** 2))
  return found


@pytest.mark.parametrize('size', [8, 13])  # 13 rows of 12 numbers: D < N
@pytest.mark.parametrize('masked', [False, True])
def test_against_a_loop_over_windows(numpy_entropy, masked, size):
  rng = np.random.default_rng(1)
  x = _normal(3, 28, 12) + 0.5
  mask = rng.random((3, 28)) < (0.6 if masked else 1.0)
  ids = np.sort(rng.integers(0, 5 if masked else 1, (3, 28)), axis=1)
  arrays = {'mask': mask, 'segment_ids': ids} if masked else {}
  if masked:
    x[~mask] = np.nan  # what padding holds must not get through
  found = _profile(x, size, **arrays)
  expected = _by_loop(numpy_entropy, x, size, mask, ids)
  assert found.keys() == NAMES
  assert found == pytest.approx(expected, rel=2e-5, abs=2e-6)


def test_agrees_with_patch_entropy():
  x = _normal(2, 32, 16) + 1
  names = {
      f'{name}/order_{order}': dict(alpha=float(order), center=center)
      for center, name in ((False, 'entropy'), (True, 'entropy_centered'))
      for order in ('1', '2', 'inf')
  }
  expected = jax.jit(
      lambda x: {
          name: information.patch_entropy(x, patch_size=8, **options)
          for name, options in names.items()
      }
  )(x)
  found = _profile(x)
  for name, value in expected.items():
    assert found[name] == pytest.approx(float(value), abs=5e-6)


def test_an_offset_hides_what_is_there_from_all_but_the_centred():
  x = _normal(2, 32, 16)
  offset = _normal(16, seed=1)
  profiles = [_profile(x + scale * offset) for scale in (0, 10, 100)]
  for name in ('1', '2', 'inf'):
    centred = [p[f'entropy_centered/order_{name}'] for p in profiles]
    assert centred == pytest.approx(3 * [centred[0]], abs=1e-4)
    raw = [p[f'entropy/order_{name}'] for p in profiles]
    assert raw[0] > 1 and raw[1] < 0.2 and raw[2] < 4e-3
  shares = [p['mean_share'] for p in profiles]
  assert shares[0] < 0.2 and shares[1] > 0.95 and 0.9995 < shares[2] <= 1
  ranks = [p['effective_rank'] for p in profiles]
  assert ranks[0] > 5 and ranks[2] == pytest.approx(1, abs=4e-3)


def test_scale_changes_nothing_but_the_size():
  x = _normal(2, 32, 16)
  small, large = _profile(x), _profile(x * 64)
  assert large.pop('rms') == pytest.approx(64 * small.pop('rms'))
  assert large == pytest.approx(small, rel=1e-5)


def test_rows_of_different_length_count_the_same_where_normalised():
  x = np.eye(8, 16) * (2.0 ** np.arange(8))[:, None]
  found = _profile(np.tile(x, (2, 4, 1)))
  assert found['entropy_normalized/order_2'] == pytest.approx(
      np.log(8), rel=1e-5
  )
  assert found['entropy/order_2'] < 0.6


def test_nothing_to_measure_is_zero():
  nothing = _profile(_normal(2, 32, 16), mask=np.zeros((2, 32), bool))
  assert set(nothing.values()) == {0.0}
  still = _profile(np.zeros((2, 32, 16)))
  assert still.pop('effective_rank') == pytest.approx(1)
  assert set(still.values()) == {0.0}


def test_a_bad_number_is_not_hidden():
  x = _normal(2, 32, 16)
  x[0, 3, 2] = np.nan
  assert all(np.isnan(value) for value in _profile(x).values())
  p = jnp.array([np.nan, 0.5, 0.5])
  for alpha in (0, 0.5, 1, 2, np.inf):
    assert np.isnan(information.entropy_of_spectrum(p, alpha=alpha))


def test_under_jit_and_vmap():
  x = _normal(3, 2, 32, 16)
  batched = jax.jit(
      jax.vmap(lambda x: information.compression_profile(x, patch_size=8))
  )(x)
  for i in range(3):
    alone = _profile(x[i])
    for name, values in batched.items():
      assert values.shape == (3,)
      assert float(values[i]) == pytest.approx(alone[name], abs=1e-5)


def test_bad_arguments_are_refused():
  x = jnp.zeros([1, 8, 4])
  with pytest.raises(ValueError, match=r'patch_size must be .*patch_size=9'):
    information.compression_profile(x, patch_size=9)
  with pytest.raises(ValueError, match=r'mask must have shape \(1, 8\)'):
    information.compression_profile(x, patch_size=4, mask=jnp.ones([8], bool))
  with pytest.raises(ValueError, match='x must have shape'):
    information.compression_profile(x[0], patch_size=4)
