"""Program: python -m iblm_jax.experiments.spectrum."""

from iblm_jax.experiments.spectrum.program import run

__all__ = ['run']
