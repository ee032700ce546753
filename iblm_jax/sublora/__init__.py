"""Random subspaces and low-rank adapters: models that few numbers describe."""

from iblm_jax.sublora.lora import LoraConfig, lora_apply, lora_init
from iblm_jax.sublora.parameterisations import (
    Parameterisation,
    ParameterisationConfig,
    expand,
    make,
    subspace,
)
from iblm_jax.sublora.projectors import Projector, make_projector

__all__ = [
    'LoraConfig',
    'Parameterisation',
    'ParameterisationConfig',
    'Projector',
    'expand',
    'lora_apply',
    'lora_init',
    'make',
    'make_projector',
    'subspace',
]
