"""Rows that are made when they are read, each from its number alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from iblm_jax.data import _checks, batches

# Booleans [n, L], or what broadcasts to them.
Mask = np.ndarray | np.bool_ | bool


@dataclasses.dataclass(frozen=True)
class GeneratedSource:
  """Base of random access to generated rows; see `batches.Source`.

  A subclass defines `make_rows`. The evaluation sets should not depend on
  `seed`; rows beyond their last one become padding.

  Attributes:
    config: Options with the fields `vocab_size`, `length` and `num_heldout`,
      unless the subclass has the properties of these names.
    split: One of `splits`.
    batch_size: Rows of a global batch, at least 1.
    seed: Seed of the training rows, 0..2**63-1.

  Raises:
    ValueError: An argument is out of its range.
  """

  config: Any
  split: str = 'train'
  batch_size: int = 64
  seed: int = 0

  def __post_init__(self):
    _checks.check_choice('split', self.split, self.splits)
    _checks.check_int('batch_size', self.batch_size, 1)
    _checks.check_int('seed', self.seed, 0, 2**63 - 1)

  @classmethod
  def of_splits(
      cls, options: Any, splits: tuple[str, ...], *, batch_size: int, seed: int
  ) -> dict[str, Self]:
    """Returns a source of each split, as `kinds.MakeSources` does."""
    return {split: cls(options, split, batch_size, seed) for split in splits}

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits, 'train' first."""
    return 'train', 'heldout'

  @property
  def vocab_size(self) -> int:
    """Tokens are in 0..vocab_size-1."""
    return self.config.vocab_size

  @property
  def length(self) -> int:
    """Tokens of a row."""
    return self.config.length

  @property
  def num_heldout(self) -> int:
    """Rows of an evaluation set."""
    return self.config.num_heldout

  @property
  def num_eval_batches(self) -> int | None:
    """Batches of an evaluation set, the last one filled up; None: endless."""
    if self.split == 'train':
      return None
    return -(-self.num_heldout // self.batch_size)

  def batch(
      self, k: int, rows: Sequence[int] | None = None
  ) -> batches.Batch:
    """Returns rows of global batch `k`, a function of (seed, k).

    Raises:
      ValueError: `k` or a row is out of its range.
    """
    i = batches.row_numbers(
        k, rows, batch_size=self.batch_size, num_batches=self.num_eval_batches
    )
    is_there_n = (self.split == 'train') | (i < self.num_heldout)
    sequence_nxL1, mask, loss_mask = self.make_rows(i)
    return batches.render(
        sequence_nxL1, mask=mask & is_there_n[:, None], loss_mask=loss_mask
    )

  def make_rows(
      self, i: np.ndarray
  ) -> tuple[np.ndarray, Mask, Mask]:
    """Makes rows from their numbers.

    Args:
      i: int64 [n], at least 0.

    Returns:
      Tokens [n, L + 1]: a token and the one after it are an input and its
      target. Then which inputs are there and which of their targets count in
      the loss, booleans that broadcast to [n, L].
    """
    raise NotImplementedError
