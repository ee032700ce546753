"""Statistics of layers by prompt and over a data set, against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information
from iblm_jax.analysis import layers as statistics
from iblm_jax.models import capture


@pytest.fixture(scope='module')
def batches():
  """Three batches of 2 layers, 2 rows of 24 tokens, 20 features."""
  rng = np.random.default_rng(0)
  made = []
  for k in range(3):
    hidden = rng.normal(size=(2, 2, 24, 20)) * np.geomspace(1, 0.1, 20)
    hidden = (hidden + 0.5).astype(np.float32)
    mask = np.ones((2, 24), bool)
    mask[1, 18:] = False
    segment_ids = np.where(np.arange(24) < 15, 1, 2) * np.ones((2, 1), int)
    if k == 2:
      mask[1] = False  # padding
    hidden = np.where(mask[None, ..., None], hidden, np.nan)
    made.append({'hidden': hidden, 'mask': mask, 'segment_ids': segment_ids})
  return made


@pytest.fixture(scope='module')
def found(batches):
  return statistics.layer_statistics(batches, sample=64)


def _tokens(batches, layer):
  return np.concatenate([b['hidden'][layer][b['mask']] for b in batches])


def _prompts(batches, layer):
  for batch in batches:
    for row, mask in zip(batch['hidden'][layer], batch['mask'], strict=True):
      if mask.any():
        yield row[:15]


def _rank(z, alpha=1):
  p = np.linalg.svd(np.asarray(z, np.float64), compute_uv=False) ** 2
  p = p / p.sum()
  p = p[p > 1e-12]
  if alpha == 2:
    return 1 / (p**2).sum()
  return np.exp(-(p * np.log(p)).sum())


def test_prompts_are_the_longest_documents_of_rows(batches, found):
  assert found.tokens == 24 + 18 + 24 + 18 + 24
  for layer in range(2):
    rows = list(_prompts(batches, layer))
    assert len(rows) == 5
    same = {
        'effective_rank': [_rank(z) for z in rows],
        'participation_ratio_centered': [_rank(z - z.mean(0), 2) for z in rows],
        'curvature': [information.curvature(z) for z in rows],
        'mean_cosine': [information.mean_cosine(z) for z in rows],
        'intrinsic_dimension': [
            information.intrinsic_dimension(z) for z in rows
        ],
    }
    for name, values in same.items():
      np.testing.assert_allclose(found.prompts[name][layer], values, rtol=1e-4)


def test_the_data_set_is_all_of_its_tokens(batches, found):
  for layer in range(2):
    z = _tokens(batches, layer)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    means = np.stack([z.mean(0) for z in _prompts(batches, layer)])
    same = {
        'effective_rank': _rank(z),
        'effective_rank_centered': _rank(z - z.mean(0)),
        'effective_rank_normalized': _rank(unit),
        'effective_rank_of_prompts': _rank(means),
        'effective_rank_of_prompts_centered': _rank(means - means.mean(0)),
        'participation_ratio': _rank(z, 2),
        'entropy/order_1/log_n': np.log(_rank(z)) / np.log(len(z)),
        'entropy/order_1/log_d': np.log(_rank(z)) / np.log(20),
        'mean_cosine': ((unit @ unit.T).sum() - len(z)) / len(z) / (len(z) - 1),
    }
    for name, value in same.items():
      assert found.data[name][layer] == pytest.approx(value, rel=2e-4), name


def test_the_intrinsic_dimension_is_of_a_sample(batches):
  whole = statistics.layer_statistics(batches, sample=128)
  expected = information.intrinsic_dimension(_tokens(batches, 1))
  assert whole.data['intrinsic_dimension'][1] == pytest.approx(
      float(expected), rel=1e-5
  )


def test_a_sample_takes_tokens_of_all_batches_alike():
  reservoir = statistics._Reservoir(300, 0)
  for k in range(10):
    hidden = np.full((1, 4, 100, 1), float(k))
    reservoir.add(hidden, np.arange(100)[None] < 50 * np.ones((4, 1)))
  rows, keep = reservoir.rows()
  assert keep.all()
  counts = np.bincount(rows[0, :, 0].astype(int), minlength=10)
  assert counts.sum() == 300 and (abs(counts - 30) < 25).all()


@pytest.mark.parametrize('scale', [1e-20, 1e20])
def test_no_scale_matters(batches, found, scale):
  other = statistics.layer_statistics(
      [b | {'hidden': b['hidden'] * np.float32(scale)} for b in batches],
      sample=64,
  )
  for part in ('prompts', 'data'):
    for name, value in getattr(found, part).items():
      np.testing.assert_allclose(
          getattr(other, part)[name], value, rtol=1e-4, atol=1e-6, err_msg=name
      )


def test_the_order_of_batches_does_not_matter(batches, found):
  other = statistics.layer_statistics(batches[::-1], sample=128)
  for name, value in found.data.items():
    if name != 'intrinsic_dimension':
      np.testing.assert_allclose(
          other.data[name], value, rtol=1e-4, atol=1e-5, err_msg=name
      )


def test_layers_of_a_foreign_model_are_measured():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x_BxLxD):
      for _ in range(3):
        x_BxLxD = nn.Dense(20)(x_BxLxD)
      return x_BxLxD

  model, x_BxLxD = Net(), jax.random.normal(jax.random.key(0), (2, 24, 20))
  variables = model.init(jax.random.key(1), x_BxLxD)
  _, hidden = capture.linen(model, variables, x_BxLxD, layers=nn.Dense)
  found = statistics.layer_statistics(
      [{'hidden': jnp.stack(list(hidden.values()))}], sample=64
  )
  assert found.prompts['effective_rank'].shape == (3, 2)
  last = np.asarray(hidden['Dense_2'])
  assert found.prompts['effective_rank'][2, 1] == pytest.approx(
      _rank(last[1]), rel=1e-4
  )


def test_what_does_not_fit_is_refused():
  hidden = np.ones((1, 2, 4, 3), np.float32)
  with pytest.raises(ValueError, match='hidden must have shape'):
    statistics.layer_statistics([{'hidden': hidden[0]}])
  with pytest.raises(ValueError, match=r'mask must have shape \(2, 4\)'):
    statistics.layer_statistics([{'hidden': hidden, 'mask': np.ones((2, 3))}])
  with pytest.raises(ValueError, match='got none'):
    statistics.layer_statistics([])
