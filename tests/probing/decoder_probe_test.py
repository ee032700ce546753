"""Probes: what they find where what there is to find is known."""

import json
import math

import gpt2_files
import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest

from iblm_jax.data.sources import markov
from iblm_jax.models import config as model_config
from iblm_jax.models import decoder
from iblm_jax.probing import decoder_probe as probing

V, L = 4, 3
UNIFORM = markov.MarkovConfig(
    vocab_size=V, length=L, uniform=True, num_heldout=256,
    successors=(1, 2), num_topics=1,
)


def sources(length=L, batch_size=64):
  cfg = markov.MarkovConfig(**{**vars(UNIFORM), 'length': length})
  return [
      markov.MarkovSource(cfg, split, batch_size, 0)
      for split in ('train', 'heldout')
  ]


def probe_config(**options):
  return probing.ProbeConfig(
      **{
          'length': L, 'num_layers': 1, 'width': 16, 'num_heads': 2,
          'num_steps': 150, 'peak': 1e-2, 'num_eval': 256, **options,
      }
  )


def one_hot(params, tokens_BxL, mask_BxL):
  """Everything: which token is where."""
  del params, mask_BxL
  return jax.nn.one_hot(tokens_BxL, V).reshape(tokens_BxL.shape[0], -1)


@pytest.fixture(scope='module')
def perfect():
  encoder = probing.Encoder(one_hot, {}, V)
  return probing.probe(encoder, *sources(), probe_config())


def test_an_encoder_that_keeps_everything(perfect):
  assert perfect['accuracy'] > 0.99
  # Nothing but the vector tells anything about uniform tokens.
  assert perfect['constant/cross_entropy'] == pytest.approx(
      math.log(V), abs=0.05
  )
  assert perfect['constant/accuracy'] == pytest.approx(1 / V, abs=0.1)
  assert perfect['recovered_bits'] == pytest.approx(L * math.log2(V), rel=0.05)
  assert perfect['num_tokens'] == L and perfect['tokens'] == 256 * L
  assert perfect['information_fraction'] == pytest.approx(
      1 - perfect['cross_entropy'] / math.log(V), abs=1e-5
  )


def test_entropy_of_the_embeddings(perfect):
  """Against NumPy: eigenvalues of the centred Gram matrix."""
  tokens = np.concatenate(
      [sources()[1].batch(k)['tokens'] for k in range(4)]
  )
  e = np.eye(V)[tokens].reshape(len(tokens), -1)
  values = np.linalg.eigvalsh(np.cov(e.T, bias=True))
  p = values[values > 1e-9] / values.sum()
  assert perfect['mbe'] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-3)
  assert perfect['mbe/order_2'] == pytest.approx(
      -np.log((p**2).sum()), abs=1e-3
  )


def test_an_encoder_that_keeps_nothing(perfect):
  blind = probing.Encoder(
      lambda p, tokens, mask: jnp.ones([tokens.shape[0], 8]), {}, V
  )
  found = probing.probe(
      blind, *sources(), probe_config(num_steps=60),
      control=probing.control_of(perfect),
  )
  assert found['recovered_bits'] == pytest.approx(0, abs=0.3)
  assert found['constant/accuracy'] == perfect['constant/accuracy']


class Counting:
  """Every row is 0, 1, 2: where a token stands says all."""

  batch_size, length, vocab_size = 64, L, V

  def __init__(self, num_eval_batches=None):
    self.num_eval_batches = num_eval_batches

  def batch(self, k, rows=None):
    del k
    size = self.batch_size if rows is None else len(rows)
    tokens = np.broadcast_to(np.arange(L, dtype=np.int32), (size, L))
    return {'tokens': tokens, 'mask': np.ones([size, L], bool)}


@pytest.mark.parametrize('injection', ['unroll', 'repeat'])
def test_what_places_tell_is_not_credited_to_an_embedding(injection):
  vector_E = np.random.default_rng(3).normal(size=8).astype(np.float32)
  same = probing.Encoder(
      lambda p, tokens, mask: jnp.broadcast_to(
          vector_E[None], (tokens.shape[0], 8)
      ),
      {}, V,
  )
  found = probing.probe(
      same, Counting(), Counting(4), probe_config(injection=injection)
  )
  assert found['cross_entropy'] < 0.05
  assert found['recovered_bits'] == pytest.approx(0, abs=0.2)


def test_padding_is_neither_read_nor_counted():
  """The last token of every other sequence is not there."""
  train, heldout = sources()

  class Padded:
    batch_size, length, vocab_size = 64, L, V
    num_eval_batches = 4

    def __init__(self, source):
      self.source = source

    def batch(self, k, rows=None):
      batch = dict(self.source.batch(k, rows))
      mask = batch['mask'].copy()
      mask[::2, -1] = False
      return {**batch, 'mask': mask}

  encoder = probing.Encoder(one_hot, {}, V)
  found = probing.probe(
      encoder, Padded(train), Padded(heldout), probe_config(num_steps=2)
  )
  assert found['tokens'] == 256 * (L - 0.5)


