"""Profiles of layers over batches, and of a run on disk."""

import jax
import numpy as np
import pytest

from iblm_jax import information
from iblm_jax.analysis import profiles
from iblm_jax.data import sources
from iblm_jax.data.sources import multiplication
from iblm_jax.models import decoder
from iblm_jax.objectives import iblm
from iblm_jax.optim import optimizers, schedules
from iblm_jax.training import options

MODEL = decoder.DecoderConfig(
    vocab_size=15, num_layers=3, width=16, num_heads=2
)
CFG = options.RunConfig(
    model=MODEL,
    data=sources.DataConfig(
        batch_size=8,
        multiplication=multiplication.MultiplicationConfig(eval_rows=20),
    ),
    optimizer=optimizers.OptimizerConfig(
        schedule=schedules.ScheduleConfig(total_steps=1)
    ),
    objective=iblm.ObjectiveConfig(skip_first=1, skip_last=1),
    train=options.LoopConfig(num_steps=1),
)


apply = jax.jit(decoder.apply, static_argnums=2, static_argnames='collect')


@pytest.fixture(scope='module')
def params():
  return jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), MODEL)


@pytest.fixture(scope='module')
def row(params):
  return profiles.profile_row(params, CFG)


def test_every_layer_is_measured_as_in_training(params):
  source = profiles.eval_source(CFG.data)
  whole = list(profiles.eval_batches(source))
  assert [int(b['mask'].any(1).sum()) for b in whole] == [8, 8, 4]
  found = profiles.layer_profiles(params, MODEL, whole, patch_sizes=(8, 16))
  assert set(found) == {8, 16}
  entropies, weights = [], []
  for batch in whole:
    outputs = apply(
        params,
        batch['tokens'],
        MODEL,
        mask=batch['mask'],
        segment_ids=batch['segment_ids'],
        positions=batch['positions'],
        collect='entropy',
    )
    entropies.append(np.asarray(outputs.entropy, np.float64))
    weights.append(batch['mask'].any(1).sum())
  expected = np.average(entropies, axis=0, weights=weights)
  np.testing.assert_allclose(
      found[8]['entropy/order_2'], expected, atol=2e-6
  )
  assert found[16]['entropy/order_2'].shape == (3,)
  assert (found[16]['effective_rank'] > found[8]['effective_rank']).all()
  few = profiles.layer_profiles(params, MODEL, whole[:1], patch_sizes=(8, 16))
  np.testing.assert_allclose(
      few[8]['entropy/order_2'], entropies[0], atol=2e-6
  )


def test_a_row_holds_the_middle_layers_and_every_layer(row):
  layers = [row[f'entropy/order_2/layer_{layer:02d}'] for layer in range(3)]
  assert row['entropy/order_2'] == pytest.approx(layers[1])
  assert layers[0] != layers[1] != layers[2]
  assert 'mean_share/layer_02' in row
  assert 'entropy_centered/order_2/layer_02' in row
  assert 'mean_share/layer_03' not in row
  assert all(isinstance(value, float) for value in row.values())


def test_the_mean_direction_shows_in_a_row(params, row):
  shifted = jax.tree.map(lambda a: a, params)
  shifted['embed'] = {'tokens': params['embed']['tokens'] + 30.0}
  found = profiles.profile_row(shifted, CFG, max_batches=1)
  assert found['entropy/order_2'] < 0.1 < row['entropy/order_2']
  assert found['mean_share'] > 0.95 > row['mean_share']
  assert found['entropy_centered/order_2'] > 0.5


def test_bad_arguments_are_refused(params):
  with pytest.raises(ValueError, match="split must be one of .*got 'train'"):
    profiles.profile_row(params, CFG, 'train')
  with pytest.raises(ValueError, match='at least one row'):
    profiles.layer_profiles(params, MODEL, [], patch_sizes=(8,))
  with pytest.raises(ValueError, match='holds no run'):
    profiles.load_params('/nonexistent')


def test_window_of_two_documents_is_counted_once(params):
  batch = profiles.eval_source(CFG.data).batch(0)
  two = {name: array.copy() for name, array in batch.items()}
  two['segment_ids'] = np.where(np.arange(16) < 6, 1, 2)[None].repeat(8, 0)
  found = profiles.layer_profiles(params, MODEL, [two], patch_sizes=(8,))
  outputs = jax.jit(
      lambda params: decoder.apply(
          params,
          two['tokens'],
          MODEL,
          mask=two['mask'],
          segment_ids=two['segment_ids'],
          positions=two['positions'],
          collect='hidden',
      ).hidden
  )(params)
  expected = information.patch_entropy(
      outputs[0],
      patch_size=8,
      mask=two['mask'],
      segment_ids=two['segment_ids'],
  )
  assert found[8]['entropy/order_2'][0] == pytest.approx(
      float(expected), abs=2e-6
  )
