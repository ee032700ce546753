"""Documents of text: files, tokenizers, packing into rows."""

from iblm_jax.data.text.files import (
    DOCUMENTS,
    MIN_DOCUMENTS_TO_SPLIT,
    Chunk,
    TextConfig,
    chunk_documents,
    content_hash,
    file_hash,
    json_lines,
    read_chunks,
    read_documents,
    split_documents,
)
from iblm_jax.data.text.folders import find_files
from iblm_jax.data.text.packing import PackedText, pack_text, pack_tokens
from iblm_jax.data.text.tokenizers import Tokenizer, load_tokenizer

__all__ = [
    'DOCUMENTS',
    'MIN_DOCUMENTS_TO_SPLIT',
    'Chunk',
    'PackedText',
    'TextConfig',
    'Tokenizer',
    'chunk_documents',
    'content_hash',
    'file_hash',
    'find_files',
    'json_lines',
    'load_tokenizer',
    'pack_text',
    'pack_tokens',
    'read_chunks',
    'read_documents',
    'split_documents',
]
