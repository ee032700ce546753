"""Documents of token shards as units: a corpus that is too large for memory.

The documents of all files are a finite list, of which a random part trains. A
document begins with an end-of-text token; the next one's ends it. Their places
are found by reading the files once; tokens stay on disk.
"""

import dataclasses
import hashlib

import numpy as np

from iblm_jax import fields
from iblm_jax.data import _checks, identity, kinds, stored
from iblm_jax.data.shards import files as shard_files
from iblm_jax.data.shards import source

# Tokens that are looked at together, 32 MB.
_PIECE = 2**24


@dataclasses.dataclass(frozen=True)
class ShardDocumentsConfig:
  """Options of documents in token shards.

  Attributes:
    files: Paths of `.bin` files, in which the last parts may have wildcards;
      sorted, one stream. See `shard_files`.
    eot_id: The end-of-text token, also the end mark of a text.
    vocab_size: Tokens are in 0..vocab_size-1.
    num_train: Documents of the training set, m, at least 1 and fewer than there
      are.
    seed: Seed of the choice of the training set, 0..2**63-1.
    length: Tokens of a row, 1..2**16.
    stride: New targets of each window of longer documents, 1..length; None for
      their first `length` targets only.

  Raises:
    ValueError: An option is out of its range.

  >>> ShardDocumentsConfig(('a_*.bin',), 50_256, 50_257, 8_000_000).length
  1024
  """

  files: tuple[str, ...] = fields.field(least=1)
  eot_id: int = fields.field(low=0)
  vocab_size: int = fields.field(low=2, high=2**16)
  num_train: int = fields.field(low=1)
  seed: int = fields.field(0, low=0, high=2**63 - 1)
  length: int = fields.field(1024, low=1, high=2**16)
  stride: int | None = None

  def __post_init__(self):
    if not self.files:
      raise ValueError(f'files must name a .bin file, got {self.files!r}.')
    fields.check(self)
    _checks.check_int('eot_id', self.eot_id, 0, self.vocab_size - 1)
    if self.stride is not None:
      _checks.check_int('stride', self.stride, 1, self.length)


def load_documents(config: ShardDocumentsConfig) -> stored.StoredDocuments:
  """Finds the documents of token shards; see `documents.Documents`.

  Raises:
    ValueError: A file is missing, damaged, no `.bin` or not the one that the
      index beside it lists, holds another token than the vocabulary, or the
      files hold too few documents.
  """
  paths = shard_files.find_shards('files', config.files)
  for path in paths:
    if not path.endswith('.bin'):
      raise ValueError(f'files must be .bin files, got {path!r}.')
  source.check_listed(paths, config.eot_id)
  shards = [shard_files.BinShard(path) for path in paths]
  hashes = {}
  starts, total = [], 0
  for shard in shards:
    found = hashlib.sha256()
    for start in range(0, shard.num_tokens, _PIECE):
      piece = shard.read(start, min(start + _PIECE, shard.num_tokens))
      found.update(np.ascontiguousarray(piece).data)
      if piece.max() >= config.vocab_size:
        raise ValueError(
            f'shard {shard.path!r} must hold tokens below vocab_size ='
            f' {config.vocab_size}, got {piece.max()} at token'
            f' {start + int(piece.argmax())}.'
        )
      starts.append(total + start + np.flatnonzero(piece == config.eot_id))
    name = shard.path.rsplit('/', 1)[-1]
    if name in hashes:
      raise ValueError(f'files must have distinct names, got {name!r} twice.')
    hashes[name] = found.hexdigest()
    total += shard.num_tokens
  start_D = np.concatenate(starts) if starts else np.zeros(0, np.int64)
  if start_D.size <= config.num_train:
    raise ValueError(
        f'num_train must be below the {start_D.size} documents of'
        f' {config.files}, got {config.num_train}.'
    )
  lengths = np.diff(np.append(start_D, total))
  return stored.StoredDocuments(
      _Stream(shards, int(start_D[0]), config.eot_id),
      lengths,
      np.ones_like(lengths),
      vocab_size=config.vocab_size,
      end_id=config.eot_id,
      num_train=config.num_train,
      seed=config.seed,
      context=config.length,
      stride=config.stride,
      unit='document of the shards',
      files=hashes,
  )


class _Stream:
  """Tokens of several files as one array on disk, an end mark behind it.

  Args:
    shards: the files, in order.
    first: token that the stream begins with; those before are of a document
      whose beginning is not there.
    end_id: the mark.
  """

  def __init__(
      self, shards: list[shard_files.BinShard], first: int, end_id: int
  ):
    self._shards, self._first, self._end_id = shards, first, end_id
    self._begin_S1 = np.cumsum([0, *(shard.num_tokens for shard in shards)])
    self.size = int(self._begin_S1[-1]) - first + 1

  def __getitem__(self, key) -> np.ndarray:
    """Tokens of a slice of step 1 or of an integer array, uint16."""
    if isinstance(key, slice):
      key = np.arange(*key.indices(self.size))
    place = np.asarray(key) + self._first
    found = np.full(place.shape, self._end_id, np.uint16)
    number = np.searchsorted(self._begin_S1, place, side='right') - 1
    for shard in np.unique(number[place < self._begin_S1[-1]]):
      here = number == shard
      tokens = self._shards[shard].read(0, self._shards[shard].num_tokens)
      found[here] = tokens[place[here] - self._begin_S1[shard]]
    return found


kinds.register(
    kinds.Kind(
        'shard_documents',
        ShardDocumentsConfig,
        make_documents=load_documents,
        identity=lambda options: identity.of_files(
            shard_files.find_shards('files', options.files), sampled=True
        ),
    )
)
