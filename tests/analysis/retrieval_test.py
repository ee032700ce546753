"""Contrastive retrieval and its queries against NumPy and plain Python."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.analysis import retrieval


def problem(seed=0, queries=5, keys=9, width=4):
  rng = np.random.default_rng(seed)
  query = rng.normal(size=(queries, width)).astype(np.float32)
  key = rng.normal(size=(keys, width)).astype(np.float32)
  return query, key, rng.integers(keys, size=queries)


def expected(query, key, positive, temperature=0.02, mask=None):
  """Sums by the definition, in float64, one query and key at a time."""
  kept = [k for k in range(len(key)) if mask is None or mask[k]]
  nll, correct, queries = 0.0, 0, 0
  for q, p in zip(np.asarray(query, np.float64), positive, strict=True):
    if p not in kept:
      continue
    score = {}
    for k in kept:
      other = np.asarray(key[k], np.float64)
      lengths = np.linalg.norm(q) * np.linalg.norm(other)
      score[k] = (q @ other / lengths if lengths else 0.0) / temperature
    largest = max(score.values())
    total = sum(math.exp(s - largest) for s in score.values())
    nll += largest + math.log(total) - score[p]
    correct += max(score, key=score.get) == p
    queries += 1
  return nll, correct, queries


infonce = jax.jit(retrieval.infonce, static_argnames='temperature')


def found(query, key, positive, **options):
  sums = infonce(
      jnp.asarray(query), jnp.asarray(key), jnp.asarray(positive), **options
  )
  assert all(x.shape == () and x.dtype == jnp.float32 for x in sums)
  return sums


@pytest.mark.parametrize('temperature', [0.02, 0.5, 10.0])
@pytest.mark.parametrize('masked', [False, True])
def test_infonce_is_the_definition(temperature, masked):
  query, key, positive = problem(seed=3, queries=12)
  mask = np.random.default_rng(1).random(9) < 0.6 if masked else None
  want = expected(query, key, positive, temperature, mask)
  got = found(
      query, key, positive, temperature=temperature,
      mask_K=None if mask is None else jnp.asarray(mask),
  )
  np.testing.assert_allclose(got, want, rtol=2e-6)
  if masked:
    assert 0 < want[2] < 12  # Some positives are masked out, others are not.


def test_the_default_temperature_is_the_papers():
  query, key, positive = problem()
  want = expected(query, key, positive, 0.02)
  np.testing.assert_allclose(found(query, key, positive), want, rtol=2e-6)


def test_directions_alone_matter():
  query, key, positive = problem()
  rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
  rotation = rotation.astype(np.float32)
  want = found(query, key, positive)
  for scale in (1e-35, 1e-20, 1e20, 1e30):
    small = np.float32(scale)
    got = found(small * query, key / 7, positive)
    np.testing.assert_allclose(got, want, rtol=1e-5)
  got = found(query @ rotation, key @ rotation, positive)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  order = np.random.default_rng(3).permutation(9)
  got = found(query, key[order], np.argsort(order)[positive])
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_masked_keys_are_as_if_absent():
  query, key, positive = problem()
  positive = positive % 6
  mask = np.arange(9) < 6
  key[7] = np.nan
  both = lambda key, mask_K: jax.value_and_grad(
      lambda q: found(q, key, positive, mask_K=mask_K).nll
  )(jnp.asarray(query))
  got = both(key, jnp.asarray(mask))
  want = both(key[:6], None)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  jax.tree.map(close, got, want)


@pytest.mark.parametrize(
    'positive, mask',
    [
        ([0, 1], [False] * 3),
        ([3, -1], [True] * 3),
        ([2, 2], [True, True, False]),
    ],
)
def test_queries_without_a_key_are_not_counted(positive, mask):
  query, key, _ = problem(queries=2, keys=3)
  options = dict(mask_K=jnp.asarray(mask))
  assert [float(x) for x in found(query, key, positive, **options)] == [0] * 3
  loss = lambda q: retrieval.infonce(
      q, jnp.asarray(key), jnp.asarray(positive), **options
  ).nll
  with jax.debug_nans(True):  # Outside jit it looks at every operation.
    grad = jax.grad(loss)
    np.testing.assert_array_equal(grad(jnp.asarray(query)), 0.0)


@pytest.mark.parametrize('keys', [2, 7, 32])
def test_chance(keys):
  """Keys that cannot be told apart: ln K, and the first is taken."""
  query = np.random.default_rng(0).normal(size=(keys, 3)).astype(np.float32)
  sums = found(query, np.ones((keys, 3), np.float32), np.arange(keys))
  assert float(sums.nll) == pytest.approx(keys * math.log(keys), rel=1e-5)
  assert float(sums.correct) == 1


def test_chance_of_unrelated_vectors():
  """1 of 20 right, within four standard deviations; ln K where τ is large."""
  query, key, positive = problem(seed=5, queries=2000, keys=20, width=16)
  sums = found(query, key, positive, temperature=1e3)
  assert float(sums.queries) == 2000
  deviation = math.sqrt(2000 * 0.05 * 0.95)
  assert abs(float(sums.correct) - 100) < 4 * deviation
  assert float(sums.nll / 2000) == pytest.approx(math.log(20), abs=1e-4)


def test_a_query_that_is_its_key_is_found():
  _, key, _ = problem(keys=30, width=8)
  sums = found(3 * key, key, np.arange(30))
  assert float(sums.correct) == 30
  assert float(sums.nll) / 30 < 0.1


def test_gradient_is_that_of_finite_differences():
  query, key, positive = problem()
  mask = np.arange(9) != (positive[0] + 1) % 9
  loss = lambda q, k: found(
      q, k, positive, temperature=0.2, mask_K=jnp.asarray(mask)
  ).nll
  grads = jax.grad(loss, (0, 1))(jnp.asarray(query), jnp.asarray(key))
  rng = np.random.default_rng(7)
  steps = [1e-4 * rng.normal(size=x.shape) for x in (query, key)]
  value = lambda sign: expected(
      query + sign * steps[0], key + sign * steps[1], positive, 0.2, mask
  )[0]
  slope = sum(
      np.sum(np.asarray(g, np.float64) * s)
      for g, s in zip(grads, steps, strict=True)
  )
  assert 2 * slope == pytest.approx(value(1) - value(-1), rel=1e-4)


def test_zero_vectors_are_safe():
  query, key, positive = problem()
  query[0], key[2], key[positive[1]] = 0, 0, 0
  want = expected(query, key, positive)
  np.testing.assert_allclose(found(query, key, positive), want, rtol=2e-6)
  loss = lambda q, k: found(q, k, positive).nll
  grads = jax.grad(loss, (0, 1))(jnp.asarray(query), jnp.asarray(key))
  assert all(np.isfinite(g).all() for g in grads)
  np.testing.assert_array_equal(grads[0][0], 0.0)
  np.testing.assert_array_equal(grads[1][2], 0.0)
  assert np.abs(grads[1]).max() > 0


def test_nan_is_not_hidden():
  query, key, positive = problem()
  query[0, 0] = np.nan
  assert np.isnan(found(query, key, positive).nll)


def test_bfloat16_is_computed_in_float32():
  query, key, positive = problem()
  query, key = (jnp.asarray(x, jnp.bfloat16) for x in (query, key))
  want = expected(query.astype(jnp.float32), key.astype(jnp.float32), positive)
  np.testing.assert_allclose(found(query, key, positive), want, rtol=2e-6)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(temperature=0.0), 'temperature must be a number > 0, got 0.0'),
        (dict(temperature=math.inf), 'temperature must be a number > 0'),
        (dict(query_QxD=jnp.ones(3)), r'query_QxD must have shape \[N, D\]'),
        (dict(key_KxD=jnp.ones((3, 4), int)), 'key_KxD must be floating'),
        (dict(key_KxD=jnp.ones((3, 5))), 'one width, got 4 and 5'),
        (dict(positive_Q=jnp.zeros(3, int)), 'positive_Q must have shape'),
        (dict(positive_Q=jnp.zeros(2)), 'positive_Q must be integers'),
        (dict(mask_K=jnp.ones(2, bool)), r'mask_K must have shape \(3,\)'),
    ],
)
def test_infonce_refuses(change, message):
  arguments = dict(
      query_QxD=jnp.ones((2, 4)), key_KxD=jnp.ones((3, 4)),
      positive_Q=jnp.zeros(2, int),
  )
  with pytest.raises(ValueError, match=message):
    retrieval.infonce(**(arguments | change))


# Rows of 6 valid tokens 10 .. 15, with the padding in different places.
PADDED = {
    'right': [10, 11, 12, 13, 14, 15, 0, 0, 0],
    'left': [0, 0, 0, 10, 11, 12, 13, 14, 15],
    'gaps': [10, 0, 11, 12, 0, 13, 14, 0, 15],
    'valid everywhere': [10, 11, 12, 13, 14, 15],
}


@functools.partial(jax.jit, static_argnames=('width', 'bag'))
def draw_many(keys_N, tokens_BxL, mask_BxL, width, bag=False):
  draw = lambda key: retrieval.draw_queries(
      key, tokens_BxL, mask_BxL, width=width, bag=bag
  )
  return jax.vmap(draw)(keys_N)


def many(rows, mask, width, bag=False, draws=600):
  keys = jax.random.split(jax.random.key(0), draws)
  tokens, valid = draw_many(
      keys, jnp.asarray(rows), jnp.asarray(mask), width=width, bag=bag
  )
  return np.asarray(tokens), np.asarray(valid)


@pytest.mark.parametrize('name', PADDED)
@pytest.mark.parametrize('width', [4, 6])
def test_ngrams_are_consecutive_and_equally_likely(name, width):
  row = np.array([PADDED[name]])
  tokens, valid = many(row, row > 0, width)
  assert tokens.shape == (600, 1, width) and valid.all()
  counts = collections.Counter(tuple(x) for x in tokens[:, 0].tolist())
  places = 6 - width + 1
  runs = {tuple(range(10 + i, 10 + i + width)) for i in range(places)}
  assert set(counts) == runs
  share = 1 / places
  deviation = math.sqrt(600 * share * (1 - share))
  assert all(abs(n - 600 * share) <= 4 * deviation for n in counts.values())


@pytest.mark.parametrize('bag', [False, True])
def test_where_the_padding_lies_changes_nothing(bag):
  drawn = []
  for name in ('right', 'left', 'gaps', 'valid everywhere'):
    row = np.array([PADDED[name]] * 3)
    drawn.append(many(row, row > 0, width=4, bag=bag, draws=20))
  for other in drawn[1:]:
    np.testing.assert_array_equal(other, drawn[0])
  assert len(np.unique(drawn[0][0].reshape(60, 4), axis=0)) > 1


@pytest.mark.parametrize('count', range(7))
def test_short_rows_give_all_they_have(count):
  row = np.array([[0, 3, 0, 5, 7, 2, 9, 4]])
  # Tokens that are not 0 may be masked out as well.
  mask = (np.cumsum(row > 0) <= count)[None] & (row > 0)
  tokens, valid = many(row, mask, width=7, draws=3)
  np.testing.assert_array_equal(valid[:, 0], [np.arange(7) < count] * 3)
  want = [3, 5, 7, 2, 9, 4][:count] + [0] * (7 - count)
  np.testing.assert_array_equal(tokens[:, 0], [want] * 3)


def test_bags_are_independent_draws_of_valid_tokens():
  row = np.array([PADDED['gaps'], [8, 9, 0, 0, 0, 0, 0, 0, 0], [0] * 9])
  tokens, valid = many(row, row > 0, width=7, bag=True)
  np.testing.assert_array_equal(valid[:, :2], True)
  np.testing.assert_array_equal(valid[:, 2], False)
  np.testing.assert_array_equal(tokens[:, 2], 0)
  draws = 600 * 7
  for b, values in ((0, range(10, 16)), (1, (8, 9))):
    counts = collections.Counter(tokens[:, b].ravel().tolist())
    assert set(counts) == set(values)
    share = 1 / len(counts)
    deviation = math.sqrt(draws * share * (1 - share))
    assert all(abs(n - draws * share) <= 4 * deviation for n in counts.values())
  # Neighbours repeat as often as independent draws do: 1 time in 6.
  repeats = np.mean(tokens[:, 0, 1:] == tokens[:, 0, :-1])
  assert repeats == pytest.approx(1 / 6, abs=4 * math.sqrt(5 / 36 / 3600))


def test_rows_are_drawn_apart():
  row = np.array([list(range(1, 31))] * 2)
  tokens, _ = many(row, row > 0, width=3, draws=200)
  same = np.mean(tokens[:, 0, 0] == tokens[:, 1, 0])
  assert same < 0.15  # 1 in 28 by chance


@pytest.mark.parametrize('dtype', [jnp.int32, jnp.uint16])
@pytest.mark.parametrize('bag', [False, True])
def test_jit_and_dtypes(dtype, bag):
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(1, 99, size=(4, 12)), dtype)
  mask = jnp.asarray(rng.random((4, 12)) < 0.7)
  draw = functools.partial(retrieval.draw_queries, width=5, bag=bag)
  plain = draw(jax.random.key(1), tokens, mask)
  assert plain[0].dtype == dtype and plain[1].dtype == bool
  assert plain[0].shape == plain[1].shape == (4, 5)
  jitted = jax.jit(draw)(jax.random.key(1), tokens, mask)
  jax.tree.map(np.testing.assert_array_equal, plain, jitted)


@pytest.mark.parametrize(
    'width, shape, message',
    [
        (0, (2, 3), 'width must be at least 1, got 0'),
        (2, (2, 4), 'must have one shape'),
        (2, (6,), 'must have one shape'),
    ],
)
def test_draw_refuses(width, shape, message):
  with pytest.raises(ValueError, match=message):
    retrieval.draw_queries(
        jax.random.key(0), jnp.zeros((2, 3), int), jnp.ones(shape, bool),
        width=width,
    )
