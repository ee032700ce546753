"""Multiplication by characters: `<bos>a x b = c<eos>` (arXiv 2505.08727).

Example i is a function of the seed and of i; nothing is stored. Which side of
the split a pair of operands is on is a function of the pair alone.
"""

import dataclasses
import math

import numpy as np

from iblm_jax import fields
from iblm_jax.data import _checks, generated, hashing, kinds
from iblm_jax.data.text import tokenizers

SPLITS = ('train', 'in_distribution', 'out_of_distribution')

_TOKENS = tokenizers.DigitTokenizer
# Products of two operands of nine digits still fit in 63 bits.
_MAX_DIGITS = 9
_POWERS_OF_TEN = 10 ** np.arange(2 * _MAX_DIGITS + 1, dtype=np.int64)
# Separate the draws that decide the split from those that make examples, and
# the examples of one split from those of another.
_SPLIT_KEY = 0x1B1A
# Attempts drawn at once for examples whose operands are not found yet; how many
# changes the speed only.
_ATTEMPTS = 4
_EXAMPLE_KEYS = {split: 0xDA7A + i for i, split in enumerate(SPLITS)}


@dataclasses.dataclass(frozen=True)
class MultiplicationConfig:
  """Options of the multiplication task.

  Attributes:
    digits: Least and most digits of an operand in training and in the
      in-distribution set; 1..9.
    ood_digits: The same for the out-of-distribution set; its least must exceed
      the most of training.
    holdout: Share of the unordered operand pairs kept out of training, 0.001
      to 0.999; the in-distribution set is drawn from these.
    eval_rows: Examples of each evaluation set, at least 1.
    length_multiple: Rows are filled up to a multiple of it, 1..1024, so that
      they can be cut into patches.

  Raises:
    ValueError: An option is out of its range, or `holdout` leaves no pair on
      one side.

  >>> MultiplicationConfig(digits=(1, 2)).row_length('train')
  16
  """

  digits: tuple[int, int] = (1, 2)
  ood_digits: tuple[int, int] = (3, 3)
  holdout: float = fields.field(0.1, low=0.001, high=0.999)
  eval_rows: int = 1024
  length_multiple: int = fields.field(8, low=1, high=1024)

  def __post_init__(self):
    # Configs may come with lists; a frozen config has to be hashable.
    least = 1
    for name, most in (('digits', 8), ('ood_digits', _MAX_DIGITS)):
      pair = _checks.check_range(name, getattr(self, name), least, most)
      object.__setattr__(self, name, pair)
      least = pair[1] + 1
    fields.check(self)
    _checks.check_int('eval_rows', self.eval_rows, 1)
    self._check_sides()

  def _check_sides(self):
    """Both sides must hold a pair, or drawing from one would never end."""
    if self.digits[1] > 2:
      return  # At least 400,000 pairs: neither side is empty.
    operands = np.arange(10 ** (self.digits[0] - 1), 10 ** self.digits[1])
    held_out = is_held_out(operands[:, None], operands, self.holdout)
    if held_out.all() or not held_out.any():
      side = 'training' if held_out.all() else 'the in-distribution set'
      raise ValueError(
          f'holdout must leave a pair for {side} with digits={self.digits},'
          f' got holdout={self.holdout}.'
      )

  def split_digits(self, split: str) -> tuple[int, int]:
    """Returns the least and most digits of an operand in `split`."""
    _checks.check_choice('split', split, SPLITS)
    return self.ood_digits if split == 'out_of_distribution' else self.digits

  def row_length(self, split: str) -> int:
    """Returns the tokens of a row: of the longest example, rounded up."""
    most = self.split_digits(split)[1]
    # bos, both operands, x, = and the product; eos is a target only.
    longest = 3 + 4 * most
    return math.ceil(longest / self.length_multiple) * self.length_multiple


def is_held_out(
    a: np.ndarray, b: np.ndarray, holdout: float
) -> np.ndarray:
  """Returns whether the unordered pairs {a, b} are kept out of training.

  `holdout` is the share of pairs that are. The same for every seed, so that
  runs with different seeds are evaluated on the same pairs.

  >>> bool(is_held_out(12, 7, 0.5)) == bool(is_held_out(7, 12, 0.5))
  True
  """
  key = hashing.fold(_SPLIT_KEY, np.minimum(a, b))
  key = hashing.fold(key, np.maximum(a, b))
  # The upper 53 bits are exact as a float64 in [0, 1).
  return (key >> np.uint64(11)) * 2.0**-53 < holdout


