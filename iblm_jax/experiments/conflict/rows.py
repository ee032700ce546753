"""Runs chunks of seeds through pre-training and every method."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from iblm_jax import files
from iblm_jax.experiments._harness import jobs as jobs_lib
from iblm_jax.experiments.conflict import metrics, training
from iblm_jax.experiments.conflict import settings as settings_lib
from iblm_jax.experiments.conflict import tasks as tasks_lib
from iblm_jax.optim import inspection


class Experiment:
  """Settings with their compiled functions."""

  def __init__(self, settings: settings_lib.Settings):
    """Compiles nothing yet."""
    self._settings = settings
    self._model = settings.make_model()
    self._measure = training.over_seeds(
        functools.partial(
            metrics.measure,
            model=self._model,
            patch_size=settings.measure_patch,
        ),
        quick_compile=True,
    )
    self._init = training.over_seeds(
        functools.partial(
            training.init, learning_rate=settings.learning_rate
        ),
        quick_compile=True,
    )
    self._trainers = {}
    points = settings.sizes['train_points']
    self._orders = {}
    for stage, updates, mix in (
        ('pretrain', settings.pretrain_updates, True),
        ('finetune', settings.finetune_updates, False),
    ):
      self._orders[stage] = training.blocks(
          tasks_lib.batch_order(
              updates,
              settings.micro_batches,
              settings.batch_size,
              points,
              mix=mix,
          ),
          settings.block,
      )

  def __call__(self, seeds: range) -> list[dict[str, Any]]:
    """Pre-trains and fine-tunes networks, and measures them.

    Returns:
      A row per seed and method, and one per seed and way of pre-training.
    """
    tasks = [self._model.make_tasks(seed) for seed in seeds]
    params = _stack([
        self._model.init(s, t) for s, t in zip(seeds, tasks, strict=True)
    ])
    tasks = _stack(tasks)
    # Both groups in one axis of points, as the order counts them.
    points = jax.tree.map(
        lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), tasks.train
    )
    rows, before = [], {}
    labels = self._settings.pretrained_rows()
    for name, method in self._settings.pretraining.items():
      state = self._train(self._init(params), points, 'pretrain', method)
      measured = _by_seed(self._measure(state.params, tasks))
      before[name] = state.params, measured
      for seed, values in zip(seeds, measured, strict=True):
        rows.append({'method': labels[name], 'seed': seed, **values})
    for name, method in self._settings.methods.items():
      start, old = before[method.pretrained_by]
      state = self._train(self._init(start), points, 'finetune', method)
      measured = _by_seed(self._measure(state.params, tasks))
      gates = _unstack(state.gate, len(seeds))
      for index, seed in enumerate(seeds):
        values = dict(measured[index])
        values['forgetting'] = values['loss_other'] - old[index]['loss_other']
        if method.objective.method == 'gapt':
          values |= inspection.phase_statistics(gates[index])
        rows.append({'method': name, 'seed': seed, **values})
    return rows

  def _train(self, state, points, stage, method):
    key = method.objective, method.entropy, method.gate
    if key not in self._trainers:
      self._trainers[key] = training.over_seeds(
          functools.partial(
              training.train,
              model=self._model,
              method=method,
              learning_rate=self._settings.learning_rate,
          ),
          shared=1,
          quick_compile=self._settings.quick_compile,
      )
    for order_KxMxB in self._orders[stage]:
      state = self._trainers[key](state, points, order_KxMxB)
    return state


def run_chunks(
    settings: settings_lib.Settings,
    folder: epath.Path,
    report: Callable[[str], None],
    processes: int = 1,
) -> tuple[list[dict[str, Any]], float]:
  """Does what is left of an experiment.

  Args:
    processes: That chunks are divided among; results do not depend on it.

  Returns:
    The rows of all seeds, and the seconds that they took over all starts.
  """
  folder.mkdir(parents=True, exist_ok=True)
  firsts = range(0, settings.seeds, settings.chunk)
  missing = [f for f in firsts if not _part(folder, f).exists()]
  if len(missing) < len(firsts):
    report(
        f'{len(firsts) - len(missing)} of {len(firsts)} chunks of seeds are'
        ' there from an earlier start'
    )
  # A last chunk is filled up, so that nothing is compiled again.
  jobs = [range(first, first + settings.chunk) for first in missing]
  start = before = time.monotonic()
  chunks = jobs_lib.each(
      jobs, Experiment, settings, min(processes, len(jobs))
  )
  for done, (seeds, rows) in enumerate(chunks, 1):
    now = time.monotonic()
    part = [row for row in rows if row['seed'] < settings.seeds]
    kept = {'rows': part, 'seconds': now - before}
    files.write_json(_part(folder, seeds[0]), kept, indent=None)
    before = now
    left = (now - start) / done * (len(jobs) - done)
    report(
        f'seeds {seeds[0]} to {part[-1]["seed"]} of {settings.seeds}:'
        f' {now - start:.0f} s, about {left:.0f} s left'
    )
    for name in dict.fromkeys(row['method'] for row in part):
      report(f'  {name}: {_mean_line(part, name)}')
  rows, seconds = [], 0.0
  for first in firsts:
    part = files.read_object(_part(folder, first))
    rows += part['rows']
    seconds += part['seconds']
  order = list(dict.fromkeys(row['method'] for row in rows))
  rows.sort(key=lambda row: (order.index(row['method']), row['seed']))
  return rows, seconds


def _part(folder: epath.Path, first: int) -> epath.Path:
  return folder / f'seeds_{first:05d}.json'


def _stack(trees):
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _unstack(tree, count):
  tree = jax.device_get(tree)
  return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def _by_seed(values):
  count = len(next(iter(values.values())))
  return [
      {name: float(value) for name, value in row.items()}
      for row in _unstack(values, count)
  ]


def _mean_line(rows, method):
  rows = [row for row in rows if row['method'] == method]
  mean = lambda name: float(np.mean([row[name] for row in rows]))
  return (
      f'loss {mean("loss_trained"):.4f} on the trained group,'
      f' {mean("loss_other"):.4f} on the other, separation'
      f' {mean("separation"):.2f}, entropy'
      f' {mean("trained/entropy/order_2"):.3f} (centred'
      f' {mean("trained/entropy_centered/order_2"):.3f})'
  )
