"""Rows of token ids from files that were tokenised before.

See `shard_files` for the files and `prepare` for the program that writes them.
A row is read from one file; rows of a file do not overlap. Training orders the
rows of all files anew in every epoch and begins the rows of each file at a
random offset, below 2 L, so that they are cut elsewhere each time. Neither the
order nor the tokens are ever held in memory.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import fields, files
from iblm_jax.data import _checks, batches, hashing, identity
from iblm_jax.data.shards import files as shard_files
from iblm_jax.data.text import tokenizers

# Names of the two draws of an epoch.
_ROW_ORDER, _OFFSET = 0, 1
# Rows whose places are found at once, because of the cost of a call in NumPy;
# how many changes the speed only.
_BLOCK_ROWS = 4096
_CACHED_BLOCKS = 16


@dataclasses.dataclass(frozen=True)
class ShardsConfig:
  """Options of tokenised files.

  Attributes:
    train: Paths or globs of `.bin` or `.array_record` files; a single string
      is split at its commas.
    validation: The same; empty means no validation set.
    seq_len: Tokens of a row, L, 1..2**24.
    eot_id: Token that begins a document, 0..vocab_size-1; also fills up rows.
    vocab_size: Tokens are in 0..vocab_size-1; 1..65536.
    eval_rows: Rows of the validation pass; None is all of them.

  Raises:
    ValueError: An option is out of its range.

  >>> ShardsConfig(train='a_*.bin,b.bin').train
  ('a_*.bin', 'b.bin')
  """

  train: tuple[str, ...]
  validation: tuple[str, ...] = ()
  seq_len: int = fields.field(1024, low=1, high=2**24)
  eot_id: int = 50256
  vocab_size: int = fields.field(50257, low=1, high=2**16)
  eval_rows: int | None = fields.field(None, low=1)

  def __post_init__(self):
    for name in ('train', 'validation'):
      object.__setattr__(self, name, _paths(name, getattr(self, name)))
    if not self.train:
      raise ValueError(f'train must name at least one file, got {self.train}.')
    fields.check(self)
    _checks.check_int('eot_id', self.eot_id, 0, self.vocab_size - 1)


def _paths(name: str, value: Any) -> tuple[str, ...]:
  paths = value.split(',') if isinstance(value, str) else value
  is_list = isinstance(paths, tuple | list)
  if is_list and list(paths) == ['']:
    return ()  # What an empty flag gives.
  if not is_list or not all(isinstance(path, str) and path for path in paths):
    raise ValueError(f'{name} must be paths or globs of files, got {value!r}.')
  return tuple(paths)


def find_files(config: ShardsConfig) -> dict[str, list[str]]:
  """Returns the paths of 'train' and 'validation', see `find_shards`."""
  return {
      name: shard_files.find_shards(name, getattr(config, name))
      for name in ('train', 'validation')
  }


def open_shards(config: ShardsConfig) -> dict[str, list[shard_files.Shard]]:
  """Opens the files of 'train' and 'validation', in the order of their names.

  Files too short for a row (`seq_len` + 1 tokens for training, 2 else) are left
  out where others are not, as the last one of a corpus may be; a warning says
  so.

  Raises:
    ValueError: A pattern matches nothing, a file is damaged or in both splits.
  """
  files = find_files(config)
  shared = sorted(set(files['train']) & set(files['validation']))
  if shared:
    raise ValueError(
        f'validation must have no file of train, got {shared[0]!r} in both.'
    )
  return {
      name: _long_enough(
          name,
          [shard_files.open_shard(path) for path in paths],
          config.seq_len + 1 if name == 'train' else 2,
      )
      for name, paths in files.items()
  }


def _long_enough(
    name: str, shards: list[shard_files.Shard], least: int
) -> list[shard_files.Shard]:
  """Those that hold a row; all of them if none does."""
  kept = [shard for shard in shards if shard.num_tokens >= least]
  if not kept or len(kept) == len(shards):
    return shards
  short = [shard for shard in shards if shard.num_tokens < least]
  warnings.warn(
      f'{name}: {len(short)} of {len(shards)} files have fewer than the {least}'
      f' tokens of a row and are left out, such as {short[0].path!r} with'
      f' {short[0].num_tokens}.',
      stacklevel=3,
  )
  return kept


def check_index(config: ShardsConfig) -> None:
  """Checks the files of a config, see `check_listed`."""
  check_listed(sum(find_files(config).values(), []), config.eot_id)


def check_listed(paths: Iterable[str], eot_id: int) -> None:
  """Checks files against what an index beside them says.

  Raises:
    ValueError: It names another mark between documents, or has other contents
      for a file, of which only some are read where it is large.
  """
  by_folder: dict[epath.Path, list[epath.Path]] = {}
  for path in paths:
    by_folder.setdefault(epath.Path(path).parent, []).append(epath.Path(path))
  for folder, inside in by_folder.items():
    index = folder / shard_files.INDEX
    try:
      found = files.read_json(index) if index.exists() else {}
      mark = found.get('eot_id')
      listed = {one['name']: one for one in found.get('shards', ())}
    except (ValueError, AttributeError, TypeError, KeyError):
      continue  # It counts only for who needs the tokenizer.
    if isinstance(mark, int) and mark != eot_id:
      raise ValueError(
          f'eot_id must be {mark}, which begins the documents of'
          f' {str(inside[0])!r} as {str(index)!r} says, got {eot_id}.'
      )
    named = [path for path in inside if path.name in listed]
    now = identity.of_files(named, sampled=True)
    then = dict(zip(now, (listed[path.name] for path in named), strict=True))
    differs = identity.difference(then, now)
    if differs is not None:
      raise ValueError(
          f'{differs}: it is not the one that {str(index)!r} lists. Run'
          ' iblm-prepare again with another --out, or copy all files anew.'
      )


def make_tokenizer(config: ShardsConfig) -> tokenizers.Tokenizer:
  """Loads the tokenizer that the index beside the first training file names.

  Raises:
    ValueError: There is no readable index, it names no tokenizer, or the
      tokenizer cannot be loaded.
  """
  return tokenizers.load_tokenizer(_tokenizer_name(config))


def tokenizer_file(config: ShardsConfig) -> str | None:
  """Returns the path of that tokenizer; None if there is none, or no file."""
  try:
    name = _tokenizer_name(config)
  except ValueError:
    return None  # Only who needs the tokenizer needs to know why.
  return name if epath.Path(name).is_file() else None


def _tokenizer_name(config: ShardsConfig) -> str:
  first = shard_files.find_shards('train', config.train)[0]
  path = epath.Path(first).parent / shard_files.INDEX
  if not path.exists():
    raise ValueError(
        f'shard {first!r} does not say how its text was tokenised: put an'
        f" {shard_files.INDEX} beside it that holds {{'tokenizer': NAME}}, NAME"
        " being 'bytes' or a .json or .model file in that folder, as"
        ' iblm_jax.data.prepare does.'
    )
  try:
    name = files.read_json(path)['tokenizer']
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
        f'file {str(path)!r} must be a JSON object with a field'
        f" 'tokenizer': {e!r}."
    ) from e
  beside = path.parent / str(name)
  return str(beside) if beside.exists() else str(name)


class ShardSource:
  """Random access to rows of tokenised files; see `batches.Source`.

  Row r of batch k is row k * batch_size + r of an endless sequence of epochs,
  or of one pass in order, in which the last row of each file is filled up.
  Every target counts in the loss; the last one of a document is the
  end-of-text token of the next. Several threads may read it.

  Args:
    shards: The open files, at least one.
    seq_len: Tokens of a row, L, at least 1.
    eot_id: Token that begins a document, 0..vocab_size-1; also fills up rows.
    vocab_size: Tokens are in 0..vocab_size-1; 1..65536.
    batch_size: Rows of a global batch, at least 1.
    seed: Seed of the shuffling, 0..2**63-1.
    train: Endless and shuffled if True, else one pass in order.
    eval_rows: With `train` False, at most so many rows; None is all of them.

  Raises:
    ValueError: An argument is out of its range, or a file is too short for one
      row: `seq_len` + 1 tokens for training, 2 else.
  """

  num_eval_batches: int | None

  def __init__(
      self,
      shards: Sequence[shard_files.Shard],
      *,
      seq_len: int,
      eot_id: int,
      vocab_size: int,
      batch_size: int,
      seed: int = 0,
      train: bool = True,
      eval_rows: int | None = None,
  ):
    if not shards:
      raise ValueError('shards must hold at least one file, got none.')
    self.shards = tuple(shards)
    self.length = _checks.check_int('seq_len', seq_len, 1)
    self.vocab_size = _checks.check_int('vocab_size', vocab_size, 1, 2**16)
    self.batch_size = _checks.check_int('batch_size', batch_size, 1)
    self._eot_id = _checks.check_int('eot_id', eot_id, 0, vocab_size - 1)
    self._seed = _checks.check_int('seed', seed, 0, 2**63 - 1)
    self._train = train
    least = self.length + 1 if train else 2
    for shard in shards:
      if shard.num_tokens < least:
        raise ValueError(
            f'shard {shard.path!r} must hold at least {least} tokens for one'
            f' row with {seq_len=}, got {shard.num_tokens}.'
        )
    self._positions_S = np.array([s.num_tokens - 1 for s in shards], np.int64)
    if train:
      # As many rows as any offset below L leaves, so that all epochs have the
      # same number; a file too short for that has one row.
      rows_S = np.maximum((self._positions_S + 1) // self.length - 1, 1)
      self.num_rows = int(rows_S.sum())
      self.num_eval_batches = None
    else:
      rows_S = -(-self._positions_S // self.length)
      self.num_rows = int(rows_S.sum())
      if eval_rows is not None:
        eval_rows = _checks.check_int('eval_rows', eval_rows, 1)
        self.num_rows = min(self.num_rows, eval_rows)
      self.num_eval_batches = -(-self.num_rows // self.batch_size)
    self._ends_S = np.cumsum(rows_S)
    self._starts_S = self._ends_S - rows_S
    # Of all offsets that leave room for the rows, so that no part of a file is
    # left out in every epoch.
    self._offsets_S = self._positions_S + 1 - rows_S * self.length
    self._block = functools.lru_cache(_CACHED_BLOCKS)(self._places_of_block)

  def batch(
      self, k: int, rows: Sequence[int] | None = None
  ) -> batches.Batch:
    """Returns rows of global batch `k`, a function of (seed, k).

    Raises:
      ValueError: `k` or a row is out of its range, or a file is damaged or
        holds a token outside of the vocabulary.
    """
    number_b = batches.row_numbers(
        k, rows, batch_size=self.batch_size, num_batches=self.num_eval_batches
    )
    sequence = np.empty((number_b.size, self.length + 1), np.uint16)
    count_b = np.zeros(number_b.size, np.int64)
    places = self._places(number_b)
    for row, (shard, begin, count) in enumerate(places):
      count_b[row] = count
      if count:
        count += 1  # The target of the last position.
        sequence[row, :count] = self.shards[shard].read(begin, begin + count)
      sequence[row, count:] = self._eot_id
    if sequence.max() >= self.vocab_size:
      row, place = np.unravel_index(sequence.argmax(), sequence.shape)
      shard, begin, _ = places[int(row)]
      raise ValueError(
          f'shard {self.shards[shard].path!r} must hold tokens between 0 and'
          f' {self.vocab_size - 1}, got {sequence[row, place]} at token'
          f' {begin + int(place)}.'
      )
    return self._render(sequence, count_b)

  def _render(
      self, sequence: np.ndarray, count_b: np.ndarray
  ) -> batches.Batch:
    """The batch of rows of L + 1 tokens, of which `count_b` + 1 are there."""
    starts = sequence[:, :-1] == self._eot_id
    starts[:, 0] = True  # The rest of a document is a piece as well.
    t = np.arange(self.length, dtype=np.int32)
    segment_ids = np.cumsum(starts, axis=1, dtype=np.int32)
    positions = batches.positions_since(starts)
    tokens = sequence[:, :-1].astype(np.int32)
    mask = np.ones(starts.shape, bool)
    if count_b.min() < self.length:
      mask = t < count_b[:, None]
      segment_ids *= mask
      positions *= mask
      tokens[~mask] = self._eot_id
    return {
        'tokens': tokens,
        'targets': sequence[:, 1:].astype(np.int32),
        'loss_mask': mask.copy(),
        'mask': mask,
        'segment_ids': segment_ids,
        'positions': positions,
    }

  def _places(self, number_b: np.ndarray) -> list[tuple[int, int, int]]:
    """Shard, first token and length of rows; a length of 0 is padding."""
    places = []
    for number in number_b.tolist():
      block, row = divmod(number, _BLOCK_ROWS)
      places.append(self._block(block)[row])
    return places

  def _places_of_block(self, block: int) -> list[tuple[int, int, int]]:
    number_b = block * _BLOCK_ROWS + np.arange(_BLOCK_ROWS)
    epoch_b, row_b = np.divmod(number_b, self.num_rows)
    key_b = hashing.fold(self._seed, epoch_b)
    if self._train:
      row_b = hashing.shuffled(
          hashing.fold(key_b, _ROW_ORDER), row_b, self.num_rows
      )
    shard_b = np.searchsorted(self._ends_S, row_b, side='right')
    begin_b = (row_b - self._starts_S[shard_b]) * self.length
    if self._train:
      offset_key_b = hashing.fold(hashing.fold(key_b, _OFFSET), shard_b)
      begin_b += hashing.below(offset_key_b, self._offsets_S[shard_b])
    count_b = np.minimum(self._positions_S[shard_b] - begin_b, self.length)
    if not self._train:
      count_b[epoch_b > 0] = 0  # Beyond the pass there is nothing.
    return list(
        zip(shard_b.tolist(), begin_b.tolist(), count_b.tolist(), strict=True)
    )
