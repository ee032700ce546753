"""Models of every family that compile in seconds, from the config files."""

import importlib.util

import jax
import numpy as np

from iblm_jax import config_files
from iblm_jax.training import program as program_lib
from iblm_jax.training import state as state_lib

CONFIGS = config_files.folder()
VOCAB, CHUNKS, CHUNK = 16, 4, 8


def load(name, variant):
  """The ConfigDict of configs/NAME.py:VARIANT."""
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


def small(name, variant='smoke'):
  """The same, of one layer of 16 features and 16 tokens; no entropy."""
  c = load(name, variant)
  for stack in (c.model.encoder, c.model.decoder):
    stack.update(
        vocab_size=VOCAB, num_layers=1, width=16, mlp_width=32,
        activation='relu2', norm_scale=False,
    )
    if stack.num_heads > 1:
      stack.num_heads = 2
    if 'max_length' in stack:  # of learned positions in a window
      stack.max_length = CHUNKS + CHUNK
    if 'mixer' in stack:
      stack.mixer.update(
          num_heads=2, length=CHUNK + (CHUNKS if name == 'memory' else 0)
      )
  length = CHUNK
  if name == 'memory':
    c.model.chunk_length = CHUNK
    length *= CHUNKS
  else:
    c.model.length = CHUNK
  c.data.batch_size = 8
  c.data.markov.update(vocab_size=VOCAB - 1, length=length, num_heldout=8)
  c.objective.measure_entropy = False
  c.optimizer.schedule.update(peak=0.01, warmup_steps=1)
  c.mesh = dict(data=1)
  c.train.num_steps = 20
  return c


def random_state(job, seed=0):
  """A state at step 0; drawn by NumPy, so that nothing is compiled for it."""
  rng = np.random.default_rng(seed)
  abstract = job.program.abstract_state
  params = jax.tree.map(
      lambda leaf: rng.normal(0.0, 0.3, leaf.shape).astype(np.float32),
      abstract.params,
  )
  opt_state = program_lib.make_optimizer(job.cfg).init(params)
  fresh = state_lib.TrainState(np.zeros([], np.int32), params, opt_state)
  return jax.device_put(
      fresh, jax.tree.map(lambda leaf: leaf.sharding, abstract)
  )
