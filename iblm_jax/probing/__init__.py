"""What an embedding holds: an encode function in, bits out.

`probe` takes any function and arrays; `decoder_probe.probe` takes models and
data sources of this library, and `subject.load` finds both in a run's folder.
"""

from iblm_jax.probing.arrays import ArraySource, Encode, probe
from iblm_jax.probing.decoder_probe import (
  Encoder,
  ProbeConfig,
  control_of,
  of_model,
)

__all__ = [
    'ArraySource',
    'Encode',
    'Encoder',
    'ProbeConfig',
    'control_of',
    'of_model',
    'probe',
]
