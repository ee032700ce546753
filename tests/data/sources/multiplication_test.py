"""Examples are right, evenly drawn, and the splits share no pair."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from iblm_jax.data import hashing
from iblm_jax.data.sources import multiplication
from iblm_jax.data.text import tokenizers

CONFIG = multiplication.MultiplicationConfig()
TOKENIZER = tokenizers.DigitTokenizer()


def make(split='train', batch_size=512, seed=0, **options):
  config = dataclasses.replace(CONFIG, **options)
  return multiplication.MultiplicationSource(config, split, batch_size, seed)


def sample(split, n, **options):
  a, b = make(split, **options).operands(np.arange(n))
  return a, b


def unordered(a, b):
  pairs = np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)
  return set(map(tuple, pairs.tolist()))


@pytest.mark.parametrize('split', multiplication.SPLITS)
@pytest.mark.parametrize('most', [1, 2, 4, 8])
def test_rows_agree_with_text(split, most):
  """Every array against the text of the example, character by character."""
  source = make(
      split, digits=(1, most), ood_digits=(most + 1, most + 1), holdout=0.3
  )
  batch = source.batch(1)
  a, b = source.operands(np.arange(512, 1024))
  names = {1: '<bos>', 2: '<eos>', 0: '<pad>'}
  for row in range(0, 512, 5):
    text = f'{a[row]}x{b[row]}={int(a[row]) * int(b[row])}'
    characters = ['<bos>', *text, '<eos>']
    n = len(characters) - 1

    def named(ids):
      return [names.get(i) or TOKENIZER.decode([i]) for i in ids.tolist()]

    assert named(batch['tokens'][row, :n]) == characters[:-1]
    assert named(batch['targets'][row, :n]) == characters[1:]
    assert (batch['tokens'][row, n:] == 0).all()
    assert (batch['targets'][row, n:] == 0).all()
    np.testing.assert_array_equal(
        batch['mask'][row], np.arange(source.length) < n
    )
    answer = text.split('=')[1]
    counted = batch['targets'][row][batch['loss_mask'][row]]
    assert named(counted) == [*answer, '<eos>']
    assert batch['segment_ids'][row].tolist() == [1] * n + [0] * (
        source.length - n
    )
    assert batch['positions'][row, :n].tolist() == list(range(n))


def test_dtypes_and_shapes():
  source = make(batch_size=4)
  batch = source.batch(3, rows=range(1, 3))
  assert {key: (x.shape, x.dtype.name) for key, x in batch.items()} == {
      'tokens': ((2, 16), 'int32'),
      'targets': ((2, 16), 'int32'),
      'loss_mask': ((2, 16), 'bool'),
      'mask': ((2, 16), 'bool'),
      'segment_ids': ((2, 16), 'int32'),
      'positions': ((2, 16), 'int32'),
  }
  assert source.vocab_size == 15


@pytest.mark.parametrize(
    'digits,multiple,length',
    [((1, 2), 8, 16), ((1, 1), 8, 8), ((1, 1), 1, 7), ((2, 4), 8, 24)],
)
def test_the_longest_example_fits(digits, multiple, length):
  source = make(digits=digits, ood_digits=(5, 5), length_multiple=multiple)
  assert source.length == length
  # 99 x 99 is the longest one: bos, 4 digits, 2 signs, 4 digits.
  assert length >= len(f'{10 ** digits[1] - 1}') * 4 + 3


def test_splits_are_disjoint():
  train = unordered(*sample('train', 400_000))
  held_out = unordered(*sample('in_distribution', 40_000))
  assert not train & held_out
  # All pairs of one and two digits appear on one of the sides.
  assert len(train | held_out) == 99 * 100 // 2
  other = unordered(*sample('out_of_distribution', 20_000))
  assert not other & (train | held_out)
  assert all(100 <= a <= b <= 999 for a, b in other)


@pytest.mark.parametrize('holdout', [0.05, 0.1, 0.5, 0.9])
def test_share_of_held_out_pairs(holdout):
  """Within four standard deviations, over all pairs below 1000."""
  a, b = np.triu_indices(999)
  share = multiplication.is_held_out(a + 1, b + 1, holdout).mean()
  deviation = (holdout * (1 - holdout) / a.size) ** 0.5
  assert abs(share - holdout) < 4 * deviation


def test_hold_out_is_symmetric_and_nested():
  a, b = np.meshgrid(np.arange(1, 100), np.arange(1, 100))
  small, large = (multiplication.is_held_out(a, b, h) for h in (0.1, 0.4))
  np.testing.assert_array_equal(small, small.T)
  assert (large | ~small).all()


def test_hold_out_does_not_depend_on_digits():
  """Last digits, first digits and their sums are on both sides alike."""
  a, b = (x + 1 for x in np.triu_indices(999))
  held_out = multiplication.is_held_out(a, b, 0.1)
  for feature, n in (
      (a % 10 * 10 + b % 10, 100),
      ((a + b) % 10, 10),
      ((a * b) % 9, 9),
      (a // 100 * 10 + b // 100, 100),
  ):
    table = np.stack([
        np.bincount(feature[held_out], minlength=n),
        np.bincount(feature[~held_out], minlength=n),
    ])
    table = table[:, table.sum(axis=0) > 0]
    assert table.min() > 0
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_last_digits_of_two_digit_pairs_are_all_in_both_sets():
  """With ordered operands of 1..2 digits, each of 100 combinations occurs."""
  for split in ('train', 'in_distribution'):
    a, b = sample(split, 20_000)
    assert np.unique(a % 10 * 10 + b % 10).size == 100


def test_out_of_distribution_operands_are_uniform():
  """Digit counts uniform, then numbers uniform; operands independent."""
  pair = sample('out_of_distribution', 200_000, ood_digits=(3, 4))
  for operand in pair:
    count = np.char.str_len(operand.astype(str))
    assert stats.chisquare(np.bincount(count)[3:]).pvalue > 1e-3
    three = np.bincount(operand[count == 3], minlength=1000)
    assert three[:100].sum() == 0
    assert stats.chisquare(three[100:]).pvalue > 1e-3
  a, b = (np.char.str_len(x.astype(str)) == 3 for x in pair)
  table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
  assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize('split', ['train', 'in_distribution'])
@pytest.mark.parametrize('seed', [0, 5])
def test_operands_follow_the_distribution_of_the_side(split, seed):
  """Every ordered pair has its share: P(a) P(b), cut to the side, rescaled."""
  a, b = sample(split, 300_000, seed=seed)
  wanted = np.zeros((100, 100))
  for x in range(1, 100):
    for y in range(1, 100):
      # Half of the operands have one digit (9 of them), half two (90).
      wanted[x, y] = (1 / 9 if x < 10 else 1 / 90) * (
          1 / 9 if y < 10 else 1 / 90
      )
  grid = np.arange(100)
  held_out = multiplication.is_held_out(grid[:, None], grid, CONFIG.holdout)
  wanted *= held_out == (split == 'in_distribution')
  counts = np.bincount(a * 100 + b, minlength=10_000)
  wanted = wanted.ravel() / wanted.sum()
  assert counts[wanted == 0].sum() == 0
  counts, wanted = counts[wanted > 0], wanted[wanted > 0]
  assert stats.chisquare(counts, wanted * 300_000).pvalue > 1e-3


@pytest.mark.parametrize('split', multiplication.SPLITS)
@pytest.mark.parametrize('holdout', [0.1, 0.9])
def test_operands_agree_with_a_loop(split, holdout):
  """One attempt after the other until the pair is on the right side."""
  source = make(split, holdout=holdout, seed=11)
  digits = (3, 3) if split == 'out_of_distribution' else (1, 2)
  got = np.stack(source.operands(np.arange(300, 900)), axis=1).tolist()
  # Only training depends on the seed.
  seed = 11 if split == 'train' else 0
  name = 0xDA7A + multiplication.SPLITS.index(split)
  key = hashing.fold(hashing.fold(seed, name), np.arange(300, 900))
  for i in range(0, 600, 6):
    attempt = 0
    while True:
      drawn = hashing.fold(key[i], attempt)
      words = [int(hashing.fold(drawn, j)) for j in range(4)]
      pair = []
      for count_word, value_word in ((words[0], words[2]), words[1::2]):
        count = digits[0] + count_word % (digits[1] - digits[0] + 1)
        numbers = range(10 ** (count - 1), 10**count)
        pair.append(numbers[value_word % len(numbers)])
      held_out = bool(multiplication.is_held_out(*pair, holdout))
      if digits == (3, 3) or held_out == (split == 'in_distribution'):
        break
      attempt += 1
    assert got[i] == pair


def test_example_is_a_function_of_seed_and_number():
  whole = make(seed=3).operands(np.arange(1000))
  some = np.array([999, 5, 5, 700])
  few = make(seed=3).operands(some)
  np.testing.assert_array_equal(np.stack(whole)[:, some], np.stack(few))
  other = make(seed=4).operands(np.arange(1000))
  assert (whole[0] != other[0]).mean() > 0.8


def test_batch_depends_on_the_row_number_only():
  """Batches of 4 and of 8 hold the same examples in the same order."""
  small, large = make(batch_size=4), make(batch_size=8)
  for key, values in large.batch(5).items():
    halves = [small.batch(k)[key] for k in (10, 11)]
    np.testing.assert_array_equal(values, np.concatenate(halves))


@pytest.mark.parametrize('split', multiplication.SPLITS[1:])
def test_evaluation_sets_are_fixed_and_complete(split):
  """The same examples for every seed and batch size, each exactly once."""
  wanted = None
  for batch_size, seed in ((100, 0), (64, 7), (1, 0)):
    source = make(split, batch_size, seed, eval_rows=150)
    assert source.num_eval_batches == -(-150 // batch_size)
    rows = [source.batch(k) for k in range(source.num_eval_batches)]
    tokens = np.concatenate([batch['tokens'] for batch in rows])
    mask = np.concatenate([batch['mask'] for batch in rows])
    loss_mask = np.concatenate([batch['loss_mask'] for batch in rows])
    assert mask.any(axis=1).sum() == 150
    assert not loss_mask[150:].any() and not tokens[150:].any()
    wanted = tokens[:150] if wanted is None else wanted
    np.testing.assert_array_equal(tokens[:150], wanted)


def test_batch_number_must_be_in_range():
  source = make('in_distribution', batch_size=512)
  with pytest.raises(ValueError, match='k must be an integer between 0 and 1,'):
    source.batch(2)
  with pytest.raises(ValueError, match='k must be .* got -1'):
    make().batch(-1)
  for rows in ([512], [-1], [], [[0]]):
    with pytest.raises(ValueError, match='rows must be .* between 0 and 511'):
      make().batch(0, rows)


@pytest.mark.parametrize(
    'options,message',
    [
        ({'digits': (0, 2)}, r'digits must be .* 1 <= .* <= 8, got \(0, 2\)'),
        ({'digits': (2, 1)}, r'digits must be .* got \(2, 1\)'),
        ({'digits': 2}, r'digits must be a pair .* got 2'),
        ({'digits': (1.0, 2)}, r'digits must be a pair'),
        ({'ood_digits': (2, 3)}, r'ood_digits must .* 3 <= .* got \(2, 3\)'),
        ({'ood_digits': (3, 10)}, r'ood_digits must be .* <= 9'),
        ({'holdout': 0.0}, r'holdout must be .* 0.001 and 0.999, got 0.0'),
        ({'holdout': float('nan')}, 'holdout must be .* got nan'),
        ({'eval_rows': 0}, 'eval_rows must be .* at least 1, got 0'),
        ({'length_multiple': 0}, 'length_multiple must be .* got 0'),
        (
            {'digits': (1, 1), 'holdout': 0.001},
            'holdout must leave a pair for the in-distribution set',
        ),
        (
            {'digits': (1, 1), 'holdout': 0.999},
            'holdout must leave a pair for training',
        ),
    ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    multiplication.MultiplicationConfig(**options)


def test_bad_arguments_of_the_source_are_refused():
  with pytest.raises(ValueError, match='split must be one of .* got .test.'):
    make('test')
  with pytest.raises(ValueError, match='seed must be .* got -1'):
    make(seed=-1)
  with pytest.raises(ValueError, match='batch_size must be .* got True'):
    make(batch_size=True)


def test_lists_of_config_files_become_tuples():
  config = multiplication.MultiplicationConfig(digits=[1, 2])
  assert config == CONFIG and hash(config) == hash(CONFIG)
