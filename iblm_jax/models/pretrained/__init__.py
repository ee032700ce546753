"""Models that others trained."""

from iblm_jax.models.pretrained.loading import Pretrained, load

__all__ = ['Pretrained', 'load']
