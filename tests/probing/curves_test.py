"""Blocks and positions of published models, and curves over budgets."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import programs
import published_models
import pytest

from iblm_jax import models
from iblm_jax.data.sources import markov
from iblm_jax.models import autoencoder, pretrained
from iblm_jax.models import config as model_config
from iblm_jax.probing import arrays, curves, encoders
from iblm_jax.probing import decoder_probe as probing
from iblm_jax.probing import subject as probe_subject

V, L = 4, 3
LLAMA = published_models.SETTINGS['llama with biases']


def test_what_stands_at_a_position_after_a_block(tmp_path):
  """Against NumPy: a second block that adds nothing, then norm and head."""
  weights = published_models.weights(LLAMA)
  folder = published_models.save(tmp_path / 'llama', LLAMA, weights)
  params, cfg, _ = pretrained.load(folder)
  tokens_L = np.random.default_rng(0).integers(0, published_models.V, 7)
  without = {
      name: 0 * array
      if name.startswith(('model.layers.1.self_attn.o', 'model.layers.1.mlp.d'))
      else array
      for name, array in weights.items()
  }
  expected_LxV = published_models.logits(LLAMA, without, tokens_L)
  mask_BxL = jnp.ones((1, 7), bool)
  for position in (0, 4, 'last_valid'):
    encoder = encoders.of_model(cfg, params, position, block=0)
    e_E = np.asarray(encoder.embed(params, tokens_L[None], mask_BxL))[0]
    e_E = e_E / np.sqrt((e_E**2).mean() + LLAMA['rms_norm_eps'])
    logits_V = (weights['model.norm.weight'] * e_E) @ weights[
        'lm_head.weight'
    ].T
    place = 6 if position == 'last_valid' else position
    np.testing.assert_allclose(logits_V, expected_LxV[place], atol=1e-4)


@pytest.mark.parametrize(
    'options, said',
    [
        ({'block': 2}, r'block must be in 0\.\.1, the blocks of .* got 2'),
        ({'position': -1}, 'position must be one of .* from 0, got -1'),
        ({'position': 'middle'}, "position must be one of .* got 'middle'"),
    ],
)
def test_unknown_places_are_refused(options, said):
  model = model_config.llama(V, num_layers=2, width=8, num_heads=1)
  with pytest.raises(ValueError, match=said):
    encoders.of_model(model, {}, **options)


def test_a_position_past_the_sequence_is_refused_before_any_compile():
  model = model_config.llama(V, num_layers=1, width=8, num_heads=1)
  init = lambda key: models.init(key, model)
  params = jax.eval_shape(init, jax.random.key(0))
  encoder = encoders.of_model(model, params, position=L)
  with pytest.raises(ValueError, match='position must be below the 3 tokens'):
    probing.width_of(encoder, L)


def test_blocks_of_a_model_of_one_vector_are_refused():
  part = lambda tied: model_config.llama(
      V, num_layers=2, width=8, num_heads=1, tie_embeddings=tied
  )
  model = autoencoder.AutoencoderConfig(part(True), part(False), length=L)
  with pytest.raises(ValueError, match="None for the family 'autoencoder'"):
    encoders.of_model(model, {}, block=0)


def test_more_training_finds_what_is_there_and_no_more():
  cfg = markov.MarkovConfig(
      vocab_size=V, length=L, uniform=True, num_heldout=256, successors=(1, 2),
      num_topics=1,
  )
  train, heldout = (
      markov.MarkovSource(cfg, split, 64, 0) for split in ('train', 'heldout')
  )
  first = lambda params, tokens_BxL, mask: jax.nn.one_hot(tokens_BxL[:, 0], V)
  of_all = lambda params, tokens_BxL, mask: jax.nn.one_hot(
      tokens_BxL, V
  ).reshape(len(tokens_BxL), -1)[:, : L * V]
  said = []
  rows = curves.over_budgets(
      {
          'first': probing.Encoder(
              lambda *args: jnp.pad(first(*args), ((0, 0), (0, (L - 1) * V))),
              {}, V,
          ),
          'all': probing.Encoder(of_all, {}, V),
      },
      train,
      heldout,
      probing.ProbeConfig(
          L, num_layers=1, width=16, num_heads=2, peak=1e-2, num_eval=256
      ),
      (5, 150),
      said.append,
  )
  assert [(row['encoder'], row['num_steps']) for row in rows] == [
      ('first', 5), ('all', 5), ('first', 150), ('all', 150)
  ]
  assert [row['num_sequences'] for row in rows] == [320, 320, 9600, 9600]
  # One control for each budget.
  assert sum(line.startswith('control') for line in said) == 2
  assert rows[0]['constant/accuracy'] == rows[1]['constant/accuracy']
  bits = [row['recovered_bits'] for row in rows]
  assert bits[1] < 2.0
  assert bits[2] == pytest.approx(math.log2(V), rel=0.1)
  assert bits[3] == pytest.approx(L * math.log2(V), rel=0.05)


def test_vectors_are_standardised_over_the_training_rows():
  rng = np.random.default_rng(0)
  tokens_NxL = rng.integers(0, V, (50, L)).astype(np.int32)
  source = arrays.ArraySource(tokens_NxL, tokens_NxL >= 0, 10, V, seed=0)
  scale_L = jnp.array([1e3, 1.0, 0.0])
  encoder = probing.Encoder(
      lambda scale_L, tokens_BxL, mask: tokens_BxL * scale_L[None] + 7.0,
      scale_L,
      V,
  )
  cfg = probing.ProbeConfig(L, batch_size=10)
  same = curves.standardised(encoder, source, cfg, num_rows=50)  # an epoch
  found_NxL = same.embed(same.params, tokens_NxL, tokens_NxL >= 0)
  std_L = tokens_NxL.std(axis=0)
  expected_NxL = (tokens_NxL - tokens_NxL.mean(axis=0)) / std_L
  expected_NxL[:, 2] = 0.0  # says nothing, and is divided by nothing
  np.testing.assert_allclose(found_NxL, expected_NxL, atol=1e-4)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A published model and a text."""
  path = tmp_path_factory.mktemp('published')
  published_models.save(path / 'tiny', LLAMA, published_models.weights(LLAMA))
  words = [f'w{i}' for i in range(published_models.V - 1)]
  rng = np.random.default_rng(0)
  lines = [
      json.dumps({'text': ' '.join(rng.choice(words, 12))}) for _ in range(99)
  ]
  (path / 'run/checkpoints/3').mkdir(parents=True)  # looks like one of ours
  (path / 'run/config.json').write_text('{}')
  (path / 'text.jsonl').write_text('\n'.join(lines))
  return path


