"""Data: sources with random access, tokenizers, packing and the iterator."""

from typing import TYPE_CHECKING, Any

from iblm_jax.data.batches import Batch, Source, process_rows
from iblm_jax.data.shards.source import ShardsConfig, ShardSource
from iblm_jax.data.sources import (
  DataConfig,
  eval_sets,
  make_source,
  make_sources,
  make_tokenizer,
  split_names,
)
from iblm_jax.data.sources.multiplication import (
  MultiplicationConfig,
  MultiplicationSource,
)
from iblm_jax.data.text.files import (
  TextConfig,
  read_documents,
  split_documents,
)
from iblm_jax.data.text.packing import PackedText, PackedTokens, pack_tokens
from iblm_jax.data.text.tokenizers import (
  ByteTokenizer,
  DigitTokenizer,
  Tokenizer,
  load_tokenizer,
)

if TYPE_CHECKING:
  from iblm_jax.data.pipeline import make_iterator

__all__ = [
    'Batch',
    'ByteTokenizer',
    'DataConfig',
    'DigitTokenizer',
    'MultiplicationConfig',
    'MultiplicationSource',
    'PackedText',
    'PackedTokens',
    'ShardSource',
    'ShardsConfig',
    'Source',
    'TextConfig',
    'Tokenizer',
    'eval_sets',
    'load_tokenizer',
    'make_iterator',
    'make_source',
    'make_sources',
    'make_tokenizer',
    'pack_tokens',
    'process_rows',
    'read_documents',
    'split_documents',
    'split_names',
]


def __getattr__(name: str) -> Any:
  # Only when it is used, because it imports grain and jax, for seconds: the
  # workers that tokenise text need neither.
  if name == 'make_iterator':
    from iblm_jax.data import pipeline

    return pipeline.make_iterator
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
