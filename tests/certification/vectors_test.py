"""Certificates of any vector: they hold, are repeated, and notice changes."""

import dataclasses
import json
import math
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import bounds, certification

V = 5
P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
# The fastest settings that have every part.
FAST = dict(vocab_size=V, levels=(4,), codebook='step', alphas=(0.05, 0.3))


def probabilities(w):
  return np.exp(w) / np.exp(w).sum()


def nll_bits(w, documents):
  """Tokens are independent, with odds exp(w)."""
  bits = -np.log2(probabilities(w.astype(np.float64)))
  return [bits[np.asarray(tokens)] for tokens in documents]


def draw(rng, count):
  """Documents of one to three tokens each."""
  return [
      rng.choice(V, size=rng.integers(1, 4), p=P).tolist()
      for _ in range(count)
  ]


def fitted(documents):
  """Fits the documents at hand as closely as it can."""
  counts = np.bincount(np.concatenate(documents), minlength=V)
  return np.log(0.05 + counts)


def smoothed(w, alpha):
  return -np.log2((1 - alpha) * probabilities(w) + alpha / V)


def decoded(made, levels='step'):
  code = made.tree['code']
  return bounds.decode_values(
      made.code, code['numbers'], code['levels'], 'kt', levels=levels
  ).astype(np.float64)


def complexity(made, claim):
  terms = made.tree['terms'][f'{claim["loss"]}, {claim["kind"]}']['sum']
  return terms['complexity'] + terms.get('resampling', 0.0)


@pytest.mark.parametrize('sample', [None, 12])
def test_it_covers_the_expectation_over_fresh_documents(sample):
  """Fitted to ten documents, on 300 draws of them; the truth is a sum."""
  held, careless = [], []
  for seed in range(300):
    documents = draw(np.random.default_rng([1, seed]), 10)
    made = certification.certify(
        nll_bits, fitted(documents), documents, sample=sample, **FAST
    )
    for claim in made.claims:
      # By definition of the risk: tokens are independent.
      truth = P @ smoothed(decoded(made), claim['alpha'])
      if claim['delta'] is not None:
        held.append(truth <= claim['value'])
        careless.append(truth <= claim['value'] - complexity(made, claim))
  assert len(held) >= 600
  assert np.mean(held) >= 0.95
  assert np.mean(careless) < 0.8


def test_it_covers_the_mean_of_a_list():
  """Thirty of forty documents, drawn without replacement."""
  listed = draw(np.random.default_rng(2), 40)
  population = certification.Population('without replacement', size=40)
  held, careless, unseen = [], [], []
  for seed in range(200):
    order = np.random.default_rng([3, seed]).permutation(40)
    train, rest = ([listed[i] for i in part] for part in (order[:8], order[8:]))
    made = certification.certify(
        nll_bits, fitted(train), train, heldout=rest, population=population,
        headline='log_wealth_finite', **FAST,
    )
    assert made.headline['kind'] == 'log_wealth_finite'
    kinds = {claim['kind']: claim for claim in made.claims}
    assert kinds.keys() == {
        'hoeffding', 'freedman', 'log_wealth', 'serfling',
        'log_wealth_finite', 'counting',
    }
    for kind, claim in kinds.items():
      losses = smoothed(decoded(made), claim['alpha'])
      mean = lambda documents, losses=losses: np.mean(
          [losses[tokens].mean() for tokens in documents]
      )
      held.append(mean(listed) <= claim['value'] + 1e-12)
      unseen.append(mean(rest) <= claim['unseen'] + 1e-12)
      assert made.tree['heldout'][f'bits per token, {kind}'] == pytest.approx(
          mean(rest)
      )
      if kind != 'counting':
        careless.append(
            mean(listed) <= claim['value'] - complexity(made, claim)
        )
  assert np.mean(held) >= 0.95 and unseen == held
  assert np.mean(careless) < 0.8


