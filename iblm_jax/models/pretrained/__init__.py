"""Models that others trained, and ours in their layout."""

from iblm_jax.models.pretrained.loading import (
    Head,
    Pretrained,
    load,
    read_head,
    read_params,
)
from iblm_jax.models.pretrained.writing import save
from iblm_jax.models.pretrained.writing_adapters import save_adapter

__all__ = [
    'Head',
    'Pretrained',
    'load',
    'read_head',
    'read_params',
    'save',
    'save_adapter',
]
