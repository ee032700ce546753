"""Program: python -m iblm_jax.experiments.memory."""

from iblm_jax.experiments.memory.program import run

__all__ = ['run']
