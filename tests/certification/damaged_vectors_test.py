"""Certificates of vectors: impossible losses, and files that are damaged."""

import hostile_certificates as hostile
import numpy as np
import pytest

from iblm_jax import certification

V = 5
FAST = dict(vocab_size=V, levels=(4,), codebook='step', alphas=(0.05, 0.3))


def nll_bits(w, documents):
  """Tokens are independent, with odds exp(w)."""
  odds = np.exp(w.astype(np.float64))
  bits = -np.log2(odds / odds.sum())
  return [bits[np.asarray(tokens)] for tokens in documents]


def draw(seed, count):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, V, rng.integers(1, 4)).tolist() for _ in range(count)]


DOCUMENTS, HELDOUT = draw(4, 60), draw(5, 20)
W = np.log(0.05 + np.bincount(np.concatenate(DOCUMENTS), minlength=V))


def make(nll=nll_bits, **options):
  options = {**FAST, 'heldout': HELDOUT, **options}
  return certification.certify(nll, W, DOCUMENTS, **options)


def verify(folder, nll=nll_bits, **options):
  return certification.verify(
      folder, nll, DOCUMENTS, heldout=HELDOUT, **options
  )


def test_a_loss_that_is_not_deterministic(tmp_path):
  rng = np.random.default_rng(0)
  noisy = lambda w, some: [
      row + 1e-3 * rng.random(row.size) for row in nll_bits(w, some)
  ]
  with pytest.raises(ValueError, match='deterministic, but asked twice for'):
    make(noisy)
  make().save(tmp_path)
  with pytest.raises(ValueError, match='deterministic, but asked twice for'):
    verify(tmp_path, noisy)


def test_a_sample_larger_than_what_there_is():
  said = []
  make(sample=61, report=said.append)
  assert 'sample=61 draws some of the 60 documents more than once' in said[0]
  make(sample=60, report=said.append)
  assert sum('more than once' in line for line in said) == 1
  listed = certification.Population('without replacement', size=90)
  with pytest.raises(ValueError, match='size of the list, 90, got 91; None'):
    make(sample=91, population=listed)


def test_what_was_found_here_is_said(tmp_path):
  """Losses lowered within the tolerance; what comes of them is not said."""
  made = make()
  near = lambda w, some: [row - 0.9e-4 for row in nll_bits(w, some)]
  lowered = make(near)
  lowered.save(tmp_path)
  said = []
  found = verify(tmp_path, report=said.append)
  assert found.claims == made.claims
  for old, new in zip(lowered.claims, found.claims, strict=True):
    assert old['value'] < new['value'] - 1e-5
  claim, word = said
  assert 'delta = 0.05; 2.3219 by guessing; m = 60 units' in claim
  assert 'the word of its author: units drawn iid; headline log_wealth' in word


@pytest.mark.parametrize(
    'path, value, said',
    [
        (('code', 'numbers'), 10**12, 'numbers of the code must be at most 1,'),
        (('code', 'numbers'), 6, 'losses here by|damaged'),
        (('code', 'levels'), None, r'code\.levels is of type NoneType'),
        (('population', 'V'), '5', r'population\.V is of type str'),
        (('population', 'sampling'), 'all', "sampling must be .*'iid'"),
        (('population', 'size'), 7, "size=7 with sampling='iid'"),
        (('model', 'certificate', 'delta'), 2, 'delta must be strictly'),
        (('model', 'certificate', 'levels'), {}, 'levels must be'),
        (('model', 'certificate', 'audit'), None, "argument 'audit'"),
        (('model', 'certificate', 'sample'), 10**11, r'\(2, 60\), \(2, 1000'),
        (('model', 'config'), {}, 'is about a run, .*iblm-certify --verify'),
        (('heldout',), None, 'heldout is of type NoneType'),
    ],
)
def test_damaged_in_one_line(tmp_path, path, value, said):
  make().save(tmp_path)
  tree = hostile.read(tmp_path)
  *parents, last = path
  node = tree
  for name in parents:
    node = node[name]
  node[last] = value
  hostile.write(tmp_path, tree)
  with pytest.raises(
      (ValueError, certification.Mismatch), match=said
  ) as found:
    verify(tmp_path)
  assert '\n' not in str(found.value) and len(str(found.value)) < 800


def test_words_of_the_author_are_not_among_those_of_the_program(tmp_path):
  population = certification.Population(
      average='mean\nover ' + 99 * 'all ', unit='audited; delta = 0'
  )
  make(population=population).save(tmp_path)
  said = []
  verify(tmp_path, report=said.append)
  claim, word = said
  assert 'audited' not in claim and 'over' not in claim
  assert word.startswith('the word of its author: units drawn iid; headline')
  assert 'a unit is: audited; delta = 0; what is bounded' in word
  assert r'mean\nover all' in word and word.endswith(' ...') and len(word) < 900
