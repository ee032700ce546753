"""Compression and generalisation in language models, in JAX.

Nothing heavy is imported here: import the package you need, for example
`from iblm_jax import optim` (jax and optax only) or
`from iblm_jax import information` (jax only).
"""

from iblm_jax import _moved

__version__ = '0.2.0'

_moved.install()
