"""What saving durably costs a run that saves every minute."""

import contextlib
import os
import pathlib
import shutil
import statistics
import time
from unittest import mock

import faults_programs as programs
import jax
import numpy as np
from etils import epath

from iblm_jax.models import config, families
from iblm_jax.training import checkpoints, manifest

_MINUTE, _MOST = 60.0, 0.05
_MODEL = dict(
    vocab_size=16384, num_layers=8, width=512, num_heads=8, tie_embeddings=True
)


def cost(rounds: int, folder: pathlib.Path) -> tuple[dict, list]:
  """Saves a model of tens of millions of parameters, in turn in three ways.

  Returns:
    Figures by name, and a line for each violation.
  """
  figures = programs.in_child(_cost, rounds, str(folder / 'cost'))
  shares = {k: v for k, v in figures.items() if k.startswith('share')}
  violations = [
      f'{name}: {value:.1%}, more than {_MOST:.0%}'
      for name, value in shares.items() if value > _MOST
  ]
  return figures | {k: f'{v:.2%}' for k, v in shares.items()}, violations


def _cost(rounds, folder):
  folder = pathlib.Path(folder)
  shapes = families.shapes(config.llama(**_MODEL))
  draw = np.random.default_rng(0)
  numbers = lambda leaf: draw.normal(size=leaf.shape).astype(np.float32)
  # Adam's moments are as large; random numbers cannot be compressed.
  state = jax.device_put(
      {name: jax.tree.map(numbers, shapes) for name in ('params', 'mu', 'nu')}
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(state['params']))
  ways = {
      'as it is': contextlib.nullcontext,
      'without fsync': lambda: mock.patch.object(os, 'fsync'),
      'orbax alone': _orbax_alone,
  }
  waits = {way: [] for way in ways}
  wholes = {way: [] for way in ways}
  for number in range(rounds + 1):
    for way, change in ways.items():
      shutil.rmtree(folder, ignore_errors=True)
      with change(), checkpoints.Checkpoints(folder) as store:
        began = time.perf_counter()
        store.save(1, state, {'next_index': 1})
        waited = time.perf_counter() - began
        store.wait()
        whole = time.perf_counter() - began
      if number:  # the first one warms up
        waits[way].append(waited)
        wholes[way].append(whole)
  hashed = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
  shutil.rmtree(folder)
  wait = statistics.median(waits['as it is'])
  whole = {way: statistics.median(times) for way, times in wholes.items()}
  return {
      'million parameters': round(count / 1e6, 1),
      'MB hashed': round(hashed / 1e6),
      'seconds that training waits': round(wait, 2),
      'share of a minute that training waits': wait / _MINUTE,
      **{f'seconds of a save {way}': round(s, 2) for way, s in whole.items()},
      'share of a minute of hashes and fsync': (
          whole['as it is'] - whole['orbax alone']
      ) / _MINUTE,
  }


@contextlib.contextmanager
def _orbax_alone():
  """Neither hashes nor syncs, but what the file must have to be kept."""
  with mock.patch.object(os, 'fsync'), mock.patch.object(
      manifest, 'write', lambda folder, *rest: epath.Path(
          folder / manifest.NAME
      ).write_text('{}')
  ):
    yield
