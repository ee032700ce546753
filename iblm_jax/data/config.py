"""From one config to the sources of training and evaluation."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from iblm_jax import fields, tagged
from iblm_jax.data import _checks, batches, identity, kinds
from iblm_jax.data import documents as documents_lib
from iblm_jax.data.text import published, tokenizers

# The groups that a written config has, whatever its kind.
_WRITTEN = (
    'multiplication', 'markov', 'needle', 'text', 'shards', 'topics', 'words',
    'pages', 'shard_documents',
)
_OPTIONS = tagged.Union(
    'kind',
    lambda: {name: kinds.get(name).options for name in kinds.names()},
    is_grouped=True,
    written=lambda: {name: kinds.get(name).default for name in _WRITTEN},
)


@dataclasses.dataclass(frozen=True, init=False)
class DataConfig:
  """Options of the data of a run.

  In config files and flags, the options of the kind are a group of its name, as
  in `--config.data.text.paths=book.txt`. Here as well they can be given, and
  read, under that name.

  Attributes:
    kind: One of `kinds.names()`.
    batch_size: Rows of a global batch, 1..2**31-1.
    seed: Seed of examples and shuffling, 0..2**63-1; evaluation sets do not
      depend on it.
    num_threads: Threads that read ahead, 1..256.
    prefetch: Batches that are read ahead, 0..4096.
    options: Options of the kind. Some kinds have a default.
    eval_units: Most documents of the evaluation set 'heldout' of data whose
      documents are the units of a certificate, at least 1.

  Raises:
    ValueError: An option is out of its range or missing.

  >>> DataConfig(batch_size=8).kind
  'multiplication'
  >>> DataConfig(multiplication=DataConfig().options).multiplication.digits
  (1, 2)
  """

  kind: str = 'multiplication'
  batch_size: int = fields.field(64, low=1, high=2**31 - 1)
  seed: int = fields.field(0, low=0, high=2**63 - 1)
  num_threads: int = fields.field(1, low=1, high=256)
  prefetch: int = fields.field(4, low=0, high=4096)
  options: Any = tagged.field(_OPTIONS, default=None)
  eval_units: int = fields.field(1000, low=1)

  def __init__(
      self,
      kind: str = 'multiplication',
      batch_size: int = 64,
      seed: int = 0,
      num_threads: int = 1,
      prefetch: int = 4,
      options: Any = None,
      eval_units: int = 1000,
      **groups: Any,
  ):
    for name, value in (
        ('kind', kinds.get(kind).name), ('batch_size', batch_size),
        ('seed', seed), ('num_threads', num_threads), ('prefetch', prefetch),
        ('options', _chosen(kind, options, groups)), ('eval_units', eval_units),
    ):
      object.__setattr__(self, name, value)
    fields.check(self)

  def __getattr__(self, name: str) -> Any:
    """Gives the options of a kind by its name: None where it is not chosen."""
    if name in kinds.names():
      return self.options if name == self.kind else kinds.get(name).default
    raise AttributeError(f'DataConfig has no attribute {name!r}')


def _chosen(kind: str, options: Any, groups: Mapping[str, Any]) -> Any:
  """The options of the kind, of those given; all must be of the right class."""
  for name, value in {kind: options, **groups}.items():
    if name not in kinds.names():
      raise TypeError(f'DataConfig has no field {name!r}.')
    record = kinds.get(name)
    needed = name == kind
    if value is None and name not in groups:
      value = record.default
    may_miss = not needed and record.default is None and value is None
    if not may_miss and not isinstance(value, record.options):
      wanted = f'for kind={kind!r}' if needed else 'or None'
      raise ValueError(
          f'{name} must be a {record.options.__name__} {wanted}, got {value!r}.'
      )
    if needed:
      options = value
  return options


def make_tokenizer(config: DataConfig) -> tokenizers.Tokenizer:
  """Returns the tokenizer between the tokens of the data and text.

  Raises:
    ValueError: The tokens are no text, or the tokenizer cannot be loaded (see
      `tokenizers.load_tokenizer`).

  >>> make_tokenizer(DataConfig()).decode([1, 6, 3, 7, 4, 7, 2])
  '1x2=2'
  """
  make = kinds.get(config.kind).make_tokenizer
  if make is None:
    raise ValueError(
        f'kind must be one of {kinds.names("make_tokenizer")}, got'
        f' {config.kind!r}, whose tokens are no text.'
    )
  return make(config.options)


def identity_of(
    config: DataConfig, *, tokenizer_only: bool = False
) -> dict[str, Any]:
  """Returns what the data are, JSON by name: see `identity.difference`.

  Args:
    config: The data; files are read in whole or in part.
    tokenizer_only: Leaves out all but the file of the tokenizer.

  Raises:
    ValueError: A file is missing or none.

  >>> identity_of(DataConfig())
  {}
  """
  kind, found = kinds.get(config.kind), {}
  if kind.tokenizer_file is not None:
    spec = kind.tokenizer_file(config.options)
    if spec is not None:
      file = published.tokenizer_file(spec)
      found[f'tokenizer {spec!r}'] = identity.of_file(file)
  if kind.identity is not None and not tokenizer_only:
    with warnings.catch_warnings(action='ignore'):  # who reads them says it
      found |= kind.identity(config.options)
  return found


def split_names(config: DataConfig) -> tuple[str, ...]:
  """Returns the names of the splits: 'train', then the evaluation sets.

  >>> split_names(DataConfig())
  ('train', 'in_distribution', 'out_of_distribution')
  """
  return kinds.get(config.kind).split_names(config.options)


def row_length(config: DataConfig) -> int:
  """Returns the tokens of a training row, L; no file is looked at.

  >>> row_length(DataConfig())
  16
  """
  return kinds.get(config.kind).row_length(config.options)


def make_documents(config: DataConfig) -> documents_lib.Documents:
  """Returns the documents that a certificate is about.

  Raises:
    ValueError: The kind has none, or a file cannot be used.

  >>> from iblm_jax.data.sources import topics
  >>> options = topics.TopicsConfig(num_train=5)
  >>> make_documents(DataConfig(kind='topics', options=options)).num_train
  5
  """
  kind = kinds.get(config.kind)
  if kind.make_documents is None:
    raise ValueError(
        f'kind must be one of {kinds.names("make_documents")}, got'
        f' {config.kind!r}.'
    )
  return kind.make_documents(config.options)


def make_sources(config: DataConfig) -> dict[str, batches.Source]:
  """Returns the sources of all splits by name; 'train' is the first.

  Raises:
    ValueError: A file or the tokenizer cannot be used, or a text does not fill
      one row.

  >>> make_sources(DataConfig())['in_distribution'].num_eval_batches
  16
  """
  return _make_sources(config, split_names(config))


def make_source(config: DataConfig, split: str = 'train') -> batches.Source:
  """Returns the source of one split; raises what `make_sources` raises.

  >>> make_source(DataConfig(), 'train').length
  16
  """
  _checks.check_choice('split', split, split_names(config))
  return _make_sources(config, (split,))[split]


def eval_sets(config: DataConfig) -> dict[str, batches.Source]:
  """Returns the evaluation sets by name; raises what `make_sources` raises.

  >>> sorted(eval_sets(DataConfig()))
  ['in_distribution', 'out_of_distribution']
  """
  return _make_sources(config, split_names(config)[1:])


def _make_sources(
    config: DataConfig, splits: tuple[str, ...]
) -> dict[str, batches.Source]:
  kind = kinds.get(config.kind)
  if not splits:
    return {}
  if kind.make_sources is not None:
    made = kind.make_sources(
        config.options, splits, batch_size=config.batch_size, seed=config.seed
    )
    return dict(made)
  documents = make_documents(config)
  return {
      split: documents_lib.DocumentSource(
          documents, split, config.batch_size, config.seed, config.eval_units
      )
      for split in splits
  }
