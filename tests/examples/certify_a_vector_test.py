"""The example's claims are those of the chain that made its words."""

import hashlib
import pathlib
import runpy

import numpy as np
import pytest

from iblm_jax import bounds

PATH = pathlib.Path(__file__).parents[2] / 'examples' / 'certify_a_vector.py'


@pytest.fixture(scope='module')
def example():
  return runpy.run_path(str(PATH))


def decoded(made):
  code = made.tree['code']
  return bounds.decode_values(
      made.code, code['numbers'], code['levels'], 'kt', levels='codebook'
  )


def true_risk(made, chain, alpha):
  """Expectation over words of the mean bits of a letter, summed by hand."""
  logits = decoded(made).astype(np.float64).reshape(8, 8)
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  bits = -np.log2((1 - alpha) * p + alpha / 8)
  state, total = np.eye(8)[0], 0.0
  for _ in range(11):
    total += state @ (chain * bits).sum(axis=1)
    state = state @ chain
  return total / 11


def test_it_fits_on_a_page_and_stands_there():
  program = PATH.read_text()
  assert len(program.splitlines()) <= 15
  page = (PATH.parents[1] / 'docs' / 'certificates.md').read_text()
  assert f'```python\n{program}```' in page


def test_the_page_quotes_what_it_prints(example):
  page = (PATH.parents[1] / 'docs' / 'certificates.md').read_text()
  (line,) = (x for x in example['made'].lines() if x.startswith('CERTIFIED'))
  assert line in ' '.join(page.split())


def test_no_claim_is_below_the_true_risk(example):
  made = example['made']
  assert {claim['kind'] for claim in made.claims} == {
      'hoeffding', 'freedman', 'log_wealth'
  }
  for claim in made.claims:
    truth = true_risk(made, example['chain'], claim['alpha'])
    # 5,000 words: the empirical mean is near the truth, the bound above it.
    assert claim['empirical'] == pytest.approx(truth, abs=0.03)
    assert truth < claim['value'] < claim['trivial'] == 3.0
    name = f'bits per token, {claim["kind"]}'
    assert made.tree['heldout'][name] == pytest.approx(truth, abs=0.06)


def test_the_headline_is_its_formula(example):
  """Log-wealth over its grid, for each smoothing, from the decoded bits."""
  made, words = example['made'], example['words'][:5000]
  p = np.exp(decoded(made).astype(np.float64).reshape(8, 8))
  p /= p.sum(axis=1, keepdims=True)
  p_NxT = p[words[:, :-1], words[:, 1:]]
  size = 8 * len(made.code)
  bits = size + 2 * int(np.floor(np.log2(size))) + 1
  grid = bounds.GRID_T
  nats = bits * np.log(2) + np.log(len(grid) * len(bounds.ALPHAS) / 0.05)
  found = []
  for alpha in bounds.ALPHAS:
    x_N = -np.log2((1 - alpha) * p_NxT + alpha / 8).mean(axis=1)
    low, high = -np.log2(1 - alpha + alpha / 8), np.log2(8 / alpha)
    x_N = (x_N - low) / (high - low)
    found += [
        low + (high - low) / t * (
            1 - np.exp(np.log1p(-t * x_N).mean() - nats / 5000)
        )
        for t in grid
    ]
  assert made.headline['value'] == pytest.approx(min(found), rel=1e-7)
  assert made.headline['kind'] == 'log_wealth'
  assert made.tree['code']['total'] == pytest.approx(bits)


def test_hashes_are_those_of_the_vector_and_the_code(example):
  made = example['made']
  for name, data in ('code', made.code), ('decoded', decoded(made).tobytes()):
    assert made.tree['hashes'][name] == hashlib.sha256(data).hexdigest()
