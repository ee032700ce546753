"""Models: decoders, masked mixers, autoencoders, memory models, and your own.

`init` and `apply` serve every family: the class of a config says which it is.
`register` adds a family of one's own, which every program then knows.
`pretrained.load` reads models that others trained, `pretrained.save` writes in
their layout.
"""

from iblm_jax.models import builtin as _builtin  # registers our families
from iblm_jax.models import pretrained
from iblm_jax.models.autoencoder import AutoencoderConfig
from iblm_jax.models.config import (
    DecoderConfig,
    MixerConfig,
    RotaryScaling,
    gpt2,
    llama,
    modded_gpt,
)
from iblm_jax.models.families import (
    Family,
    Lengths,
    ModelConfig,
    apply,
    encode,
    init,
    register,
    registered,
    shapes,
)
from iblm_jax.models.memory.config import MemoryConfig
from iblm_jax.models.outputs import Outputs

del _builtin

__all__ = [
    'AutoencoderConfig',
    'DecoderConfig',
    'Family',
    'Lengths',
    'MemoryConfig',
    'MixerConfig',
    'ModelConfig',
    'Outputs',
    'RotaryScaling',
    'apply',
    'encode',
    'gpt2',
    'init',
    'llama',
    'modded_gpt',
    'pretrained',
    'register',
    'registered',
    'shapes',
]
