"""A family of one's own: this file defines it, and no other file knows it."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import generate, models, training
from iblm_jax.certification import pipeline as certification
from iblm_jax.data.sources import markov
from iblm_jax.information import entropy as entropy_lib
from iblm_jax.models import families, flops
from iblm_jax.models.generation import full_forward
from iblm_jax.probing import decoder_probe as probing
from iblm_jax.training import config

VOCAB, LENGTH = 4, 12


@dataclasses.dataclass(frozen=True)
class GruConfig:
  """A recurrent network of one gate, layer upon layer."""

  vocab_size: int
  width: int = 8
  num_layers: int = 2
  entropy: entropy_lib.EntropyConfig = entropy_lib.EntropyConfig(patch_size=4)


def init(key, cfg):
  draw = jax.nn.initializers.lecun_normal()
  embed, head, *layers = jax.random.split(key, 2 + cfg.num_layers)
  d = cfg.width
  return {
      'embed': draw(embed, (cfg.vocab_size, d)),
      'layers': [{'kernel': draw(layer, (2 * d, 2 * d))} for layer in layers],
      'head': {'kernel': draw(head, (d, cfg.vocab_size))},
  }


def apply(params, tokens_BxL, cfg, **options):
  del options  # it reads whole rows, and always shows its states
  x_BxLxD = params['embed'][tokens_BxL]
  states = []
  for layer in params['layers']:

    def step(h_BxD, x_BxD, kernel=layer['kernel']):
      both = jnp.concatenate([h_BxD, x_BxD], axis=-1) @ kernel
      gate, new = jnp.split(both, 2, axis=-1)
      gate = jax.nn.sigmoid(gate)
      h_BxD = gate * h_BxD + (1 - gate) * jnp.tanh(new)
      return h_BxD, h_BxD

    xs_LxBxD = x_BxLxD.swapaxes(0, 1)
    _, h_LxBxD = jax.lax.scan(step, jnp.zeros_like(xs_LxBxD[0]), xs_LxBxD)
    x_BxLxD = x_BxLxD + h_LxBxD.swapaxes(0, 1)
    states.append(x_BxLxD)
  logits_BxLxV = x_BxLxD @ params['head']['kernel']
  return models.Outputs(logits_BxLxV, hidden=jnp.stack(states))


GRU = models.Family('gru', GruConfig, init, apply)
CONFIG = {
    'model': {'family': 'gru', 'vocab_size': VOCAB, 'width': 16},
    'data': {
        'kind': 'markov', 'batch_size': 16,
        'markov': {
            'vocab_size': VOCAB, 'length': LENGTH, 'num_heldout': 32,
            'num_topics': 1, 'successors': [1, 2],
        },
    },
    'objective': {
        'method': 'mbe', 'weight': 0.05, 'skip_first': 0, 'skip_last': 0,
    },
    'optimizer': {'schedule': {'peak': 0.03, 'warmup_steps': 1}},
    'train': {'num_steps': 40, 'log_every': 40},
}


@pytest.fixture(scope='module', autouse=True)
def registered():
  """Known in this file alone: other tests list the families."""
  before = dict(families._FAMILIES)
  models.register(GRU)
  yield
  families._FAMILIES.clear()
  families._FAMILIES.update(before)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run of it, and its parameters."""
  workdir = tmp_path_factory.mktemp('gru') / 'run'
  summary = training.train(config.from_dict(CONFIG), workdir)
  cfg = config.read_run(workdir)
  params = training.restore_params(cfg, workdir).params
  return workdir, cfg, summary, params


def test_trains_and_measures_the_entropy_of_its_layers(finished):
  workdir, cfg, summary, params = finished
  assert cfg.model == GruConfig(VOCAB, width=16)
  saved = json.loads((workdir / 'config.json').read_text())
  assert saved['model']['family'] == 'gru'
  found = summary['eval']['heldout']
  assert found['cross_entropy'] < 0.9 * math.log(VOCAB)
  # Whole batches: the mean over them is that over rows.
  source = markov.MarkovSource(cfg.data.markov, 'heldout', 16, 0)
  batches = [source.batch(k) for k in range(2)]
  hidden = [apply(params, b['tokens'], cfg.model).hidden for b in batches]
  for layer in range(2):
    by_hand = [
        entropy_lib.patch_entropy(
            h[layer], patch_size=4, mask=b['mask'],
            segment_ids=b['segment_ids'],
        )
        for h, b in zip(hidden, batches, strict=True)
    ]
    assert found[f'mbe/layer_{layer:02d}'] == pytest.approx(
        float(np.mean(by_hand)), rel=1e-5
    )
  assert found['mbe'] > 0
  assert flops.training_flops_per_token(cfg.model, LENGTH) is None