def make(documents=None, **options):
  documents = documents or draw(np.random.default_rng(4), 60)
  options = {**FAST, 'heldout': draw(np.random.default_rng(5), 20), **options}
  return documents, certification.certify(
      nll_bits, fitted(documents), documents, **options
  )


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'levels': (2, 3, 7), 'codebook': 'kmeans', 'heldout': ()},
        {'sample': 25, 'runs': 3, 'search_bits': 4.5, 'scheme': 'table'},
        {
            'population': certification.Population(
                'without replacement', size=1000, average='of the list',
                unit='word',
            ),
            'headline': 'serfling', 'batch_size': 7,
        },
    ],
)
def test_what_was_saved_is_found_again(tmp_path, options):
  documents, made = make(**options)
  made.save(tmp_path)
  heldout = options.get('heldout', draw(np.random.default_rng(5), 20))
  held = certification.verify(tmp_path, nll_bits, documents, heldout=heldout)
  assert held.tree == made.tree and held.lines() == made.lines()
  assert held.tree['population']['n'] == options.get('sample', 60)
  assert held.tree['code']['search'] == options.get('search_bits', 0.0)
  choices = len(options.get('levels', FAST['levels']))
  assert held.tree['code']['choice'] == math.log2(choices)
  assert sum(line.startswith('CERTIFIED') for line in held.lines()) == 1
  # Losses of a part of the bits that were allowed.
  near = lambda w, some: [row + 5e-5 for row in nll_bits(w, some)]
  certification.verify(tmp_path, near, documents, heldout=heldout)


def test_what_was_changed_is_noticed(tmp_path):
  documents, made = make()
  heldout = draw(np.random.default_rng(5), 20)
  made.save(tmp_path / 'whole')

  def verify(name, nll=nll_bits, train=documents, held=heldout):
    return certification.verify(tmp_path / name, nll, train, heldout=held)

  verify('whole')
  worse = lambda w, some: [row + 2e-4 for row in nll_bits(w, some)]
  for options, said in (
      ({'nll': worse}, 'losses here by 0.0001'),
      ({'train': documents[::-1]}, r'hashes\.data'),
      ({'train': documents[1:]}, r'hashes\.data'),
      ({'held': heldout[1:]}, r'hashes\.data'),
  ):
    with pytest.raises(certification.Mismatch, match=said):
      verify('whole', **options)
  for path, value, said in (
      (('claims', 1, 'value'), 1.0, r'claims\.1\.value is 1\.0 in'),
      (('population', 'average'), 'all texts', r'hashes\.parts\.population'),
      (('population', 'size'), 70, r'size must be|claims|population'),
      (('model', 'certificate', 'delta'), 0.5, r'hashes\.parts\.model'),
      (('code', 'search'), 1.0, r'code\.search is 1\.0'),
      (('code', 'levels'), 3, r'levels must be one of \(4,\).*got 3'),
  ):
    shutil.copytree(tmp_path / 'whole', tmp_path / 'other')
    tree = json.loads((tmp_path / 'other' / 'certificate.json').read_text())
    *parents, last = path
    node = tree
    for name in parents:
      node = node[name]
    node[last] = value
    (tmp_path / 'other' / 'certificate.json').write_text(json.dumps(tree))
    with pytest.raises((certification.Mismatch, ValueError), match=said):
      verify('other')
    shutil.rmtree(tmp_path / 'other')
  code = bytearray(made.code)
  code[-1] ^= 1
  (tmp_path / 'whole' / 'code.bin').write_bytes(code)
  with pytest.raises(certification.Mismatch, match=r'hashes\.code'):
    verify('whole')
  (tmp_path / 'whole' / 'certificate.json').write_text('[]')
  with pytest.raises(ValueError, match='holds no certificate'):
    verify('whole')
  with pytest.raises(ValueError, match=r'must hold certificate\.json'):
    verify('nothing')


def test_documents_are_hashed_for_what_they_say():
  texts = ['ab', 'c']
  both = lambda w, some: [np.full(len(text), 1.0) for text in some]
  hashed = lambda documents, **options: certification.certify(
      both, [0.5], documents, vocab_size=4, levels=(2,), **options
  ).tree['hashes']['data']
  assert hashed(texts) == hashed(tuple(texts))
  assert hashed([b'ab', b'c']) != hashed(texts) != hashed(['a', 'bc'])
  assert hashed([[1, 2], [3]]) == hashed(
      [np.array([1, 2], np.int16), jnp.array([3])]
  )
  assert hashed([{'text': 'ab', 'page': 3}]) != hashed([{'text': 'ab'}])
  assert hashed([('a', 2.5, (1, 'b'))]) != hashed([('a', 2.5, (1, 'c'))])

  @dataclasses.dataclass
  class Page:
    text: str

    def __len__(self):
      return len(self.text)

  with pytest.raises(ValueError, match='hash_document must be .* Page'):
    hashed([Page('ab')])
  as_bytes = lambda page: page.text.encode()
  assert hashed([Page('ab')], hash_document=as_bytes) != hashed(
      [Page('ac')], hash_document=as_bytes
  )


