import jax
import numpy as np
import pytest
import tiny_models

from iblm_jax.models.nn import embeddings, layers

MASKS = np.asarray(
    [
        [True] * 6,
        [True, True, True, False, False, False],  # padded on the right
        [False, False, True, True, True, True],  # on the left
        [False, True, False, False, True, False],
        [False, False, False, True, False, False],  # one token
        [False] * 6,
    ]
)


def by_hand(mask, position):
  """Which index of one row is read."""
  there = [t for t, valid in enumerate(mask) if valid]
  if position == 'last':
    return len(mask) - 1
  if not there:
    return 0
  if position == 'penultimate' and len(there) > 1:
    return there[-2]
  return there[-1]


@pytest.mark.parametrize('position', embeddings.POSITIONS)
@pytest.mark.parametrize('has_mask', [True, False])
def test_gather_reads_one_position(position, has_mask):
  rng = np.random.default_rng(0)
  h = rng.normal(size=(*MASKS.shape, 3)).astype(np.float32)
  mask = MASKS if has_mask else np.ones_like(MASKS)
  gather = jax.jit(
      lambda h, mask: embeddings.gather(h, mask if has_mask else None, position)
  )
  read = [by_hand(row, position) for row in mask]
  expected = h[np.arange(len(mask)), read]
  np.testing.assert_array_equal(gather(h, mask), expected)
  # What else is there does not matter, be it no number at all.
  alone = np.full_like(h, np.nan)
  alone[np.arange(len(mask)), read] = expected
  np.testing.assert_array_equal(gather(alone, mask), expected)


def test_gradient_reaches_the_position_that_is_read_alone():
  h = np.ones([*MASKS.shape, 3], np.float32)
  total = lambda h: embeddings.gather(h, MASKS, 'last_valid').sum()
  grad = np.asarray(jax.jit(jax.grad(total))(h))
  for row, mask in zip(grad, MASKS, strict=True):
    read = by_hand(mask, 'last_valid')
    assert (row[read] == 1).all() and row.sum() == 3


def test_gather_refuses():
  with pytest.raises(ValueError, match="position must be one of .* 'first'"):
    embeddings.gather(np.zeros([1, 2, 3]), None, 'first')


def pass_through(passage, seed=0):
  module = embeddings.Pass(tiny_models.transformer(), passage)
  e = np.random.default_rng(seed).normal(size=(16, passage.width_in))
  e = e.astype(np.float32)
  made = jax.eval_shape(lambda: module.init(jax.random.key(0), e))
  params = layers.nn.meta.unbox(dict(made)).get('params', {})
  params = tiny_models.random_params(dict(params))
  return e, params, np.asarray(jax.jit(module.apply)({'params': params}, e))


@pytest.mark.parametrize(
    'passage, names, numbers',
    [
        (embeddings.Passage(6, 6), [], 6),
        (embeddings.Passage(6, 9), ['bridge'], 6),
        (embeddings.Passage(6, 4), ['bridge'], 4),
        (embeddings.Passage(6, 6, 3), ['down', 'up'], 2),
        (embeddings.Passage(6, 9, 2), ['bridge', 'down', 'up'], 3),
    ],
)
def test_a_passage_keeps_so_many_numbers(passage, names, numbers):
  e, params, passed = pass_through(passage)
  assert sorted(params) == names
  assert passage.num_numbers == numbers
  assert passed.shape == (16, passage.width_out)
  assert np.linalg.matrix_rank(passed, tol=1e-4) == numbers
  expected = e
  for name in ('down', 'up', 'bridge'):
    if name in params:
      expected = expected @ params[name]['kernel']
  np.testing.assert_allclose(passed, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'compression, message',
    [
        (4, 'compression=4 and width=6'),
        (0, 'compression must be an integer >= 1, got 0'),
        (True, 'compression must be an integer >= 1, got True'),
    ],
)
def test_passage_refuses(compression, message):
  with pytest.raises(ValueError, match=message):
    embeddings.Passage(6, 6, compression)
