"""A small training step, compiled once for all tests of this folder."""

import functools
from typing import Any, NamedTuple

import jax
import pytest

from iblm_jax import config as config_lib
from iblm_jax.training import options
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import compile_report

MESHES = {
    'fsdp': dict(data=1, fsdp=8),
    'all': dict(data=2, fsdp=2, tensor=2),
    'tensor': dict(data=1, tensor=8),
}


class Step(NamedTuple):
  """A training step that is compiled, and what it was made from."""

  cfg: options.RunConfig
  program: program_lib.Program
  compiled: Any
  length: int


def make_config(method, mesh, batch_size=32, **model):
  """Options of a run on one of the MESHES; tiny where `model` is empty."""
  tiny = dict(vocab_size=15, num_layers=3, width=32, num_heads=8)
  return config_lib.from_dict(
      dict(
          model=dict(activation='relu2', scan_layers=True, **(tiny | model)),
          data=dict(
              batch_size=batch_size, multiplication=dict(eval_rows=16)
          ),
          objective=dict(method=method),
          optimizer=dict(schedule=dict(peak=1e-2, warmup_steps=2)),
          mesh=MESHES[mesh],
          train=dict(num_steps=10),
      )
  )


@pytest.fixture(scope='session')
def small_config():
  return make_config


@pytest.fixture(scope='session')
def small_step():
  @functools.cache
  def compile_step(method, mesh, length=16, **model):
    cfg = make_config(method, mesh, **model)
    program = program_lib.Program(cfg, jax.devices())
    compiled = compile_report.compile_step(
        program, cfg.data.batch_size, length
    )
    return Step(cfg, program, compiled, length)

  return compile_step
