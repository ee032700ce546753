"""Memory models: chunks of text as vectors that a decoder reads."""

from iblm_jax.models.memory.config import MemoryConfig
from iblm_jax.models.memory.model import (
    apply,
    decode,
    init,
)

__all__ = [
    'MemoryConfig',
    'apply',
    'decode',
    'init',
]
