"""Files of tokens: their formats, rows of them, and their writer."""

from iblm_jax.data.shards.files import Shard, find_shards, open_shard
from iblm_jax.data.shards.source import (
    ShardsConfig,
    ShardSource,
    make_tokenizer,
    open_shards,
)

__all__ = [
    'Shard',
    'ShardSource',
    'ShardsConfig',
    'find_shards',
    'make_tokenizer',
    'open_shard',
    'open_shards',
]
