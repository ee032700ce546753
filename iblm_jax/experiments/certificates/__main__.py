"""Runs the program: python -m iblm_jax.experiments.certificates."""

from iblm_jax.experiments.certificates import run

if __name__ == '__main__':
  run()
