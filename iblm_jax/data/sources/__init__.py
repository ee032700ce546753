"""From one config to the sources of training and evaluation."""

import dataclasses

from iblm_jax.data import _checks, batches
from iblm_jax.data import documents as documents_lib
from iblm_jax.data.shards import source as shards_lib
from iblm_jax.data.sources import markov as markov_lib
from iblm_jax.data.sources import multiplication as multiplication_lib
from iblm_jax.data.sources import needle as needle_lib
from iblm_jax.data.sources import pages as pages_lib
from iblm_jax.data.sources import shard_documents as shard_documents_lib
from iblm_jax.data.sources import topics as topics_lib
from iblm_jax.data.sources import words as wordlist_lib
from iblm_jax.data.text import files as text_lib
from iblm_jax.data.text import packing, tokenizers

# Sources whose documents are the units of a bound, and their options.
DOCUMENT_KINDS = {
    'topics': topics_lib.TopicsConfig,
    'words': wordlist_lib.WordsConfig,
    'pages': pages_lib.PagesConfig,
    'shard_documents': shard_documents_lib.ShardDocumentsConfig,
}
# Kinds that are of no use without options.
_OPTIONS = {
    'markov': markov_lib.MarkovConfig,
    'needle': needle_lib.NeedleConfig,
    'text': text_lib.TextConfig,
    'shards': shards_lib.ShardsConfig,
    **DOCUMENT_KINDS,
}
# Kinds whose rows are made when they are read.
_GENERATED = {
    'multiplication': multiplication_lib.MultiplicationSource,
    'markov': markov_lib.MarkovSource,
    'needle': needle_lib.NeedleSource,
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Options of the data of a run.

  Attributes:
    kind: 'multiplication', 'markov', 'needle', 'text', 'shards', 'topics',
      'words', 'pages' or 'shard_documents'.
    batch_size: Rows of a global batch, at least 1.
    seed: Of examples and shuffling, 0..2**63-1; evaluation sets do not depend
      on it.
    num_threads: Threads that read ahead, 1..256.
    prefetch: Batches that are read ahead, 0..4096.
    multiplication: Options of the kind 'multiplication'.
    markov: Options of the kind 'markov', which needs them.
    needle: Options of the kind 'needle', which needs them.
    text: Options of the kind 'text', which needs them.
    shards: Options of the kind 'shards', which needs them.
    topics: Options of the kind 'topics', which needs them.
    words: Options of the kind 'words', which needs them.
    pages: Options of the kind 'pages', which needs them.
    shard_documents: Options of the kind 'shard_documents', which needs them.
    eval_units: Most documents of the evaluation set 'heldout' of the last four
      kinds, at least 1.

  Raises:
    ValueError: An option is out of its range or missing.

  >>> DataConfig(batch_size=8).kind
  'multiplication'
  """

  kind: str = 'multiplication'
  batch_size: int = 64
  seed: int = 0
  num_threads: int = 1
  prefetch: int = 4
  multiplication: multiplication_lib.MultiplicationConfig = dataclasses.field(
      default_factory=multiplication_lib.MultiplicationConfig
  )
  markov: markov_lib.MarkovConfig | None = None
  needle: needle_lib.NeedleConfig | None = None
  text: text_lib.TextConfig | None = None
  shards: shards_lib.ShardsConfig | None = None
  topics: topics_lib.TopicsConfig | None = None
  words: wordlist_lib.WordsConfig | None = None
  pages: pages_lib.PagesConfig | None = None
  shard_documents: shard_documents_lib.ShardDocumentsConfig | None = None
  eval_units: int = 1000

  def __post_init__(self):
    """Checks the options."""
    _checks.check_choice('kind', self.kind, ('multiplication', *_OPTIONS))
    _checks.check_int('batch_size', self.batch_size, 1)
    _checks.check_int('seed', self.seed, 0, 2**63 - 1)
    _checks.check_int('num_threads', self.num_threads, 1, 256)
    _checks.check_int('prefetch', self.prefetch, 0, 4096)
    if not isinstance(
        self.multiplication, multiplication_lib.MultiplicationConfig
    ):
      raise ValueError(
          'multiplication must be a MultiplicationConfig, got'
          f' {self.multiplication!r}.'
      )
    _checks.check_int('eval_units', self.eval_units, 1)
    for kind, cls in _OPTIONS.items():
      options = getattr(self, kind)
      needed = self.kind == kind
      if not isinstance(options, cls if needed else cls | None):
        wanted = f'for kind={kind!r}' if needed else 'or None'
        raise ValueError(
            f'{kind} must be a {cls.__name__} {wanted}, got {options!r}.'
        )


def make_tokenizer(config: DataConfig) -> tokenizers.Tokenizer:
  """Tokenizer of the data.

  Raises:
    ValueError: It cannot be loaded (see `tokenizers.load_tokenizer`), or
      tokenised files do not name it (see `shards.make_tokenizer`).

  >>> make_tokenizer(DataConfig()).decode([1, 6, 3, 7, 4, 7, 2])
  '1x2=2'
  """
  if config.text is not None and config.kind == 'text':
    return tokenizers.load_tokenizer(config.text.tokenizer)
  if config.shards is not None and config.kind == 'shards':
    return shards_lib.make_tokenizer(config.shards)
  return tokenizers.DigitTokenizer()


def split_names(config: DataConfig) -> tuple[str, ...]:
  """Names of the splits, 'train' first, then the evaluation sets.

  >>> split_names(DataConfig())
  ('train', 'in_distribution', 'out_of_distribution')
  """
  if config.kind == 'multiplication':
    return multiplication_lib.SPLITS
  if config.kind == 'markov':
    return markov_lib.SPLITS
  if config.kind == 'needle':
    assert config.needle is not None  # DataConfig has checked.
    return needle_lib.split_names(config.needle)
  if config.kind in DOCUMENT_KINDS:
    topics = config.topics if config.kind == 'topics' else None
    has_heldout = topics is None or topics.num_heldout > 0
    return documents_lib.SPLITS if has_heldout else ('train',)
  if config.kind == 'shards':
    has_validation = config.shards is not None and config.shards.validation
  else:
    has_validation = config.text is not None and config.text.holdout
  return ('train', 'validation') if has_validation else ('train',)


def row_length(config: DataConfig) -> int:
  """Tokens of a training row, L; no file is looked at.

  >>> row_length(DataConfig())
  16
  """
  if config.kind == 'multiplication':
    return config.multiplication.row_length('train')
  if config.kind in ('markov', 'needle', *DOCUMENT_KINDS):
    return getattr(config, config.kind).length
  options = config.shards if config.kind == 'shards' else config.text
  assert options is not None  # DataConfig has checked.
  return options.seq_len


def make_documents(config: DataConfig) -> documents_lib.Documents:
  """Documents of the kinds of `DOCUMENT_KINDS`, for certificates.

  Raises:
    ValueError: The data is of another kind, or a file cannot be used.

  >>> options = topics_lib.TopicsConfig(num_train=5)
  >>> make_documents(DataConfig(kind='topics', topics=options)).num_train
  5
  """
  _checks.check_choice('kind', config.kind, tuple(DOCUMENT_KINDS))
  if config.kind == 'topics':
    return topics_lib.TopicDocuments(config.topics)
  if config.kind == 'words' and config.words is not None:
    return wordlist_lib.load_words(config.words)
  if config.kind == 'pages' and config.pages is not None:
    return pages_lib.load_pages(config.pages)
  assert config.shard_documents is not None  # DataConfig has checked.
  return shard_documents_lib.load_documents(config.shard_documents)


def make_sources(config: DataConfig) -> dict[str, batches.Source]:
  """Sources of all splits by name; a text corpus is read once for all.

  Args:
    config: Options of the data.

  Returns:
    'train', then 'in_distribution' and 'out_of_distribution' for
    multiplication, 'heldout' for Markov chains and for documents that
    certificates are about, 'chunk_0', 'chunk_1', ... for needles, or
    'validation' for text and tokenised files; without the latter if
    `config.text.holdout` is 0 or `config.shards.validation` empty.

  Raises:
    ValueError: A file or the tokenizer cannot be used (see `text`, `shards`
      and `tokenizers`), or the text does not fill one row.

  >>> make_sources(DataConfig())['in_distribution'].num_eval_batches
  16
  """
  return _make_sources(config, split_names(config))


def make_source(config: DataConfig, split: str = 'train') -> batches.Source:
  """Source of one split; raises what `make_sources` raises.

  >>> make_source(DataConfig(), 'train').length
  16
  """
  _checks.check_choice('split', split, split_names(config))
  return _make_sources(config, (split,))[split]


def eval_sets(config: DataConfig) -> dict[str, batches.Source]:
  """Sources of the evaluation sets; raises what `make_sources` raises.

  >>> sorted(eval_sets(DataConfig()))
  ['in_distribution', 'out_of_distribution']
  """
  return _make_sources(config, split_names(config)[1:])


def _make_sources(
    config: DataConfig, splits: tuple[str, ...]
) -> dict[str, batches.Source]:
  if config.kind in _GENERATED:
    make, options = _GENERATED[config.kind], getattr(config, config.kind)
    return {
        split: make(options, split, config.batch_size, config.seed)
        for split in splits
    }
  if not splits:
    return {}
  if config.kind in DOCUMENT_KINDS:
    documents = make_documents(config)
    return {
        split: documents_lib.DocumentSource(
            documents, split, config.batch_size, config.seed, config.eval_units
        )
        for split in splits
    }
  if config.kind == 'shards' and config.shards is not None:
    return _shard_sources(config, config.shards, splits)
  options = config.text
  if options is None:
    return {}
  tokenizer = make_tokenizer(config)
  documents = text_lib.read_documents(options)
  train, validation = text_lib.split_documents(documents, options.holdout)
  sides = {'train': train, 'validation': validation}
  return {
      split: packing.PackedText(
          packing.pack_tokens(
              map(tokenizer.encode, sides[split]),
              bos_id=tokenizer.bos_id,
              eos_id=tokenizer.eos_id,
              pad_id=tokenizer.pad_id,
              vocab_size=tokenizer.vocab_size,
          ),
          seq_len=options.seq_len,
          batch_size=config.batch_size,
          seed=config.seed,
          train=split == 'train',
          eval_rows=options.eval_rows,
      )
      for split in splits
  }


def _shard_sources(
    config: DataConfig,
    options: shards_lib.ShardsConfig,
    splits: tuple[str, ...],
) -> dict[str, batches.Source]:
  files = shards_lib.open_shards(options)
  return {
      split: shards_lib.ShardSource(
          files[split],
          seq_len=options.seq_len,
          eot_id=options.eot_id,
          vocab_size=options.vocab_size,
          batch_size=config.batch_size,
          seed=config.seed,
          train=split == 'train',
          eval_rows=options.eval_rows,
      )
      for split in splits
  }
