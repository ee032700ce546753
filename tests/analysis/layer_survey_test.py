"""Whole models: what they predict, by layer too, and what they keep."""

import functools

import jax
import numpy as np
import pytest
import tiny_models

from iblm_jax import models
from iblm_jax.analysis import layer_survey, profiles
from iblm_jax.models import autoencoder

ROWS, LENGTH = 4, 24
MODEL = tiny_models.transformer(width=16, num_layers=3)


def batch_of(seed=0):
  rng = np.random.default_rng(seed)
  shape = (ROWS, LENGTH)
  row = rng.integers(0, tiny_models.VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
  mask = np.ones(shape, bool)
  mask[1, 20:] = False
  mask[3] = seed == 0
  return {
      'tokens': row[:, :-1], 'targets': row[:, 1:], 'mask': mask,
      'loss_mask': mask & (np.arange(LENGTH) != 3),
      'segment_ids': mask.astype(np.int32),
      'positions': np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape),
  }


def batches():
  return iter([batch_of(0), batch_of(1)])


@functools.cache
def params_of(cfg):
  return jax.jit(models.init, static_argnums=1)(jax.random.key(0), cfg)


@pytest.fixture(scope='module')
def found():
  count = lambda batch: 2 * int(batch['loss_mask'].sum())
  return layer_survey.survey(
      params_of(MODEL), MODEL, batches, count_bytes=count
  )


def _logits(batch):
  return np.asarray(
      models.apply(
          params_of(MODEL), batch['tokens'], MODEL, mask=batch['mask'],
          segment_ids=batch['segment_ids'], positions=batch['positions'],
      ).logits_BxLxV,
      np.float64,
  )


def _scores(batch):
  logits = _logits(batch)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = -np.take_along_axis(log_p, batch['targets'][..., None], -1)[..., 0]
  return nll, -(np.exp(log_p) * log_p).sum(-1)


def test_predictions_of_the_whole_model(found):
  counted = [(b['loss_mask'], *_scores(b)) for b in batches()]
  nll = np.concatenate([n[m] for m, n, _ in counted]).mean()
  entropy = np.concatenate([h[m] for m, _, h in counted]).mean()
  assert found.model == {
      'cross_entropy': pytest.approx(nll, rel=1e-5),
      'perplexity': pytest.approx(np.exp(nll), rel=1e-5),
      'prediction_entropy': pytest.approx(entropy, rel=1e-5),
      'bits_per_byte': pytest.approx(nll / np.log(2) / 2, rel=1e-5),
      'tokens': sum(int(m.sum()) for m, *_ in counted),
      'prompts': 7,
  }


def test_the_last_layer_says_through_the_head_what_the_model_says(
    found, monkeypatch
):
  assert found.prompts['next_token/entropy'].shape == (3, 7)
  monkeypatch.setattr(layer_survey, '_ASKED', LENGTH)
  whole = layer_survey.survey(params_of(MODEL), MODEL, batches, views=0)
  rows = []
  for batch in batches():
    nll, entropy = _scores(batch)
    for row, mask in enumerate(batch['loss_mask']):
      if mask.any():
        rows.append((nll[row][mask].mean(), entropy[row][mask].mean()))
  expected_nll, expected_entropy = np.transpose(rows)
  last = {name: value[-1] for name, value in whole.prompts.items()}
  np.testing.assert_allclose(
      last['next_token/cross_entropy'], expected_nll, rtol=1e-5
  )
  np.testing.assert_allclose(
      last['next_token/entropy'], expected_entropy, rtol=1e-5
  )
  first = whole.prompts['next_token/cross_entropy'][0]
  assert not np.allclose(first, expected_nll, rtol=1e-3)
  # What is asked at fewer positions is a mean of the same kind.
  np.testing.assert_allclose(
      found.prompts['next_token/entropy'][-1], expected_entropy, rtol=0.3
  )
  assert 'lidar' not in whole.data


def test_layers_are_those_of_the_model(found):
  hidden = profiles.streams(params_of(MODEL), batch_of(0), MODEL)
  z = np.asarray(hidden[1, 0], np.float64)
  p = np.linalg.svd(z, compute_uv=False) ** 2
  p = p / p.sum()
  rank = np.exp(-(p * np.log(p)).sum())
  assert found.prompts['effective_rank'][1, 0] == pytest.approx(rank, rel=1e-4)
  assert found.data['effective_rank'].shape == (3,)


def test_nothing_is_told_apart_where_views_are_the_same(found):
  """Unaltered texts: as good as it gets, which altered ones are not."""
  same = layer_survey.survey(
      params_of(MODEL), MODEL, [batch_of(0), batch_of(1)], views=2, rate=0.0
  )
  assert same.model | found.model == found.model  # of a list of batches, too
  assert (same.data['infonce'] > found.data['infonce']).all()
  assert (same.data['infonce'] < np.log(7) + 1e-6).all()
  assert (same.data['lidar'] <= 6 + 1e-4).all()
  for name in ('infonce', 'lidar', 'dime'):
    assert found.data[name].shape == (3,)
    assert np.isfinite(found.data[name]).all()


def test_an_autoencoder_is_measured_without_a_lens():
  stack = tiny_models.transformer
  cfg = autoencoder.AutoencoderConfig(
      stack(tie_embeddings=True), stack(), LENGTH
  )
  found = layer_survey.survey(params_of(cfg), cfg, batches, views=2)
  assert found.prompts['effective_rank'].shape == (2, 7)
  assert 'next_token/entropy' not in found.prompts
  # It is asked for the tokens themselves.
  batch = batch_of(0)
  assert found.model['tokens'] == sum(int(b['mask'].sum()) for b in batches())
  assert batch['mask'].sum() != batch['loss_mask'].sum()


def test_what_cannot_be_measured_is_refused():
  cfg = tiny_models.memory()  # rows of 12 tokens in chunks of 4
  short = {name: a[:, :12] for name, a in batch_of(0).items()}
  with pytest.raises(ValueError, match="family 'memory' cannot be measured"):
    layer_survey.survey(params_of(cfg), cfg, lambda: iter([short]))
  with pytest.raises(ValueError, match='views must be 0 or at least 2, got 1'):
    layer_survey.survey(params_of(MODEL), MODEL, batches, views=1)
  tokens = {'tokens': batch_of(0)['tokens']}
  with pytest.raises(ValueError, match='hold mask, .*as_source do, got tokens'):
    layer_survey.survey(params_of(MODEL), MODEL, [tokens])
  empty = batch_of(0)
  empty['mask'] = np.zeros_like(empty['mask'])
  with pytest.raises(ValueError, match='a prompt of at least 3 tokens'):
    layer_survey.survey(
        params_of(MODEL), MODEL, lambda: iter([empty]), views=0
    )
