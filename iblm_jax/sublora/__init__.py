"""Random subspaces and low-rank adapters: models that few numbers describe.

`make_projector` gives a random map from few numbers to a tree of parameters,
`lora_init` and `lora_apply` adapters of its matrices; `make` puts both behind
one interface, with what is trained on one side and what a model takes on the
other. Modules that no documentation names are for this package's own use.
"""

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
