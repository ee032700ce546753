"""Probes of functions on arrays: what is to be found there is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import probing

V, L = 4, 3
TOKENS = np.random.default_rng(0).integers(0, V, (640, L))
TRAIN, HELDOUT = TOKENS[:384], TOKENS[384:]
FAST = dict(num_layers=1, width=16, num_heads=2, num_steps=120, peak=1e-2)


def last_two(tokens_BxL, mask_BxL):
  """All of two tokens, nothing of the first."""
  one_hot = jax.nn.one_hot(tokens_BxL[:, 1:], V) * mask_BxL[:, 1:, None]
  return one_hot.reshape(tokens_BxL.shape[0], -1)


@pytest.fixture(scope='module')
def found():
  return probing.probe(last_two, TRAIN, HELDOUT, **FAST)


def test_bits_of_what_is_kept(found):
  assert found['recovered_bits'] == pytest.approx(4.0, rel=0.06)
  assert found['accuracy'] == pytest.approx(2.25 / 3, abs=0.05)
  assert found['tokens'] == 256 * L and found['num_tokens'] == L


def test_a_function_of_numpy_arrays_is_called_outside_jax(found):
  calls = []

  def encode(tokens, mask):
    assert type(tokens) is type(mask) is np.ndarray
    calls.append(tokens.shape[0])
    hot = np.eye(V)[tokens[:, 1:]] * mask[:, 1:, None]
    return hot.reshape(len(tokens), -1)

  control = probing.control_of(found)
  other = probing.probe(
      encode, TRAIN, HELDOUT, on_host=True, control=control, **FAST
  )
  # The width, 120 updates, 4 batches of the evaluation.
  assert calls == [1] + 124 * [64]
  assert other['cross_entropy'] == pytest.approx(found['cross_entropy'], 1e-3)
  assert other['constant/accuracy'] == found['constant/accuracy']


def test_masked_tokens_are_not_counted():
  mask = np.ones(TOKENS.shape, bool)
  mask[:, 0] = False
  seen = []

  def blind(tokens_BxL, mask_BxL):
    seen.append(mask_BxL.dtype)
    return jnp.ones([tokens_BxL.shape[0], 2])

  found = probing.probe(
      blind, TRAIN, HELDOUT, mask=mask[:384], heldout_mask=mask[384:],
      **{**FAST, 'num_steps': 3},
  )
  assert found['num_tokens'] == L - 1 and set(seen) == {np.dtype(bool)}


def test_each_epoch_reads_each_row_once_in_another_order():
  tokens = np.arange(10, dtype=np.int32)[:, None]
  source = probing.ArraySource(tokens, tokens >= 0, 4, 10, seed=3)
  read = np.concatenate([source.batch(k)['tokens'][:, 0] for k in range(5)])
  first, second = read[:10], read[10:]
  assert sorted(first) == sorted(second) == list(range(10))
  assert list(first) != list(second) != list(range(10))
  assert source.num_eval_batches is None
  np.testing.assert_array_equal(source.batch(2, [1])['tokens'][:, 0], read[9])
  one_pass = probing.ArraySource(tokens, tokens >= 0, 4, 10)
  assert one_pass.num_eval_batches == 2
  np.testing.assert_array_equal(one_pass.batch(1)['tokens'][:, 0], [4, 5, 6, 7])


@pytest.mark.parametrize(
    'options, said',
    [
        ({'tokens': TRAIN[0]}, r'tokens must be integers of shape \[N, L\]'),
        ({'tokens': TRAIN / 2}, 'tokens must be integers .* got float64'),
        ({'tokens': TRAIN - 1}, 'tokens must be at least 0, got -1'),
        ({'heldout': HELDOUT[:, :2]}, 'heldout must have rows of 3 tokens'),
        ({'heldout': HELDOUT[:9]}, 'at least batch_size=64 rows, got 9'),
        ({'mask': TRAIN}, 'mask of tokens must be bool'),
        ({'vocab_size': 3}, 'vocab_size must be at least 4 .* got 3'),
        ({'num_steps': 0}, 'num_steps must be'),
        ({'depth': 2}, 'depth'),
    ],
)
def test_bad_input(options, said):
  given = {'tokens': TRAIN, 'heldout': HELDOUT, **options}
  with pytest.raises((ValueError, TypeError), match=said):
    probing.probe(last_two, **given)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('name', ['training', 'held-out'])
def test_embeddings_that_are_not_finite_are_refused(name, bad):
  """One among many, in the set for training or in the other one."""
  odd = [3, 3, 3]
  plain = TOKENS[(TOKENS != odd).any(axis=1)]
  train, heldout = plain[:320], plain[320:]
  both = {'training': train.copy(), 'held-out': heldout.copy()}
  both[name][7] = odd

  def encode(tokens_BxL, mask_BxL):
    is_odd_Bx1 = (tokens_BxL == 3).all(axis=1, keepdims=True)
    return jnp.where(is_odd_Bx1, bad, last_two(tokens_BxL, mask_BxL))

  control = {'cross_entropy': 1.0, 'accuracy': 0.5}
  with pytest.raises(
      ValueError,
      match=rf'embeddings must be finite.* {name} sequence \[3, 3, 3\] is not',
  ):
    probing.probe(
        encode, *both.values(), control=control, **FAST | dict(num_steps=20)
    )
