"""Windows that are scored cover every target once; shuffling stays inside."""

import numpy as np
import pytest

from iblm_jax.data import windows


def by_hand(length, context, stride):
  """Rows of one document, from the definition."""
  rows = [(0, 0, min(length, context))]
  scored = rows[0][2]
  while stride and scored < length:
    end = min(scored + stride, length)
    rows.append((scored + stride - context, scored, end))
    scored = end
  return rows


@pytest.mark.parametrize(
    'context,stride', [(4, 2), (4, 4), (4, 1), (7, 3), (1, 1), (5, None)]
)
def test_windows_agree_with_a_loop(context, stride):
  lengths = [1, 3, 4, 5, 6, 7, 20, 23]
  got = np.stack(windows.scoring_windows(lengths, context, stride), axis=1)
  wanted = [
      (document, *row)
      for document, length in enumerate(lengths)
      for row in by_hand(length, context, stride)
  ]
  assert got.tolist() == [list(row) for row in wanted]


def test_published_windows_of_a_long_document():
  """The first scores 1024, then 100 each after 924 read, the last the rest."""
  _, begin, first, end = windows.scoring_windows([1300], 1024, 100)
  assert begin.tolist() == [0, 100, 200, 300]
  assert (end - first).tolist() == [1024, 100, 100, 76]
  assert (first - begin).tolist() == [0, 924, 924, 924]


def test_what_a_target_is_read_after_does_not_depend_on_the_length():
  def reads(length):
    found = {}
    for _, begin, first, end in zip(
        *windows.scoring_windows([length], 8, 3), strict=True
    ):
      found |= {target: begin for target in range(first, end)}
    return found

  longest = reads(60)
  for length in range(1, 60):
    shorter = reads(length)
    assert shorter == {t: longest[t] for t in range(length)}


def test_shuffling_permutes_within_windows_of_each_document():
  lengths = np.array([10, 1, 7, 400])
  document = np.repeat(np.arange(4) * 3, lengths)
  position = np.concatenate([np.arange(n) for n in lengths])
  tokens = np.arange(document.size)
  got = windows.shuffle_in_windows(tokens, document, position, 4, 5)
  assert sorted(got.tolist()) == tokens.tolist()
  np.testing.assert_array_equal(document[got], document)
  np.testing.assert_array_equal(position[got] // 4, position // 4)
  # Another permutation in most windows; all 24 of them are as likely.
  orders = [tuple(w - w.min()) for w in got[18:].reshape(-1, 4)]
  assert len(set(orders)) > 20
  # Documents of the same length are permuted differently.
  twice = windows.shuffle_in_windows(
      np.tile(np.arange(40), 2), np.repeat([0, 1], 40),
      np.tile(np.arange(40), 2), 4, 5,
  ).reshape(2, 40)
  assert (twice[0] != twice[1]).mean() > 0.5
  # A document alone is permuted in the same way.
  alone = windows.shuffle_in_windows(
      tokens[11:18], document[11:18], position[11:18], 4, 5
  )
  np.testing.assert_array_equal(alone, got[11:18])
  # Windows of one token change nothing.
  one = windows.shuffle_in_windows(tokens, document, position, 1, 5)
  np.testing.assert_array_equal(one, tokens)


@pytest.mark.parametrize(
    'arguments,message',
    [
        (([3], 0, None), 'context must be .* got 0'),
        (([3], 4, 5), 'stride must be .* between 1 and 4, got 5'),
        (([3], 4, 0), 'stride must be .* got 0'),
        (([3, 0], 4, 2), 'lengths must be .* at least 1, got'),
        (([[3]], 4, 2), 'lengths must be'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    windows.scoring_windows(*arguments)


def test_bad_window_is_refused():
  with pytest.raises(ValueError, match='window must be .* got 0'):
    windows.shuffle_in_windows(*[np.zeros(2, int)] * 3, 0, 0)
