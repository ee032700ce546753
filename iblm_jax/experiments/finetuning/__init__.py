"""Program: python -m iblm_jax.experiments.finetuning."""

from iblm_jax.experiments.finetuning.program import run

__all__ = ['run']
