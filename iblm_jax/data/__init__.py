"""Data: rows of tokens by number, from text, token files or generators.

`make_sources` makes the sources that a `DataConfig` describes, `as_source` one
of an object of your own, and `register` a kind that configs can name. Batch k
of a source is a function of its seed and of k.
"""

from iblm_jax.data import identity, sources
from iblm_jax.data.batches import Batch, Source, process_rows
from iblm_jax.data.config import (
    DataConfig,
    eval_sets,
    make_documents,
    make_source,
    make_sources,
    make_tokenizer,
    row_length,
    split_names,
)
from iblm_jax.data.documents import Documents, DocumentSource
from iblm_jax.data.generated import GeneratedSource
from iblm_jax.data.kinds import Kind, register
from iblm_jax.data.pipeline import make_iterator
from iblm_jax.data.shards.source import ShardsConfig, ShardSource
from iblm_jax.data.sources.multiplication import (
    MultiplicationConfig,
    MultiplicationSource,
)
from iblm_jax.data.sources.own import as_source
from iblm_jax.data.text.files import (
    TextConfig,
    read_documents,
    split_documents,
)
from iblm_jax.data.text.packing import (
    PackedText,
    PackedTokens,
    pack_text,
    pack_tokens,
)
from iblm_jax.data.text.tokenizers import (
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
    'DocumentSource',
    'Documents',
    'GeneratedSource',
    'Kind',
    'MultiplicationConfig',
    'MultiplicationSource',
    'PackedText',
    'PackedTokens',
    'ShardSource',
    'ShardsConfig',
    'Source',
    'TextConfig',
    'Tokenizer',
    'as_source',
    'eval_sets',
    'identity',
    'load_tokenizer',
    'make_documents',
    'make_iterator',
    'make_source',
    'make_sources',
    'make_tokenizer',
    'pack_text',
    'pack_tokens',
    'process_rows',
    'read_documents',
    'register',
    'row_length',
    'sources',
    'split_documents',
    'split_names',
]
