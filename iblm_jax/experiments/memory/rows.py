"""From a method to a row: a run of the experiment on memory, and its probe."""

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from iblm_jax.data import sources
from iblm_jax.experiments._harness import processes as side_by_side
from iblm_jax.experiments._harness import variants, workdirs
from iblm_jax.experiments.memory import language as memory_language
from iblm_jax.experiments.memory import methods as memory_methods
from iblm_jax.models import families
from iblm_jax.probing import decoder_probe as probing
from iblm_jax.training import config, loop, options, progress, restoring
from iblm_jax.training import curriculum as curricula

Report = Callable[[str], None]

# Mixers learn to unpack a vector in fewer updates than attention does.
_PROBE = {
    'injection': 'repeat', 'width': 128, 'num_steps': 300, 'peak': 4e-3
}


class Run(NamedTuple):
  """One run of one method.

  Attributes:
    name: of the method.
    seed: of everything.
    method: what is trained and asked.
    cfg: of the run.
    donor: config of the run that it starts from; None for none.
    probe: options of the probe.
  """

  name: str
  seed: int
  method: memory_methods.Method
  cfg: options.RunConfig
  donor: options.RunConfig | None
  probe: dict[str, Any]


def plan(
    methods: Mapping[str, memory_methods.Method],
    seeds: Sequence[int],
    folder: epath.Path,
    *,
    text: str | None,
    smoke: bool,
) -> list[Run]:
  """Every method on every seed; a run comes after what it starts from.

  Args:
    methods: by name.
    seeds: of the runs.
    folder: of all runs.
    text: file for methods that read bytes; without one they are left out.
    smoke: a few updates of tiny models.

  Returns:
    The runs, by seed, in the order of the methods.

  Raises:
    ValueError: for a method that starts from one that is not there.
  """
  runs = []
  for seed in seeds:
    made: dict[str, options.RunConfig] = {}
    for name, method in methods.items():
      of_bytes = name.startswith('bytes:')
      if of_bytes and text is None:
        continue
      tree = memory_methods.tree(
          method, seed, text if of_bytes else None, smoke
      )
      donor = None
      if method.after is not None:
        if method.after not in made:
          raise ValueError(
              f'{name} starts from {method.after}, which is not among the'
              f' methods: {tuple(methods)}.'
          )
        donor = made[method.after]
        workdir = folder / variants.run_name(method.after, seed)
        tree['start'] = {
            'workdir': os.fspath(workdir), 'parts': dict(method.parts)
        }
        tree['frozen'] = method.frozen
      made[name] = variants.make_config(tree, {}, seed=seed)
      probe = _PROBE | ({'width': 16, 'num_steps': 3} if smoke else {})
      runs.append(Run(name, seed, method, made[name], donor, probe))
  return runs


def depth(run: Run, methods: Mapping[str, memory_methods.Method]) -> int:
  """How many runs must end before this one."""
  found, method = 0, run.method
  while method.after is not None:
    found, method = found + 1, methods[method.after]
  return found


def make_rows(
    runs: Sequence[Run],
    methods: Mapping[str, memory_methods.Method],
    folder: epath.Path,
    report: Report,
    processes: int = 1,
) -> list[dict[str, Any]]:
  """Makes what is left of the runs; each is kept with its row.

  Args:
    runs: of `plan`, whose folders hold them or nothing.
    methods: all of them, by name.
    folder: of all runs.
    report: told what a person wants to read, a line at a time.
    processes: runs that are made side by side, a core each.

  Returns:
    A row for each run, in their order.
  """
  path = lambda run: folder / variants.run_name(run.name, run.seed) / 'row.json'
  left = [run for run in runs if not path(run).exists()]
  if left and len(left) < len(runs):
    report(f'{len(runs) - len(left)} of {len(runs)} runs are there')
  started, done = time.monotonic(), 0
  for level in sorted({depth(run, methods) for run in left}):
    jobs = [run for run in left if depth(run, methods) == level]
    made = side_by_side.each(
        jobs, Maker, os.fspath(folder), min(processes, len(jobs))
    )
    for run, row in made:
      done += 1
      to_go = (time.monotonic() - started) / done * (len(left) - done)
      report(
          f'{done}/{len(left)} runs | {run.name}, seed {run.seed}:'
          f' {_say(row)} | {progress.clock(to_go)} left'
      )
  return [
      {'method': run.name, 'seed': run.seed} | json.loads(path(run).read_text())
      for run in runs
  ]


