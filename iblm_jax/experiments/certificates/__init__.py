"""Program: python -m iblm_jax.experiments.certificates."""

from iblm_jax.experiments.certificates.program import run

__all__ = ['run']