def test_impossible_tokens_cost_what_smoothing_lets_them():
  never = lambda w, some: [np.array([0.0, np.inf]) for _ in some]
  made = certification.certify(
      never, [1.0], [0, 1, 2], vocab_size=4, levels=(2,), alphas=(0.5,)
  )
  # 1/2 + 1/8 and 1/8 of the probability.
  assert made.headline['empirical'] == pytest.approx((math.log2(8 / 5) + 3) / 2)


def test_a_hook_trains_through_the_rounding():
  """What comes out of it is what is coded."""
  seen = []

  def tune(w, values):
    seen.append((w.copy(), values.copy()))
    return -w, -values

  documents, _ = make()
  made = certification.certify(
      nll_bits, [1.0, -1.0, 0.5, 1.0, -1.0], documents, vocab_size=V,
      levels=(3,), tune=tune,
  )
  assert len(seen) == 1 and seen[0][0].dtype == np.float32
  np.testing.assert_allclose(
      decoded(made, 'codebook'), [-1.0, 1.0, -0.5, -1.0, 1.0], atol=1e-3
  )


@pytest.mark.parametrize(
    'options, said',
    [
        ({'documents': []}, 'documents must hold at least one'),
        ({'vocab_size': 1}, 'vocab_size must be an integer >= 2, got 1'),
        ({'w': [[1.0]]}, 'w must be a vector'),
        ({'w': [np.nan]}, 'w must be finite, got nan'),
        ({'delta': 0.0}, 'delta must be strictly between 0 and 1'),
        ({'levels': ()}, 'levels must be'),
        ({'levels': (1,)}, 'levels must be .* between 2 and 4096'),
        ({'headline': 'best'}, 'headline must be one of'),
        ({'headline': 'serfling'}, 'part of a finite list'),
        ({'headline': 'freedman', 'sample': 3}, 'needs sample=None'),
        ({'batch_size': 0}, 'batch_size must be an integer >= 1'),
        (
            {'population': certification.Population(
                'without replacement', size=2)},
            'population.size must be at least .* 3 held-out ones incl.* got 2',
        ),
        ({'nll_bits': lambda w, some: [[1.0]]}, 'each of 3 documents, got 1'),
        ({'nll_bits': lambda w, some: [[-0.1]] * 3}, 'number >= 0'),
        ({'nll_bits': lambda w, some: [[np.nan]] * 3}, 'number >= 0'),
        ({'nll_bits': lambda w, some: [[]] * 3}, 'at least one number'),
        ({'nll_bits': lambda w, some: [1.0] * 3}, 'a vector of at least'),
    ],
)
def test_bad_input(options, said):
  given = {
      'nll_bits': lambda w, some: [[1.0]] * len(some), 'w': [0.5],
      'documents': ['a', 'b', 'c'], 'vocab_size': 4, 'levels': (2,),
  }
  given |= options
  with pytest.raises(ValueError, match=said):
    certification.certify(**given)


@pytest.mark.parametrize(
    'options, said',
    [
        ({'sampling': 'random'}, "sampling must be .*'iid' or 'without"),
        ({'size': 7}, "size=7 with sampling='iid'"),
        ({'sampling': 'without replacement'}, 'size=None with'),
        (
            {'sampling': 'without replacement', 'size': 0},
            'size must be >= 1, got 0',
        ),
    ],
)
def test_bad_populations(options, said):
  with pytest.raises(ValueError, match=said):
    certification.Population(**options)


def test_it_needs_no_library_of_models():
  """Whoever certifies a vector of their own need not import ours."""
  program = (
      'import sys, iblm_jax.certification\n'
      'names = {name.partition(".")[0] for name in sys.modules}\n'
      'print(names & {"flax", "optax", "orbax", "grain", "ml_collections"})\n'
  )
  done = subprocess.run(
      [sys.executable, '-c', program], check=True, capture_output=True,
      text=True, cwd=pathlib.Path(__file__).parents[2],
  )
  assert done.stdout.strip() == 'set()'