def _say(row: Mapping[str, Any]) -> str:
  said = f'cross-entropy {row["cross_entropy"]:.3f} nats'
  if 'blank_copy/accuracy' in row:
    said += f', blank copy {row["blank_copy/accuracy"]:.1%}'
  if 'probe/recovered_bits' in row:
    said += f', {row["probe/recovered_bits"]:.1f} bits in an embedding'
  return said


class Maker:
  """Trains and measures in one process.

  Args:
    folder: of all runs.
  """

  def __init__(self, folder: str):
    self._folder = epath.Path(folder)
    side_by_side.compile_once(self._folder / 'compiled')

  def __call__(self, run: Run) -> dict[str, Any]:
    """Trains where that is left to do, measures, and keeps the row."""
    workdir = self._folder / variants.run_name(run.name, run.seed)
    started = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / 'log.txt').open('a') as log:
      report = lambda line: print(line, file=log, flush=True)
      summary = curricula.train_run(run.cfg, workdir, run.donor, report)
      row: dict[str, Any] = dict(_evaluations(summary, run.cfg))
      row['parameters'] = summary['parameters']
      row['steps'] = summary['steps']
      row['train_seconds'] = summary['wall_seconds']
      if run.method.probe:
        row |= self._probe(run, workdir, report)
      row['seconds'] = time.monotonic() - started
    workdirs.write_json(workdir / 'row.json', row)
    return row

  def _probe(self, run, workdir, report) -> dict[str, float]:
    """What an embedding holds, by the common probe."""
    cfg, data = run.cfg, run.cfg.data
    length = families.lengths(cfg.model).measured or memory_methods.LENGTH
    if data.markov is not None:  # of whole documents, for every encoder
      language = dataclasses.replace(data.markov, length=length)
      data = dataclasses.replace(data, options=language)
    train, heldout, *_ = sources.make_sources(data).values()
    encoder = probing.of_model(
        cfg.model, restoring.restore_params(cfg, workdir).params
    )
    # The control is of the data and a width: one for many encoders.
    width = families.encoder(cfg.model).width
    asked = json.dumps(
        [config.to_dict(data), run.probe, width], sort_keys=True
    )
    key = hashlib.sha256(asked.encode()).hexdigest()[:16]
    control = self._folder / f'control_{length}_{key}.json'
    found = probing.probe(
        encoder,
        train,
        heldout,
        probing.ProbeConfig(length=length, **run.probe),
        report,
        json.loads(control.read_text()) if control.exists() else None,
    )
    if not control.exists():
      workdirs.write_json(control, probing.control_of(found))
    if data.markov is not None:
      found |= _information(found, data.markov)
    return {f'probe/{name}': value for name, value in found.items()}


def _information(found, language) -> dict[str, float]:
  """What a text is worth, and how much of it an embedding surely holds.

  The information of an embedding e about a text x is H(x) - H(x | e), and no
  decoder of e has a cross-entropy below H(x | e).
  """
  bits = memory_language.text_bits(language)
  left = found['num_tokens'] * found['cross_entropy'] / math.log(2)
  return {'text_bits': bits, 'sure_bits': max(0.0, bits - left)}


def _evaluations(summary, cfg) -> dict[str, float]:
  """Of the first set, of each view by its name; of needles by chunk too.

  And of runs with a gate, its phases.
  """
  phases = summary.get('phases', {})
  found: dict[str, float] = {f'phases/{k}': v for k, v in phases.items()}
  for split, values in summary['eval'].items():
    kept = {k: v for k, v in values.items() if 'layer_' not in k}
    if 'cross_entropy' not in found:
      found |= kept
      first = cfg.task.views[0]
      found |= {
          f'{first}/{name}': kept[name]
          for name in ('cross_entropy', 'accuracy')
      }
    if split.startswith('chunk_'):
      found[f'{split}/accuracy'] = kept['accuracy']
  return found


def check(runs: Sequence[Run], folder: epath.Path) -> None:
  """Makes sure that no folder holds another run and all data are there.

  Raises:
    ValueError: naming what does not fit.
  """
  seen = set()
  for run in runs:
    config.check_workdir(
        run.cfg, folder / variants.run_name(run.name, run.seed)
    )
    if run.donor is not None:
      restoring.check_start(run.cfg, run.donor)
    if run.name not in seen:
      seen.add(run.name)
      loop.prepare(run.cfg)
