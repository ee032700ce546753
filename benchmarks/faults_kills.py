"""Kills runs, starts them again, and compares what they leave."""

import collections
import hashlib
import json
import pathlib
import random
import shutil

import faults_config
import faults_programs as programs
import jax
import numpy as np

from iblm_jax import config
from iblm_jax.training import checkpoints, metrics
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import mesh as mesh_lib

CONFIG = pathlib.Path(faults_config.__file__)
# Calls that commit something, of a run with its ten checkpoints.
_MOST_COMMITS = 200
_STARTING_SECONDS = 1.0
# Kinds of moments, and how often each is drawn.
_KINDS = {'any moment': 5, 'commit': 4, 'start-up': 1}
_MOST_KILLS_A_RUN = 8
# What depends on the clock, on where a process began, and a hash of all that.
_OF_THE_CLOCK = ('wall_seconds', 'resumed_from', 'sha256')


def command(family: str, workdir: pathlib.Path) -> tuple[str, ...]:
  """The command that starts a run, and starts it again."""
  return ('main', f'--config={CONFIG}:{family}', f'--workdir={workdir}')


def left_by(workdir: pathlib.Path) -> dict:
  """What a run leaves that must not depend on kills; in a fork."""
  return programs.in_child(_left_by, str(workdir))


def _left_by(workdir):
  workdir = pathlib.Path(workdir)
  cfg = config.read_run(workdir)
  mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:1])
  digest = hashlib.sha256()
  with checkpoints.Checkpoints(
      workdir / 'checkpoints', read_only=True
  ) as store:
    step, state, data = store.restore(program_lib.abstract_state(cfg, mesh))
    steps = store.steps()
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    digest.update(str(path).encode() + np.asarray(leaf).tobytes())
  rows = metrics.read_metrics(workdir / 'metrics.jsonl')
  summary = json.loads((workdir / 'summary.json').read_text())
  return {
      'steps': steps,
      'step': step,
      'data': data,
      'arrays': digest.hexdigest(),
      'metrics': [
          {k: v for k, v in row.items() if not k.startswith('perf/')}
          for row in rows
      ],
      'summary': {
          k: v for k, v in summary.items() if k not in _OF_THE_CLOCK
      },
  }


def differences(found: dict, wanted: dict) -> list[str]:
  """Names of what differs of two runs."""
  return [name for name in wanted if found[name] != wanted[name]]


def kills(count: int, folder: pathlib.Path, seed: int) -> tuple[dict, list]:
  """Kills runs of every family until so many kills found them alive.

  Returns:
    Figures by name, and a line for each violation.
  """
  draw = random.Random(seed)
  wanted, seconds, violations = {}, {}, []
  for family in faults_config.VARIANTS:
    for _ in range(2):  # the second time it is compiled
      shutil.rmtree(folder / family, ignore_errors=True)
      ended = programs.run(*command(family, folder / family), outputs=folder)
      if ended.status:
        return {}, [f'{family}: fails unharmed: {ended.output}']
    wanted[family] = left_by(folder / family)
    seconds[family] = ended.seconds
  landed, number = collections.Counter(), 0
  while (left := count - _total(landed)) > 0:
    family = faults_config.VARIANTS[number % len(faults_config.VARIANTS)]
    workdir = folder / f'{family}_{number}'
    number += 1
    problem = _one_run(
        family, workdir, folder, draw, seconds[family], landed,
        min(left, draw.randint(1, _MOST_KILLS_A_RUN)), wanted[family],
    )
    if problem:
      violations.append(f'{workdir}: {problem}')
    else:
      shutil.rmtree(workdir)
  return {'runs': number, 'kills': _total(landed), **landed}, violations


def _total(landed):
  return sum(landed[kind] for kind in _KINDS)


def _one_run(family, workdir, folder, draw, seconds, landed, count, wanted):
  """A run with so many kills; returns what went wrong, or None."""
  kinds = []
  while len(kinds) < count:
    # At start-up twice in a row, too: the second finds what the first left.
    kind = draw.choices(list(_KINDS), list(_KINDS.values()))[0]
    if kinds and draw.random() < 0.15:
      kind = 'start-up'
    when = {
        'any moment': {'kill_after': draw.uniform(0, seconds)},
        'commit': {'die_at_commit': draw.randint(1, _MOST_COMMITS)},
        'start-up': {'kill_after': draw.uniform(0, _STARTING_SECONDS)},
    }[kind]
    ended = programs.run(*command(family, workdir), outputs=folder, **when)
    if not ended.killed:
      if ended.status or ended.is_traceback:
        return f'after {kinds}: status {ended.status}: {ended.output}'
      break
    landed[kind] += 1
    landed['in a row'] += bool(kinds)
    kinds.append(kind)
  ended = programs.run(*command(family, workdir), outputs=folder)
  if ended.status or ended.is_traceback:
    return f'after {kinds}: status {ended.status}: {ended.output}'
  differing = differences(left_by(workdir), wanted)
  return f'after {kinds}: {differing} differ' if differing else None


def changed_devices(
    count: int, folder: pathlib.Path, seed: int
) -> tuple[dict, list]:
  """Kills runs, and starts them again on another number of devices."""
  draw = random.Random(seed)
  figures, violations = collections.Counter(resumed=0, refused=0), []
  for number in range(count):
    family = faults_config.VARIANTS[number % len(faults_config.VARIANTS)]
    workdir = folder / f'devices_{number}'
    before, after = draw.sample((1, 2, 3, 4, 8), 2)
    if before == 3:  # does not divide the batch
      before, after = after, before
    ended = programs.run(
        *command(family, workdir), outputs=folder, devices=before,
        die_at_commit=draw.randint(60, _MOST_COMMITS),
    )
    if ended.status != -9 and ended.status:
      violations.append(f'{workdir}: {before} devices: {ended.output}')
      continue
    ended = programs.run(
        *command(family, workdir), outputs=folder, devices=after
    )
    lines = ended.output.strip().splitlines()
    name = f'{workdir}: {before} to {after} devices'
    if ended.is_traceback or ended.status not in (0, 1, 2):
      violations.append(f'{name}: {ended.output}')
    elif ended.status:
      figures['refused'] += 1
      clear = any(w in lines[-1] for w in ('device', 'mesh', 'pieces'))
      if len(lines) > 2 or not clear:
        violations.append(f'{name}: no clear refusal: {ended.output}')
    else:
      figures['resumed'] += 1
      problem = _unlike(
          metrics.read_metrics(workdir / 'metrics.jsonl'),
          metrics.read_metrics(folder / family / 'metrics.jsonl'),
      )
      if problem:
        violations.append(f'{name}: {problem}')
    if not violations:
      shutil.rmtree(workdir)
  return dict(figures), violations


def _unlike(rows, wanted):
  """Sums over devices differ in their last bits, and so do later steps."""
  if [row['step'] for row in rows] != [row['step'] for row in wanted]:
    return 'other steps'
  for row, other in zip(rows, wanted, strict=True):
    name = 'train/cross_entropy'
    if name in other and not np.isclose(row[name], other[name], rtol=0.02):
      return f'{name} {row[name]} at step {row["step"]}, not {other[name]}'
  return None
