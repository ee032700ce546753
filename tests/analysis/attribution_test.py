"""Attribution against NumPy written from the definitions, and exact cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.analysis import attribution

METRICS = ('l1', 'cosine', 'nll')


def logits_pair(seed=0, batch=3, length=5, vocab=6):
  rng = np.random.default_rng(seed)
  first = rng.normal(size=(batch, length, vocab)).astype(np.float32)
  second = rng.normal(size=(batch, length, vocab)).astype(np.float32)
  targets = rng.integers(vocab, size=(batch, length))
  mask = rng.random((batch, length)) < 0.6
  return first, second, targets, mask


jitted_occlusion = jax.jit(
    attribution.occlusion, static_argnames='metric'
)


def occlusion(first, second, targets, mask, metric):
  got = jitted_occlusion(
      *map(jnp.asarray, (first, second, targets, mask)), metric=metric
  )
  assert got.dtype == jnp.float32 and got.shape == mask.shape
  return np.asarray(got)


def expected_occlusion(first, second, targets, mask, metric):
  score = np.zeros(mask.shape)
  for place in zip(*np.nonzero(mask), strict=True):
    a, b = (np.asarray(x[place], np.float64) for x in (first, second))
    t = targets[place]
    if metric == 'l1':
      score[place] = sum(abs(x - y) for x, y in zip(a, b, strict=True))
    elif metric == 'cosine':
      score[place] = 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    else:
      nll_a, nll_b = (np.log(np.exp(x).sum()) - x[t] for x in (a, b))
      score[place] = abs(nll_a - nll_b)
  return score


@pytest.mark.parametrize('metric', METRICS)
def test_occlusion_is_the_definition(metric):
  case = logits_pair()
  got = occlusion(*case, metric)
  want = expected_occlusion(*case, metric)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert (want[case[-1]] > 0).all() and not got[~case[-1]].any()


def test_occlusion_without_metric_is_l1():
  case = logits_pair()
  got = attribution.occlusion(*map(jnp.asarray, case))
  np.testing.assert_allclose(got, occlusion(*case, 'l1'), rtol=1e-6)


@pytest.mark.parametrize('metric', METRICS)
def test_a_memory_that_is_not_read_scores_zero(metric):
  first, _, targets, mask = logits_pair()
  assert not occlusion(first, first, targets, mask, metric).any()


@pytest.mark.parametrize('metric', METRICS)
def test_occlusion_is_symmetric_and_ignores_padding(metric):
  first, second, targets, mask = logits_pair()
  want = occlusion(first, second, targets, mask, metric)
  np.testing.assert_allclose(
      occlusion(second, first, targets, mask, metric), want, rtol=1e-6
  )
  extend = lambda x, value: np.concatenate(
      [np.full_like(x, value), x, np.full_like(x, value)], axis=1
  )
  longer = occlusion(
      extend(first, np.nan), extend(second, 7.0), extend(targets, 0),
      extend(mask, False), metric,
  )
  np.testing.assert_allclose(longer, extend(want, 0.0), rtol=1e-6)


def test_what_the_metrics_do_not_see():
  first, second, targets, mask = logits_pair()
  score = lambda first, metric: occlusion(first, second, targets, mask, metric)
  # The cosine does not see the scale of the logits.
  np.testing.assert_allclose(
      score(5 * first, 'cosine'), score(first, 'cosine'), rtol=1e-5
  )
  # The nll does not see what the softmax does not; the other two do.
  moved = first + 3
  np.testing.assert_allclose(
      score(moved, 'nll'), score(first, 'nll'), rtol=1e-4, atol=1e-5
  )
  for metric in ('l1', 'cosine'):
    assert np.abs(score(moved, metric) - score(first, metric)).max() > 0.1


def test_cosine_of_nearly_equal_logits_keeps_its_digits():
  """1 - cos of an angle of 1e-4 is 5e-9, below the rounding of 1 - x."""
  angle = 1e-4
  first = np.array([[[1.0, 0.0]]], np.float32)
  second = np.array([[[np.cos(angle), np.sin(angle)]]], np.float32)
  ones = np.ones((1, 1), bool)
  got = occlusion(first, second, np.zeros((1, 1), int), ones, 'cosine')
  assert got[0, 0] == pytest.approx(angle**2 / 2, rel=1e-3)
  zeros = np.zeros_like(first)
  zero = lambda a: occlusion(a, zeros, np.zeros((1, 1), int), ones, 'cosine')
  assert zero(zeros)[0, 0] == 0 and zero(first)[0, 0] == 0.5


def test_occlusion_refuses():
  case = [*map(jnp.asarray, logits_pair())]
  with pytest.raises(ValueError, match="metric must be one of .* got 'l2'"):
    attribution.occlusion(*case, 'l2')
  case[1] = case[1][:, :, :5]
  with pytest.raises(ValueError, match=r'one shape \[B, L, V\]'):
    attribution.occlusion(*case)


def test_scaled_scores():
  rng = np.random.default_rng(0)
  score = (5 + rng.normal(size=(6, 9))).astype(np.float32)
  mask = rng.random((6, 9)) < 0.6
  mask[4] = False
  score[5] = 2.5
  got = np.asarray(attribution.scale_scores(*map(jnp.asarray, (score, mask))))
  for b in range(6):
    kept = score[b, mask[b]].astype(np.float64)
    assert not got[b, ~mask[b]].any()
    if b < 4:
      want = (kept - kept.min()) / (kept.max() - kept.min())
      np.testing.assert_allclose(got[b, mask[b]], want, rtol=1e-5, atol=1e-6)
      assert 1 - 1e-6 < got[b].max() <= 1 and got[b, mask[b]].min() == 0
  assert not got[4:].any()


def test_scaled_scores_ignore_padding_scale_and_offset():
  score = jnp.array([[-1.0, 2.0, 4.0]])
  scale = attribution.scale_scores
  want = scale(score, jnp.ones((1, 3), bool))
  np.testing.assert_allclose(want, [[0.0, 0.6, 1.0]], rtol=1e-6)
  np.testing.assert_allclose(
      scale(8 * score - 3, jnp.ones((1, 3), bool)), want, rtol=1e-6
  )
  padded = jnp.array([[jnp.nan, -1.0, 2.0, jnp.inf, 4.0]])
  mask = jnp.array([[False, True, True, False, True]])
  np.testing.assert_allclose(
      scale(padded, mask), [[0.0, 0.0, 0.6, 0.0, 1.0]], rtol=1e-6
  )


def test_scaled_scores_do_not_hide_nan():
  mask = jnp.ones((2, 2), bool)
  got = attribution.scale_scores(jnp.array([[1.0, jnp.nan], [1, 3]]), mask)
  assert np.isnan(got[0]).all() and got[1].tolist() == [0, 1]


VOCAB = 7
TABLES = np.random.default_rng(9).normal(size=(2, VOCAB + 1, VOCAB))


def causal_nll(tokens, mask):
  """nll [B, L] of each valid token after the valid token before it."""
  nll = np.zeros(mask.shape)
  for b, row in enumerate(tokens):
    last = VOCAB
    for t in np.nonzero(mask[b])[0]:
      logits = TABLES[0, last]
      nll[b, t] = np.log(np.exp(logits).sum()) - logits[row[t]]
      last = row[t]
  return nll


def nll_of(tokens_BxL, mask_BxL, *, oracle):
  """Summed nll; an oracle's memory is the mean over the whole row."""
  table = jnp.asarray(TABLES, jnp.float32)
  place = jnp.where(mask_BxL, jnp.arange(mask_BxL.shape[1])[None], -1)
  latest = jax.lax.cummax(place, axis=1)
  before = jnp.pad(latest, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  previous = jnp.take_along_axis(tokens_BxL, jnp.maximum(before, 0), axis=1)
  logits = table[0][jnp.where(before < 0, VOCAB, previous)]
  if oracle:
    memory = jnp.where(mask_BxL[..., None], table[1][tokens_BxL], 0.0)
    count = jnp.sum(mask_BxL, axis=1)  # 0 / 0 = NaN in an empty row
    mean = jnp.sum(memory, axis=1) / count[:, None]
    logits = logits + jnp.tanh(mean)[:, None]
  nll = -jax.nn.log_softmax(logits)
  nll = jnp.take_along_axis(nll, tokens_BxL[..., None], axis=-1)[..., 0]
  return jnp.sum(jnp.where(mask_BxL, nll, 0.0), axis=1)


def oracle_total(row):
  """The oracle's summed nll of valid tokens alone, in float64."""
  total, last = 0.0, VOCAB
  for token in row:
    logits = TABLES[0, last] + np.tanh(np.mean(TABLES[1, row], axis=0))
    total += np.log(np.exp(logits).sum()) - logits[token]
    last = token
  return total


def batch(kind, seed=0, length=9):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(VOCAB, size=(4, length))
  place, count = np.arange(length), np.array([0, 1, 5, length])[:, None]
  mask = {
      'right': place[None] < count,
      'left': place[None] >= length - count,
      'gaps': rng.random((4, length)) < 0.6,
  }[kind]
  return tokens, mask


@functools.partial(jax.jit, static_argnames='oracle')
def jitted_shift_entropy(tokens_BxL, mask_BxL, oracle):
  return attribution.shift_entropy(
      functools.partial(nll_of, oracle=oracle), tokens_BxL, mask_BxL
  )


def shift_entropy(tokens, mask, *, oracle):
  got = jitted_shift_entropy(
      jnp.asarray(tokens), jnp.asarray(mask), oracle=oracle
  )
  assert got.dtype == jnp.float32 and got.shape == mask.shape
  return np.asarray(got)


@pytest.mark.parametrize('kind', ['right', 'left', 'gaps'])
def test_shift_entropy_of_a_causal_model_is_its_nll(kind):
  tokens, mask = batch(kind)
  got = shift_entropy(tokens, mask, oracle=False)
  want = causal_nll(tokens, mask)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['right', 'left', 'gaps'])
