"""Program: python -m iblm_jax.experiments.conflict."""

from iblm_jax.experiments.conflict.program import run

__all__ = ['run']
