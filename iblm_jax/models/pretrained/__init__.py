"""Models that others trained."""

from iblm_jax.models.pretrained.loading import (
    Head,
    Pretrained,
    load,
    read_head,
    read_params,
)

__all__ = ['Head', 'Pretrained', 'load', 'read_head', 'read_params']
