"""Smoothed losses, ranks and top-k errors against loops in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import bounds

V = 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 5, V)).round(1).astype(np.float32)
TOKENS = RNG.integers(0, V, (4, 5))
MASK = np.arange(5) < np.array([5, 3, 1, 0])[:, None]
ALPHAS = (0.001, 0.1, 0.5)


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


LOGP = np.take_along_axis(
    log_softmax(LOGITS.astype(np.float64)), TOKENS[..., None], -1
)[..., 0]


def expected_losses():
  rows = []
  for alpha in ALPHAS:
    row = []
    for logp, mask in zip(LOGP, MASK, strict=True):
      p = [(1 - alpha) * math.exp(x) + alpha / V for x in logp[mask]]
      row.append(sum(-math.log2(x) for x in p) / len(p) if p else math.inf)
    rows.append(row)
  return rows


def test_losses_of_documents_on_the_host_and_in_jit():
  # What is not scored is not looked at.
  logp = np.where(MASK, LOGP, np.nan)
  host = bounds.doc_losses(logp, MASK, ALPHAS, V)
  assert host.shape == (3, 4) and host.dtype == np.float64
  np.testing.assert_allclose(host, expected_losses(), rtol=1e-12)

  @jax.jit
  def run(logp, mask, logits, tokens):
    ranks = bounds.rank_of_target(logits, tokens)
    losses = bounds.doc_losses(logp, mask, ALPHAS, V)
    return losses, ranks, bounds.top_k_errors(ranks, mask, (1, 3))

  losses, ranks, errors = run(jnp.float32(logp), MASK, LOGITS, TOKENS)
  assert losses.dtype == errors.dtype == jnp.float32
  np.testing.assert_allclose(losses, expected_losses(), rtol=1e-6)
  np.testing.assert_array_equal(ranks, bounds.rank_of_target(LOGITS, TOKENS))
  np.testing.assert_allclose(
      errors, bounds.top_k_errors(np.array(ranks), MASK, (1, 3)), rtol=1e-6
  )


def test_losses_stay_in_their_interval():
  logp = np.array([-np.inf, -1e4, -50.0, -1.0, -1e-9, 0.0])
  for alpha in ALPHAS:
    lo, hi, _ = bounds.smooth_range(alpha, V)
    bits = bounds.smoothed_nll_bits(logp, alpha, V)
    assert bits.min() == pytest.approx(lo) and bits.max() == pytest.approx(hi)
    assert (np.diff(bits) <= 0).all()


def test_half_precision_is_computed_in_float32():
  half = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
  bits = jax.eval_shape(lambda x: bounds.smoothed_nll_bits(x, 0.1, 9), half)
  assert bits.dtype == jnp.float32


def test_ranks_by_counting():
  ranks = bounds.rank_of_target(LOGITS, TOKENS)
  assert ranks.dtype == np.int32
  for index in np.ndindex(4, 5):
    others = np.delete(LOGITS[index], TOKENS[index])
    expected = (others >= LOGITS[index][TOKENS[index]]).sum()
    assert ranks[index] == expected


def test_ties_and_nan_count_against_the_model():
  same = np.zeros((1, V), np.float32)
  assert bounds.rank_of_target(same, np.array([2])) == V - 1
  nan = np.full((1, V), np.nan, np.float32)
  assert bounds.rank_of_target(nan, np.array([2])) == V - 1
  one = np.array([[0.0, np.nan, 1.0]], np.float32)
  assert bounds.rank_of_target(one, np.array([2])) == 1
  assert bounds.rank_of_target(one, np.array([1])) == 2


def test_top_k_errors_by_counting():
  ranks = bounds.rank_of_target(LOGITS, TOKENS)
  errors = bounds.top_k_errors(ranks, MASK, range(1, V + 1))
  for k, row in enumerate(errors, start=1):
    for value, rank, mask in zip(row, ranks, MASK, strict=True):
      scored = rank[mask].tolist()
      expected = (
          sum(r >= k for r in scored) / len(scored) if scored else math.inf
      )
      assert value == pytest.approx(expected)
  np.testing.assert_array_equal(errors[-1], [0, 0, 0, np.inf])


def test_a_document_without_tokens_is_refused_by_the_bounds():
  losses = bounds.doc_losses(LOGP, MASK, [0.1], V)[0]
  lo, _, delta = bounds.smooth_range(0.1, V)
  with pytest.raises(ValueError, match='losses must be finite.*index 3'):
    bounds.occam_logwealth(losses, lo, delta, 10, 4, 0.05)
  with pytest.raises(ValueError, match='risk must be a finite number'):
    bounds.occam_hoeffding(losses.mean(), 10, 4, delta, 0.05)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: bounds.smooth_range(0.0, 9), r'alpha must .*\(0, 1\), got 0'),
        (lambda: bounds.smooth_range(1, 9), 'alpha must'),
        (lambda: bounds.smooth_range(0.1, 1), 'V must be an integer >= 2'),
        (
            lambda: bounds.smoothed_nll_bits(TOKENS, 0.1, V),
            'logp must be floating',
        ),
        (lambda: bounds.doc_losses(LOGP, MASK, [], V), 'alphas must hold'),
        (lambda: bounds.doc_losses(LOGP, MASK, [2.0], V), 'alphas must be'),
        (lambda: bounds.doc_losses(LOGP, MASK[:1], [0.1], V), 'mask must be'),
        (lambda: bounds.doc_losses(LOGP, TOKENS, [0.1], V), 'mask must be'),
        (lambda: bounds.doc_losses(LOGP[0], MASK, [0.1], V), r'\[N, T\]'),
        (lambda: bounds.rank_of_target(TOKENS, TOKENS), 'logits must be'),
        (lambda: bounds.rank_of_target(LOGITS, LOGP), 'y must be integer'),
        (lambda: bounds.rank_of_target(LOGITS, TOKENS[0]), 'y must be integer'),
        (lambda: bounds.top_k_errors(TOKENS, MASK, [0]), 'ks must be'),
        (lambda: bounds.top_k_errors(TOKENS, MASK, []), 'ks must hold'),
        (lambda: bounds.top_k_errors(LOGP, MASK, [1]), 'ranks must be'),
    ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()
