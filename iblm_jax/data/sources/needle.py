"""Rows that ask for what stood anywhere before: the value of a key.

A row is C chunks. Among fillers, each but the last holds pairs of a key and a
value; no key occurs twice in these. The last chunk asks: key, value, key,
value, ..., then fillers. A key is asked for once, so no value can be told from
the last chunk alone: a model that cannot look back is at chance, and one that
remembers the values of a row but not their keys gets one in so many right.

Of V tokens, 0..V//4-1 are keys, the V//4 after them are values, and the others
are fillers. Row i is a function of the seed and of i; nothing is stored.
"""

import dataclasses

import numpy as np

from iblm_jax import fields
from iblm_jax.data import _checks, generated, hashing, kinds

# Separate the draws of training, of all evaluation sets, and within a row.
_TRAIN, _HELDOUT = 0x4EED, 0x4EEE
_FILLERS, _KEYS, _VALUES, _PLACES, _ORDER = range(5)


@dataclasses.dataclass(frozen=True)
class NeedleConfig:
  """Options of the source.

  Attributes:
    vocab_size: Tokens of all three ranges, 8..65536.
    num_chunks: Chunks of a row, C, the last of which asks, 2..1024.
    chunk_length: Tokens of a chunk, 2..65536.
    pairs: Pairs in each chunk but the last, 1..chunk_length // 2; the keys of
      a row must not be more than there are, `vocab_size // 4`.
    num_heldout: Rows of each evaluation set, at least 1.

  Raises:
    ValueError: An option is out of its range.

  >>> config = NeedleConfig()
  >>> config.length, config.chance
  (64, 0.0625)
  """

  vocab_size: int = fields.field(64, low=8, high=2**16)
  num_chunks: int = fields.field(4, low=2, high=1024)
  chunk_length: int = fields.field(16, low=2, high=2**16)
  pairs: int = 2
  num_heldout: int = fields.field(512, low=1, high=2**40)

  def __post_init__(self):
    fields.check(self)
    _checks.check_int('pairs', self.pairs, 1, self.chunk_length // 2)
    keys = (self.num_chunks - 1) * self.pairs
    if keys > self.num_values:
      raise ValueError(
          f'vocab_size must be at least {4 * keys} for the {keys} different'
          f' keys of a row with num_chunks={self.num_chunks} and'
          f' pairs={self.pairs}, got {self.vocab_size}.'
      )

  @property
  def num_values(self) -> int:
    """How many values there are, and how many keys."""
    return self.vocab_size // 4

  @property
  def chance(self) -> float:
    """Accuracy of a guess among the values."""
    return 1 / self.num_values

  @property
  def length(self) -> int:
    """Tokens of a row, T."""
    return self.num_chunks * self.chunk_length


def split_names(config: NeedleConfig) -> tuple[str, ...]:
  """Returns 'train', then an evaluation set for each chunk to ask for.

  >>> split_names(NeedleConfig())
  ('train', 'chunk_0', 'chunk_1', 'chunk_2')
  """
  chunks = range(config.num_chunks - 1)
  return ('train', *(f'chunk_{c}' for c in chunks))


class NeedleSource(generated.GeneratedSource):
  """Random access to the rows of one split; see `generated.GeneratedSource`.

  Training asks for keys of all chunks in random order, the set `chunk_c` for
  those of chunk c: each once, as many as the last chunk has room for. The
  values asked for, and nothing else, count in the loss. The evaluation sets
  share their earlier chunks, and are the same for every seed and batch size.

  >>> NeedleSource(NeedleConfig()).batch(0, [5])['loss_mask'].sum(axis=1)
  array([6])
  """

  config: NeedleConfig

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits, see `split_names`."""
    return split_names(self.config)

  def make_rows(self, i: np.ndarray) -> tuple[np.ndarray, bool, np.ndarray]:
    """Makes the rows `i` and a filler after each; asked targets count."""
    config = self.config
    pairs, num_values = config.pairs, config.num_values
    if self.split == 'train':
      key_n = hashing.fold(hashing.fold(_TRAIN, self.seed), i)
    else:
      key_n = hashing.fold(_HELDOUT, i)

    def draw(what: int, size: int) -> np.ndarray:
      key_nx1 = hashing.fold(key_n, what)[:, None]
      return hashing.fold(key_nx1, np.arange(size))

    num_sources = config.num_chunks - 1
    num_keys = num_sources * pairs
    tokens_nxT1 = 2 * num_values + hashing.below(
        draw(_FILLERS, config.length + 1), config.vocab_size - 2 * num_values
    )
    # Where the smallest of independent draws are: keys without repetition.
    key_nxK = draw(_KEYS, num_values).argsort(axis=1)[:, :num_keys]
    value_nxK = num_values + hashing.below(draw(_VALUES, num_keys), num_values)
    # With each pair taken as one token, every choice of places is possible.
    units = config.chunk_length - pairs
    draw_nxSxU = draw(_PLACES, num_sources * units).reshape(
        -1, num_sources, units
    )
    place_nxSxP = np.sort(draw_nxSxU.argsort(axis=2)[..., :pairs], axis=2)
    place_nxSxP += np.arange(pairs)
    place_nxSxP += config.chunk_length * np.arange(num_sources)[:, None]
    place_nxK = place_nxSxP.reshape(-1, num_keys)
    np.put_along_axis(tokens_nxT1, place_nxK, key_nxK, axis=1)
    np.put_along_axis(tokens_nxT1, place_nxK + 1, value_nxK, axis=1)
    first, count = 0, num_keys
    if self.split != 'train':
      first, count = pairs * int(self.split.removeprefix('chunk_')), pairs
    # The pairs come first, so that what comes before a query of an evaluation
    # set is what may come before it in training.
    room = config.chunk_length // 2
    asked_nxA = first + draw(_ORDER, count).argsort(axis=1)[:, :room]
    start = config.length - config.chunk_length
    end = start + 2 * asked_nxA.shape[1]
    tokens_nxT1[:, start:end:2] = np.take_along_axis(key_nxK, asked_nxA, axis=1)
    tokens_nxT1[:, start + 1 : end : 2] = np.take_along_axis(
        value_nxK, asked_nxA, axis=1
    )
    is_asked_T = np.zeros(config.length, bool)
    is_asked_T[start:end:2] = True
    return tokens_nxT1.astype(np.int32), True, is_asked_T


kinds.register(
    kinds.Kind(
        'needle', NeedleConfig, NeedleSource.of_splits, split_names=split_names
    )
)
