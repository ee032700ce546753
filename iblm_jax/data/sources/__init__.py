"""Kinds of data, one file each.

A file holds the options of a kind, how its rows are made, and a record that it
registers, see `iblm_jax.data.kinds`. A new kind is one more file; here, one
more name in the list of imports.
"""

from typing import Any

from iblm_jax.data import kinds
from iblm_jax.data.config import (
    DataConfig,
    eval_sets,
    identity_of,
    make_documents,
    make_source,
    make_sources,
    make_tokenizer,
    row_length,
    split_names,
)
from iblm_jax.data.sources import (
    markov,
    multiplication,
    needle,
    own,
    pages,
    shard_documents,
    shards,
    text,
    topics,
    words,
)

__all__ = [
    'DataConfig',
    'eval_sets',
    'identity_of',
    'make_documents',
    'make_source',
    'make_sources',
    'make_tokenizer',
    'markov',
    'multiplication',
    'needle',
    'own',
    'pages',
    'row_length',
    'shard_documents',
    'shards',
    'split_names',
    'text',
    'topics',
    'words',
]


def __getattr__(name: str) -> Any:
  if name == 'DOCUMENT_KINDS':  # What version 0.1 had in place of records.
    found = kinds.names('make_documents')
    return {kind: kinds.get(kind).options for kind in found}
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