class MultiplicationSource(generated.GeneratedSource):
  """Random access to examples of one split; see `generated.GeneratedSource`.

  Digit counts of both operands are uniform, then each operand is uniform among
  the numbers with that many digits (0 is none); pairs on the other side of the
  split are drawn again. The answer, after `=` up to and including eos, counts
  in the loss. The evaluation sets are the same for every seed and batch size.

  >>> source = MultiplicationSource(MultiplicationConfig(), batch_size=2)
  >>> source.batch(0)['tokens'].shape
  (2, 16)
  """

  config: MultiplicationConfig
  splits = SPLITS
  vocab_size = _TOKENS.vocab_size

  @property
  def length(self) -> int:
    """Tokens of a row."""
    return self.config.row_length(self.split)

  @property
  def num_heldout(self) -> int:
    """Rows of an evaluation set."""
    return self.config.eval_rows

  def operands(self, i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the operands of the examples `i`, int64 [n]: two such arrays."""
    seed = self.seed if self.split == 'train' else 0
    key_N = hashing.fold(hashing.fold(seed, _EXAMPLE_KEYS[self.split]), i)
    pair_Nx2 = np.zeros((key_N.size, 2), np.int64)
    pending = np.arange(key_N.size)
    attempts_A = np.arange(_ATTEMPTS)
    while pending.size:
      drawn_NxAx2 = self._draw(key_N[pending], attempts_A)
      usable_NxA = self._is_usable(drawn_NxAx2)
      found_N = usable_NxA.any(axis=1)
      first_N = usable_NxA.argmax(axis=1)
      pair_Nx2[pending] = drawn_NxAx2[np.arange(pending.size), first_N]
      pending = pending[~found_N]
      attempts_A = attempts_A + _ATTEMPTS
    return pair_Nx2[:, 0], pair_Nx2[:, 1]

  def _draw(self, key_N: np.ndarray, attempts_A: np.ndarray) -> np.ndarray:
    """Operands, whatever side they are on, int64 of shape [N, A, 2]."""
    key_NxAx1 = hashing.fold(key_N[:, None], attempts_A)[..., None]
    least, most = self.config.split_digits(self.split)
    count_key = hashing.fold(key_NxAx1, np.array([0, 1]))
    value_key = hashing.fold(key_NxAx1, np.array([2, 3]))
    count = least + hashing.below(count_key, most - least + 1)
    smallest = _POWERS_OF_TEN[count - 1]
    return smallest + hashing.below(value_key, 9 * smallest)

  def _is_usable(self, pairs: np.ndarray) -> np.ndarray:
    """Whether pairs of shape [..., 2] belong to the split."""
    if self.split == 'out_of_distribution':
      return np.ones(pairs.shape[:-1], bool)  # Larger operands than training.
    held_out = is_held_out(pairs[..., 0], pairs[..., 1], self.config.holdout)
    return held_out == (self.split == 'in_distribution')

  def make_rows(
      self, i: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes the examples `i`, of which the answers count."""
    return _render(*self.operands(i), self.length)


def _render(
    a: np.ndarray, b: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rows of the examples a x b = ab, see `GeneratedSource.make_rows`."""
  n = a.size
  # Position 0 is bos; each number starts where the one before it ends.
  sequence = np.full((n, length + 1), _TOKENS.pad_id, np.int32)
  row = np.arange(n)
  sequence[:, 0] = _TOKENS.bos_id
  end = np.ones(n, np.int64)
  for value, mark in (
      (a, _TOKENS.times_id),
      (b, _TOKENS.equals_id),
      (a * b, _TOKENS.eos_id),
  ):
    answer_start = end  # Of the last number, once the loop is done.
    count = np.searchsorted(_POWERS_OF_TEN, value, side='right')
    # Digit j, from the left, stands before count - 1 - j others.
    j = np.arange(count.max(initial=1))
    row_d, j_d = np.nonzero(j < count[:, None])
    digit_d = value[row_d] // _POWERS_OF_TEN[count[row_d] - 1 - j_d] % 10
    sequence[row_d, end[row_d] + j_d] = _TOKENS.zero_id + digit_d
    end = end + count
    sequence[row, end] = mark
    end = end + 1
  # The target t is the token t + 1; eos, the last token, is a target only.
  t = np.arange(length)
  return sequence, t < end[:, None] - 1, t >= answer_start[:, None] - 1


kinds.register(
    kinds.Kind(
        'multiplication',
        MultiplicationConfig,
        MultiplicationSource.of_splits,
        split_names=lambda options: SPLITS,
        row_length=lambda options: options.row_length('train'),
        make_tokenizer=lambda options: _TOKENS(),
        default=MultiplicationConfig(),
    )
)