def test_rows_are_cut_into_sequences():
  train, _ = sources(length=2 * L + 1, batch_size=5)
  cfg = probe_config(batch_size=4)
  rows = np.concatenate([train.batch(k)['tokens'] for k in range(2)])
  expected = rows[:, : 2 * L].reshape(-1, L)
  cut = probing.sequences(map(train.batch, range(2)), cfg)
  found = [tokens for tokens, _ in cut]
  assert [len(tokens) for tokens in found] == [4] * 5
  np.testing.assert_array_equal(np.concatenate(found), expected)


def test_position_of_a_model():
  model = model_config.llama(V, num_layers=1, width=8, num_heads=1)
  params = decoder.init(jax.random.key(0), model)
  tokens = jnp.array([[0, 1, 2], [3, 2, 1]])
  mask = jnp.array([[True, True, False], [True, True, True]])
  h, _ = decoder.encode(params, tokens, model)
  for position, places in (
      ('last_valid', (1, 2)), ('penultimate', (0, 1)), ('last', (2, 2))
  ):
    e = probing.of_model(model, params, position).embed(params, tokens, mask)
    row = lambda b, t: h[b, t]
    if position == 'last':  # padding attends to nothing but padding
      np.testing.assert_allclose(e[1], row(1, 2), atol=1e-5)
      continue
    expected = np.stack([row(b, t) for b, t in enumerate(places)])
    np.testing.assert_allclose(e, expected, atol=1e-5)


@pytest.mark.parametrize(
    'options, said',
    [
        ({'num_steps': 0}, 'num_steps must be > 0, got 0'),
        ({'injection': 'both'}, "injection must be one of .* got 'both'"),
    ],
)
def test_bad_config(options, said):
  with pytest.raises(ValueError, match=said):
    probe_config(**options)


def test_rows_must_hold_a_sequence():
  encoder = probing.Encoder(one_hot, {}, V)
  with pytest.raises(ValueError, match='length must be at most .* 3, got 4'):
    probing.probe(encoder, *sources(), probe_config(length=4))


def test_program(tmp_path):
  """Trains an autoencoder, then asks what its vectors hold."""
  run = tmp_path / 'ae'
  programs.run(
      'main', '--config=configs/autoencoder.py:smoke', f'--workdir={run}',
      '--config.train.num_steps=2', '--config.train.eval_every=0',
      '--config.train.checkpoint_every=0',
      '--config.optimizer.schedule.warmup_steps=1',
  )
  probe = lambda *more, **options: programs.run(
      'probe', f'--workdir={run}', '--steps=2', '--width=16',
      '--heads=2', '--layers=1', *more, **options
  )
  done = probe()
  tree = json.loads((run / 'probe.json').read_text())
  assert tree['subject'] == {
      'name': 'ae', 'family': 'autoencoder', 'step': 2, 'length': 16,
      'position': 'last_valid', 'vocab_size': 33,
  }
  assert tree['found']['tokens'] == 64 * 16
  assert f'{tree["found"]["recovered_bits"]:.1f} bits' in done.stdout
  for flag, message in (
      ('--length=8', 'length must be 16'),
      ('--length=0', 'length must be at least 1, got 0'),
      ('--step=1', 'step must be that of a checkpoint'),
      ('--batch_size=65', 'batch_size must be at most 64, sequences of 16'),
  ):
    done = probe(flag, status=2)
    assert message in done.stderr and 'Traceback' not in done.stderr
  missing = f'--workdir={tmp_path / "none"}'
  assert 'holds no run' in programs.run('probe', missing, status=2).stderr


def test_gpt2(tmp_path):
  """Weights and a text from files; the result goes to a folder of its own."""
  folder = gpt2_files.write(tmp_path / 'tiny')
  text = tmp_path / 'text.jsonl'
  documents = ({'text': f'text {i} of a small test'} for i in range(200))
  text.write_text('\n'.join(map(json.dumps, documents)))
  out = tmp_path / 'out'
  probe = lambda *more, **options: programs.run(
      'probe', f'--gpt2={folder}', f'--text={text}', f'--workdir={out}',
      '--steps=2', '--width=16', '--heads=2', '--layers=1', '--batch_size=8',
      *more, **options
  )
  for flags, message in (
      ([], 'tokenizer must be given: there is no'),
      (['--tokenizer=bytes', '--length=33'], 'length must be at most 32'),
      (['--tokenizer=bytes', '--step=3'], 'step must be None with gpt2'),
  ):
    refused = probe(*flags, status=2)
    assert message in refused.stderr and 'Traceback' not in refused.stderr
  assert not out.exists()
  probe('--tokenizer=bytes', '--length=8', '--position=penultimate')
  tree = json.loads((out / 'probe.json').read_text())
  assert tree['subject'] == {
      'name': 'tiny', 'family': 'gpt2', 'step': None, 'length': 8,
      'position': 'penultimate', 'vocab_size': 259,
  }
  assert all(math.isfinite(value) for value in tree['found'].values())
