"""A kind of data and a model family of one's own, in one file, everywhere.

The programs are told of the file by --plugin; nothing else knows it.
"""

import json
import textwrap

import pytest
from programs import run

# Letters that go up by one or two, as documents of eleven letters.
LAB = textwrap.dedent('''
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from iblm_jax import data, models
    from iblm_jax.data import stored
    from iblm_jax.information import EntropyConfig


    @dataclasses.dataclass(frozen=True)
    class StairsConfig:
      num_documents: int = 300
      length: int = 12


    class Letters:
      vocab_size, bos_id, eos_id, pad_id = 9, 0, 0, 0

      def encode(self, text):
        return np.array([ord(c) - 96 for c in text], np.int32)

      def decode(self, ids):
        return ''.join(chr(96 + i) for i in ids if i)


    def make_documents(options):
      rng = np.random.default_rng(5)
      steps = rng.integers(1, 3, (options.num_documents, options.length - 1))
      letters = 1 + np.cumsum(steps, 1) % 8
      ends = np.zeros([options.num_documents, 1], int)
      flat = np.concatenate([letters, ends], 1).ravel()
      return stored.StoredDocuments(
          np.concatenate([[0], flat]).astype(np.uint16),
          np.full(options.num_documents, options.length),
          np.ones(options.num_documents, int),
          vocab_size=9, end_id=0, num_train=200, seed=0,
          context=options.length, unit='stairs')


    data.register(data.Kind(
        'stairs', StairsConfig, make_documents=make_documents,
        make_tokenizer=lambda options: Letters(), default=StairsConfig()))


    @dataclasses.dataclass(frozen=True)
    class PairsConfig:
      """Reads the last two tokens."""
      vocab_size: int
      width: int = 16
      num_layers: int = 1
      entropy: EntropyConfig = EntropyConfig(patch_size=4)


    def init(key, cfg):
      draw = jax.nn.initializers.lecun_normal()
      embed, mix, head = jax.random.split(key, 3)
      return {'embed': draw(embed, (cfg.vocab_size, cfg.width)),
              'mix': {'kernel': draw(mix, (2 * cfg.width, cfg.width))},
              'head': {'kernel': draw(head, (cfg.width, cfg.vocab_size))}}


    def apply(params, tokens_BxL, cfg, **options):
      x_BxLxD = params['embed'][tokens_BxL]
      before_BxLxD = jnp.pad(x_BxLxD, ((0, 0), (1, 0), (0, 0)))[:, :-1]
      both = jnp.concatenate([x_BxLxD, before_BxLxD], -1)
      h_BxLxD = jax.nn.gelu(both @ params['mix']['kernel'])
      logits = h_BxLxD @ params['head']['kernel']
      return models.Outputs(logits, hidden=h_BxLxD[None])


    models.register(models.Family('pairs', PairsConfig, init, apply))
''')

CONFIG = textwrap.dedent('''
    from ml_collections import config_dict

    def get_config(variant='train'):
      c = config_dict.ConfigDict(dict(
          model=dict(family='pairs', vocab_size=9),
          data=dict(kind='stairs', batch_size=16),
          objective=dict(
              method='gapt', weight=0.05, skip_first=0, skip_last=0),
          gate=dict(patience_main=20, patience_aux=20, ema=0.9),
          optimizer=dict(schedule=dict(peak=0.03), weight_decay=0.0),
          train=dict(num_steps=150, log_every=50)))
      if variant == 'certify':
        c.parameterisation = dict(kind='subspace', dims=40)
        c.certificate = dict(
            levels=(5,), tuning_steps=5, alphas=(0.05,), top_k=(1,),
            sample=100, heldout=50)
      return c
''')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
  folder = tmp_path_factory.mktemp('lab')
  (folder / 'stairs_lab.py').write_text(LAB)
  (folder / 'stairs.py').write_text(CONFIG)
  return folder


def start(lab, name, *args, status=0):
  return run(name, *args, '--plugin=stairs_lab', folder=lab, status=status)


@pytest.fixture(scope='module')
def trained(lab):
  start(lab, 'main', '--config=stairs.py', '--workdir=run')
  return lab / 'run'


def test_trains_evaluates_and_resumes(lab, trained):
  found = json.loads((trained / 'summary.json').read_text())
  heldout = found['eval']['heldout']
  # Ten steps of one bit each, of twelve targets; the first and the end are
  # sure once their place is known, which two tokens do not tell.
  assert 10 / 12 * 0.69 < heldout['cross_entropy'] < 1.1
  assert heldout['mbe'] > 0 and found['phases']['num_switches'] > 0
  again = start(lab, 'main', '--config=stairs.py', '--workdir=run')
  assert 'holds this run, finished at step 150' in again.stdout


def test_generates(lab, trained):
  done = start(
      lab, 'generate', '--workdir=run', '--prompt=bdf', '--max_tokens=6'
  )
  text = done.stdout.strip()
  assert text.startswith('bdf') and len(text) > 3
  steps = {
      (ord(b) - ord(a)) % 8 for a, b in zip(text, text[1:], strict=False)
  }
  assert steps <= {1, 2}


def test_is_probed(lab, trained):
  done = start(lab, 'probe', '--workdir=run', '--steps=150', '--length=8')
  _, *lines = done.stdout.splitlines()
  assert lines[0].startswith('control: ')
  assert lines[1] == 'compiling, then 150 steps of 64 sequences of 8 tokens'
  found = json.loads((trained / 'probe.json').read_text())['found']
  # The state of the last position has read two of eight tokens.
  assert 0.5 < found['recovered_bits'] < 8


def test_a_family_without_states_is_not_probed(lab, trained):
  blind = LAB.replace('hidden=h_BxLxD[None]', 'hidden=None')
  (lab / 'blind_lab.py').write_text(blind)
  done = run(
      'probe', '--workdir=run', '--length=8', '--plugin=blind_lab', folder=lab,
      status=2,
  )
  assert "family 'pairs' must return the states of its" in done.stderr
  assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_is_certified_and_verified(lab):
  done = start(
      lab, 'certify', '--config=stairs.py:certify', '--workdir=certified'
  )
  assert 'CERTIFIED' in done.stdout
  done = start(lab, 'certify', '--verify=certified/certificate')
  assert 'verified: certified/certificate' in done.stdout


def test_is_compiled_and_its_fields_listed(lab):
  done = start(
      lab, 'main', '--config=stairs.py', '--workdir=plan', '--compile_only'
  )
  assert '800 parameters' in done.stdout
  done = start(lab, 'main', '--config=stairs.py', '--help_config')
  assert '--config.model.width=16  int' in done.stdout
  assert '--config.data.stairs.length=12  int' in done.stdout


def test_without_the_file_one_line_says_what_is_missing(lab, trained):
  done = run('generate', '--workdir=run', folder=lab, status=2)
  (line,) = done.stderr.strip().splitlines()
  assert "model.family 'pairs' must be one of ('decoder'" in line
  assert line.endswith('name it with --plugin=MODULE.')
