"""Runs the program: python -m iblm_jax.experiments.memory."""

from iblm_jax.experiments.memory import run

if __name__ == '__main__':
  run()
