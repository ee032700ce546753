"""Runs the program: python -m iblm_jax.experiments.conflict."""

from iblm_jax.experiments.conflict import run

if __name__ == '__main__':
  run()