def test_generates_as_its_logits_say(finished):
  _, cfg, _, params = finished
  prompts = jnp.asarray([[0, 1], [3, 2]])
  samples = generate.sampler(cfg.model)
  assert samples is full_forward
  found = samples.sample(
      params, prompts, cfg.model, jax.random.key(0), num_tokens=5,
      temperature=0.0,
  )
  tokens = np.asarray(prompts)
  for _ in range(5):
    logits = models.apply(params, jnp.asarray(tokens), cfg.model).logits_BxLxV
    tokens = np.concatenate(
        [tokens, np.argmax(logits[:, -1:], axis=-1)], axis=1
    )
  np.testing.assert_array_equal(found, tokens[:, 2:])
  with pytest.raises(ValueError, match='num_tokens must be at least 1, got 0'):
    samples.check_sampling(cfg.model, 2, 0, temperature=0.0, top_k=None)


def test_is_probed(finished):
  _, cfg, _, params = finished
  language = dataclasses.replace(cfg.data.markov, length=3, num_heldout=128)
  sources = [
      markov.MarkovSource(language, split, 64, 0)
      for split in ('train', 'heldout')
  ]
  found = probing.probe(
      probing.of_model(cfg.model, params),
      *sources,
      probing.ProbeConfig(
          length=3, num_layers=1, width=16, num_heads=2, num_steps=150,
          peak=1e-2, num_eval=128,
      ),
  )
  # Its state knows the last token at least.
  assert found['accuracy'] > found['constant/accuracy'] + 0.1
  assert found['recovered_bits'] > 0.5


def test_a_certificate_holds_for_it(tmp_path):
  words = [a + b for a in 'abcdefgh' for b in 'xyzuvw']
  (tmp_path / 'words.txt').write_text('\n'.join(words) + '\n')
  cfg = certification.from_dict({
      **CONFIG,
      'model': {'family': 'gru', 'vocab_size': 27, 'num_layers': 1},
      'data': {
          'kind': 'words', 'batch_size': 8, 'eval_units': 8,
          'words': {
              'path': str(tmp_path / 'words.txt'), 'num_train': 32, 'length': 8,
          },
      },
      'optimizer': {
          'weight_decay': 0.0, 'schedule': {'peak': 0.1, 'warmup_steps': 0},
      },
      'objective': {'method': 'ce', 'measure_entropy': False, 'skip_first': 0,
                    'skip_last': 0},
      'parameterisation': {'kind': 'subspace', 'dims': 8, 'entries': 'sign'},
      'train': {'num_steps': 4, 'log_every': 4},
      'certificate': {'levels': [3], 'tuning_steps': 1, 'alphas': [0.5],
                      'top_k': [1], 'sample': 20, 'heldout': 8},
  })
  found = certification.certify(cfg, tmp_path / 'run', print)
  assert found['heldout']['documents'] == 8
  bound = found['claims'][0]['value']
  assert 0 < bound and math.isfinite(bound)
  assert found['model']['config']['model']['family'] == 'gru'


def test_a_model_that_shows_no_layers(tmp_path):
  """It trains by cross-entropy alone, and what it lacks is said."""

  @dataclasses.dataclass(frozen=True)
  class BagConfig:
    vocab_size: int

  def bag(params, tokens_BxL, cfg, **options):
    del options
    seen = jnp.cumsum(jax.nn.one_hot(tokens_BxL, cfg.vocab_size), axis=1)
    return models.Outputs(seen @ params['counts'])

  models.register(
      models.Family(
          'bag',
          BagConfig,
          lambda key, cfg: {
              'counts': jax.random.normal(key, [cfg.vocab_size] * 2)
          },
          bag,
      )
  )
  tree = {**CONFIG, 'model': {'family': 'bag', 'vocab_size': VOCAB}}
  with pytest.raises(ValueError, match='measure_entropy must be False'):
    config.from_dict(tree)
  tree['objective'] = {'method': 'ce', 'measure_entropy': False}
  tree['train'] = {'num_steps': 2, 'log_every': 2}
  cfg = config.from_dict(tree)
  summary = training.train(cfg, tmp_path / 'run')
  assert 'mbe' not in summary['eval']['heldout']
  params = models.init(jax.random.key(0), cfg.model)
  encoder = probing.of_model(cfg.model, params)
  tokens = jnp.zeros([1, 3], jnp.int32)
  with pytest.raises(ValueError, match="family 'bag' cannot be read"):
    encoder.embed(encoder.params, tokens, tokens == 0)


def test_a_name_or_a_class_belongs_to_one_family():
  models.register(GRU)  # again: nothing changes
  for other in (
      dataclasses.replace(GRU, name='decoder'),
      dataclasses.replace(GRU, name='another'),
  ):
    with pytest.raises(ValueError, match='collides with family'):
      models.register(other)
  with pytest.raises(ValueError, match='registered family'):
    models.init(jax.random.key(0), probing.ProbeConfig(3))
