"""Runs the program: python -m iblm_jax.experiments.finetuning."""

from iblm_jax.experiments.finetuning import run

if __name__ == '__main__':
  run()
