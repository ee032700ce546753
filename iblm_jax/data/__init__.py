"""Data: sources with random access, tokenizers, packing and the iterator."""

from iblm_jax.data.batches import Batch, Source, process_rows
from iblm_jax.data.multiplication import (
    MultiplicationConfig,
    MultiplicationSource,
)
from iblm_jax.data.packing import PackedText, PackedTokens, pack_tokens
from iblm_jax.data.pipeline import make_iterator
from iblm_jax.data.sources import (
    DataConfig,
    eval_sets,
    make_source,
    make_sources,
    make_tokenizer,
    split_names,
)
from iblm_jax.data.text import TextConfig, read_documents, split_documents
from iblm_jax.data.tokenizers import (
    ByteTokenizer,
    DigitTokenizer,
    Tokenizer,
    load_tokenizer,
)

__all__ = [
    'Batch',
    'ByteTokenizer',
    'DataConfig',
    'DigitTokenizer',
    'MultiplicationConfig',
    'MultiplicationSource',
    'PackedText',
    'PackedTokens',
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