def test_shift_entropy_of_an_oracle_is_the_definition(kind):
  """Each token's share is the price of the text with it minus without it."""
  tokens, mask = batch(kind, seed=1)
  got = shift_entropy(tokens, mask, oracle=True)
  for b in range(4):
    row = tokens[b, mask[b]]
    totals = [oracle_total(row[:n]) for n in range(len(row) + 1)]
    np.testing.assert_allclose(
        got[b, mask[b]], np.diff(totals), rtol=1e-4, atol=1e-4
    )
    assert not got[b, ~mask[b]].any()
    assert got[b].sum() == pytest.approx(totals[-1], rel=1e-5, abs=1e-5)
  # It is not the oracle's nll of the tokens: the memory is made anew.
  assert np.abs(got - causal_nll(tokens, mask)).max() > 0.1


def test_shift_entropy_is_what_moving_and_dropping_gives():
  """A model that reads places, so that the moves are not only prefixes."""
  weight = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
  cost = np.abs(np.random.default_rng(3).normal(size=(5, 6)))
  tokens = [[1, 4, 2, 0, 3, 1], [2, 2, 0, 4, 1, 3], [0, 1, 2, 3, 4, 0]]
  mask = [[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1]]
  tokens, mask = np.array(tokens), np.array(mask, bool)

  def places_nll(tokens_BxL, mask_BxL):
    each = jnp.asarray(cost, jnp.float32)[tokens_BxL, jnp.arange(6)[None]]
    seen = jnp.asarray(weight) * (tokens_BxL + 10.0)  # padding is seen as well
    return jnp.sum(each * mask_BxL, axis=1) + 0.01 * jnp.sum(seen, axis=1)

  def total(b, k, pad):
    if k == 6:
      return 0.0
    row = [pad] * k + tokens[b, : 6 - k].tolist()
    valid = [False] * k + mask[b, : 6 - k].tolist()
    if not any(valid):
      return 0.0
    value = sum(cost[x, t] for t, x in enumerate(row) if valid[t])
    return value + 0.01 * sum(weight[b, t] * (row[t] + 10) for t in range(6))

  for pad in (0, 4):
    got = attribution.shift_entropy(
        places_nll, jnp.asarray(tokens), jnp.asarray(mask), pad_id=pad
    )
    want = [
        [(total(b, 5 - p, pad) - total(b, 6 - p, pad)) * mask[b, p]
         for p in range(6)]
        for b in range(3)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_shift_entropy_does_not_care_where_the_padding_is():
  rng = np.random.default_rng(4)
  row = rng.integers(VOCAB, size=5)
  scores = []
  for places in ([0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [0, 2, 3, 6, 8]):
    tokens = rng.integers(VOCAB, size=(1, 9))
    tokens[0, places] = row
    mask = np.zeros((1, 9), bool)
    mask[0, places] = True
    scores.append(shift_entropy(tokens, mask, oracle=True)[0, places])
  scores.append(shift_entropy(row[None], np.ones((1, 5), bool), oracle=True)[0])
  for other in scores[1:]:
    np.testing.assert_allclose(other, scores[0], rtol=1e-4, atol=1e-4)


def test_shift_entropy_traces_the_model_once():
  tokens, mask = batch('left')
  calls = []

  def counted(tokens_BxL, mask_BxL):
    calls.append(tokens_BxL.shape)
    return nll_of(tokens_BxL, mask_BxL, oracle=True)

  got = attribution.shift_entropy(
      counted, jnp.asarray(tokens), jnp.asarray(mask)
  )
  assert calls == [(4, 9)]  # one pass at a time, whatever the length
  np.testing.assert_allclose(
      got, shift_entropy(tokens, mask, oracle=True), rtol=1e-4, atol=1e-5
  )


def test_shift_entropy_refuses():
  tokens, mask = map(jnp.asarray, batch('left'))
  with pytest.raises(ValueError, match=r'nll_of must return shape \(4,\)'):
    attribution.shift_entropy(lambda t, m: jnp.sum(t * m), tokens, mask)
  with pytest.raises(ValueError, match=r'must have one shape \[B, L\]'):
    attribution.shift_entropy(nll_of, tokens, mask[:, :4])


def memory_model(seed=0, batch=3, width=4, length=6):
  rng = np.random.default_rng(seed)
  shapes = [(batch, length, width, 5), (5, length)]
  first, second = (rng.normal(size=s).astype(np.float32) for s in shapes)

  def nll_of_memory(memory_BxD):
    hidden = jnp.tanh(jnp.einsum('bd,bldh->blh', memory_BxD, first))
    return jax.nn.softplus(jnp.einsum('blh,hl->bl', hidden, second))

  memory = rng.normal(size=(batch, width)).astype(np.float32)
  return nll_of_memory, jnp.asarray(memory)


def test_gradient_times_input_is_that_of_backward_passes():
  nll_of_memory, memory = memory_model()
  gradient_BxLxBxD = jax.jacrev(nll_of_memory)(memory)
  want = np.stack([
      np.asarray(gradient_BxLxBxD[b, :, b], np.float64) @ np.asarray(memory[b])
      for b in range(3)
  ])
  got = attribution.gradient_times_input(nll_of_memory, memory)
  assert got.dtype == jnp.float32 and got.shape == (3, 6)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('degree', [1, 2, 3])
def test_gradient_times_input_of_homogeneous_losses(degree):
  """Euler: it is degree times the loss."""
  weight = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
  nll_of_memory = lambda m: (m**degree) @ weight
  memory = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32)
  got = attribution.gradient_times_input(nll_of_memory, jnp.asarray(memory))
  want = degree * (memory.astype(np.float64) ** degree) @ weight
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  nothing = attribution.gradient_times_input(nll_of_memory, jnp.zeros((2, 4)))
  assert not np.asarray(nothing).any()


def test_gradient_times_input_is_first_order_removal():
  """Half the memory leaves a quarter of the error."""
  nll_of_memory, memory = memory_model(seed=3)

  def error(size):
    removed = nll_of_memory(0 * memory) - nll_of_memory(size * memory)
    score = attribution.gradient_times_input(nll_of_memory, size * memory)
    return [float(jnp.linalg.norm(x)) for x in (removed + score, score)]

  (large, score), (small, _) = error(0.1), error(0.05)
  assert 3 < large / small < 5 and large < 0.2 * score


def test_gradient_times_input_of_slots_and_bfloat16():
  nll_of_memory, memory = memory_model(width=8)
  slots = memory.reshape(3, 2, 4)
  got = attribution.gradient_times_input(
      lambda m: nll_of_memory(m.reshape(3, 8)), slots
  )
  want = attribution.gradient_times_input(nll_of_memory, memory)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  got = attribution.gradient_times_input(
      lambda m: nll_of_memory(m.astype(jnp.float32)),
      memory.astype(jnp.bfloat16),
  )
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=0.05, atol=0.05)


def test_gradient_times_input_calls_the_model_once():
  nll_of_memory, memory = memory_model()
  calls = []

  def counted(m):
    calls.append(m.shape)
    return nll_of_memory(m)

  attribution.gradient_times_input(counted, memory)
  assert calls == [(3, 4)]
  with pytest.raises(ValueError, match='memory_BxD must be floating, got'):
    attribution.gradient_times_input(counted, jnp.ones((3, 4), int))