def test_program(folder, tmp_path):
  out = tmp_path / 'out'
  done = programs.run(
      'probe', f'--checkpoint={folder}/tiny', f'--text={folder}/text.jsonl',
      f'--workdir={out}', '--length=6', '--position=5', '--block=1',
      '--untrained', '--budget=1', '--budget=3', '--batch_size=8', '--width=16',
      '--heads=2', '--layers=1',
  )
  tree = json.loads((out / 'probe.json').read_text())
  assert tree['subject'] == {
      'name': 'tiny', 'family': 'decoder', 'step': None, 'length': 6,
      'position': 5, 'vocab_size': published_models.V,
  }
  assert [(row['encoder'], row['num_steps']) for row in tree['curve']] == [
      ('block 1, untrained', 1), ('block 1', 1),
      ('block 1, untrained', 3), ('block 1', 3),
  ]
  last = tree['curve'][-1]
  assert tree['found'].items() <= last.items()
  assert tree['found']['cross_entropy'] != tree['curve'][-2]['cross_entropy']
  said = f'block 1, 3 steps: recovered {last["recovered_bits"]:.1f} bits'
  assert said in done.stdout
  assert (out / 'probe.png').read_bytes().startswith(b'\x89PNG')


def test_bad_flags_are_one_line(folder, tmp_path):
  out = tmp_path / 'out'
  refused = programs.run(
      'probe', f'--checkpoint={folder}/tiny', f'--text={folder}/text.jsonl',
      f'--workdir={out}', '--length=6', '--position=6', status=2,
  )
  assert 'position must be below the 6 tokens' in refused.stderr
  assert len(refused.stderr.strip().splitlines()) == 1
  assert not out.exists()


@pytest.mark.parametrize(
    'options, said',
    [
        ({}, 'text must be given: a model from files names no data'),
        ({'text': '{}/text.jsonl', 'step': 2}, 'must be None with a published'),
        ({'text': '{}/text.jsonl', 'length': 65}, 'length must be at most 64'),
        ({'text': '{}/text.jsonl', 'gpt2': '{}/tiny'}, 'one of checkpoint and'),
        ({'checkpoint': '{}/none'}, "checkpoint '.*/none' does not exist"),
        ({'checkpoint': '{}/run', 'text': 'a'}, 'text must be None for a run'),
        ({'checkpoint': '{}/run', 'tokenizer': 'bytes'}, 'be None for a run'),
        (
            {'checkpoint': '{}/run/checkpoints/3', 'step': 2},
            'step must be that of the checkpoint, 3, got 2',
        ),
        ({'checkpoint': '{}'}, 'must be the folder of a run .with config.json'),
    ],
)
def test_bad_options(folder, options, said):
  given = {'checkpoint': '{}/tiny'} | options
  given = {
      name: value.format(folder) if isinstance(value, str) else value
      for name, value in given.items()
  }
  with pytest.raises(ValueError, match=said):
    probe_subject.load('unused', **given)
