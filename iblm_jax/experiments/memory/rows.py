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

from iblm_jax import files
from iblm_jax.data import sources
from iblm_jax.data.sources import needle as needles
from iblm_jax.experiments._harness import variants
from iblm_jax.experiments.memory import language as languages
from iblm_jax.experiments.memory import methods as methods_lib
from iblm_jax.models import families
from iblm_jax.probing import decoder_probe
from iblm_jax.training import (
  config,
  curriculum,
  loop,
  options,
  restoring,
)

Report = Callable[[str], None]

# Mixers learn to unpack a vector in fewer updates than attention does.
_PROBE = {
    'injection': 'repeat', 'width': 128, 'num_steps': 300, 'peak': 4e-3
}


class Run(NamedTuple):
  """One run of one method.

  Attributes:
    method: What is trained and asked.
    donor: Config of the run that it starts from; None for none.
  """

  name: str
  seed: int
  method: methods_lib.Method
  cfg: options.RunConfig
  donor: options.RunConfig | None
  probe: dict[str, Any]


def plan(
    methods: Mapping[str, methods_lib.Method],
    seeds: Sequence[int],
    folder: epath.Path,
    *,
    text: str | None,
    smoke: bool,
) -> list[Run]:
  """Every method on every seed; a run comes after what it starts from.

  Raises:
    ValueError: For a method that starts from one that is not there.
  """
  runs = []
  for seed in seeds:
    made: dict[str, options.RunConfig] = {}
    for name, method in methods.items():
      if method.of_bytes and text is None:
        continue
      tree = methods_lib.tree(
          method, seed, text if method.of_bytes else None, smoke
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


def depth(run: Run, methods: Mapping[str, methods_lib.Method]) -> int:
  """How many runs must end before this one."""
  found, method = 0, run.method
  while method.after is not None:
    found, method = found + 1, methods[method.after]
  return found


def say(row: Mapping[str, Any]) -> str:
  """A row in a few words."""
  said = f'cross-entropy {row["cross_entropy"]:.3f} nats'
  if 'blank_copy/accuracy' in row:
    said += f', blank copy {row["blank_copy/accuracy"]:.1%}'
  if 'probe/recovered_bits' in row:
    said += f', {row["probe/recovered_bits"]:.1f} bits in an embedding'
  return said


def make(run: Run, workdir: epath.Path, report: Report) -> dict[str, Any]:
  """Trains where that is left to do and measures; gives the row."""
  started = time.monotonic()
  summary = curriculum.train_run(run.cfg, workdir, run.donor, report)
  row: dict[str, Any] = dict(_evaluations(summary, run.cfg))
  row['parameters'] = summary['parameters']
  row['steps'] = summary['steps']
  row['train_seconds'] = summary['wall_seconds']
  if run.method.probe:
    row |= _probe(run, workdir, report)
  row['seconds'] = time.monotonic() - started
  return row


def _probe(run, workdir, report) -> dict[str, float]:
  """What an embedding holds, by the common probe."""
  cfg, data = run.cfg, run.cfg.data
  length = families.lengths(cfg.model).measured or methods_lib.LENGTH
  if data.markov is not None:  # of whole documents, for every encoder
    language = dataclasses.replace(data.markov, length=length)
    data = dataclasses.replace(data, options=language)
  train, heldout, *_ = sources.make_sources(data).values()
  encoder = decoder_probe.of_model(
      cfg.model, restoring.restore_params(cfg, workdir).params
  )
  # The control is of the data and a width: one for many encoders.
  width = families.encoder(cfg.model).width
  asked = json.dumps([config.to_dict(data), run.probe, width], sort_keys=True)
  key = hashlib.sha256(asked.encode()).hexdigest()[:16]
  control = workdir.parent / f'control_{length}_{key}.json'
  found = decoder_probe.probe(
      encoder,
      train,
      heldout,
      decoder_probe.ProbeConfig(length=length, **run.probe),
      report,
      files.read_object(control) if control.exists() else None,
  )
  if not control.exists():
    files.write_json(control, decoder_probe.control_of(found), indent=None)
  if data.markov is not None:
    found |= _information(found, data.markov)
  return {f'probe/{name}': value for name, value in found.items()}


def _information(found, language) -> dict[str, float]:
  """What a text is worth, and how much of it an embedding surely holds.

  The information of an embedding e about a text x is H(x) - H(x | e), and no
  decoder of e has a cross-entropy below H(x | e).
  """
  bits = languages.text_bits(language)
  left = found['num_tokens'] * found['cross_entropy'] / math.log(2)
  return {'text_bits': bits, 'sure_bits': max(0.0, bits - left)}


def _evaluations(summary, cfg) -> dict[str, float]:
  """Of the first set, of each view by its name; of needles by chunk too.

  And of runs with a gate, its phases.
  """
  phases = summary.get('phases', {})
  found: dict[str, float] = {f'phases/{k}': v for k, v in phases.items()}
  needle = cfg.data.needle
  chunks = () if needle is None else needles.split_names(needle)
  for split, values in summary['eval'].items():
    kept = {k: v for k, v in values.items() if 'layer_' not in k}
    if 'cross_entropy' not in found:
      found |= kept
      first = cfg.task.views[0]
      found |= {
          f'{first}/{name}': kept[name]
          for name in ('cross_entropy', 'accuracy')
      }
    if split in chunks:
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
