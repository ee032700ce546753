"""Runs the program: python -m iblm_jax.experiments.spectrum."""

from iblm_jax.experiments.spectrum import run

if __name__ == '__main__':
  run()
