"""Trains stages, each of which begins with what an earlier one learned."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from iblm_jax import errors, files
from iblm_jax.training import (
  config,
  data_record,
  loop,
  options,
  restoring,
  warm_start,
)
from iblm_jax.training import run as run_lib

Report = Callable[[str], None]


class Stage(NamedTuple):
  """Describes one run of a curriculum.

  Attributes:
    name: The name of its folder.
    cfg: Its config; `start.workdir` is the folder of an earlier stage.
    after: The stage that it starts from; None begins afresh.
  """

  name: str
  cfg: options.RunConfig
  after: str | None


def make(tree: Mapping[str, Any], workdir: epath.Path) -> list[Stage]:
  """Makes the stages of a config, checked.

  Args:
    tree: 'order', names of stages; and under each name the config of a run, as
      `config.from_dict` takes it, whose `start.workdir` is the name of an
      earlier stage.
    workdir: The folder of all stages.

  Returns:
    The stages in their order.

  Raises:
    ValueError: The config of a stage is bad, and the message names its path; a
      stage is missing, not in the order, twice, or starts from none before it.
  """
  tree = json.loads(json.dumps(tree, default=list))
  order = tree.get('order') or []
  if not isinstance(order, list) or not order:
    raise ValueError(f'config.order must name stages, got {order!r}.')
  strangers = sorted(set(tree) - {'order'} ^ set(order))
  if strangers or len(set(order)) < len(order):
    raise ValueError(
        'config.order must name every stage of the config once, got'
        f' {order} for {sorted(set(tree) - {"order"})}.'
    )
  stages = []
  for name in order:
    earlier = [stage.name for stage in stages]
    run, after = dict(tree[name]), None
    start = dict(run.get('start') or {})
    if start and start.get('pretrained') is None:
      after = str(start.get('workdir'))
      if after not in earlier:
        raise ValueError(
            f'config.{name}.start.workdir must be one of the stages before it,'
            f' {earlier}, got {after!r}.'
        )
      run['start'] = {**start, 'workdir': str(workdir / after)}
    try:
      cfg = config.from_dict(run)
    except ValueError as error:
      raise ValueError(f'stage {name}: {error}') from error
    stages.append(Stage(name, cfg, after))
  return stages


def check(stages: list[Stage], workdir: epath.Path) -> None:
  """Makes sure that every stage can be trained where it is to be trained.

  Raises:
    ValueError: A folder holds another run, parts do not fit, or data and model
      of a stage do not.
  """
  by_name = {stage.name: stage for stage in stages}
  for stage in stages:
    config.check_workdir(stage.cfg, workdir / stage.name)
    if stage.after is not None:
      try:
        restoring.check_start(stage.cfg, by_name[stage.after].cfg)
      except ValueError as error:
        raise ValueError(f'stage {stage.name}: {error}') from error
    data_record.check(
        workdir / stage.name, loop.prepare(stage.cfg).identity
    )


def train(
    stages: list[Stage], workdir: epath.Path, report: Report
) -> dict[str, Any]:
  """Trains what is left to train, stage by stage.

  Args:
    stages: From `make`, checked.
    workdir: Gets a folder for each stage, and curriculum.json.
    report: Takes what a person wants to read.

  Returns:
    The summary of each stage's run, by the stage's name.

  Raises:
    errors.RunFailed: A frozen parameter is not what it was at the start.
    Exception: What `run.train` raises.
  """
  found = {}
  by_name = {stage.name: stage for stage in stages}
  for number, stage in enumerate(stages, 1):
    report(f'stage {number}/{len(stages)}: {stage.name}')
    donor = None if stage.after is None else by_name[stage.after].cfg
    found[stage.name] = train_run(
        stage.cfg, workdir / stage.name, donor, report
    )
    files.write_json(workdir / 'curriculum.json', found)
  return found


def train_run(
    cfg: options.RunConfig,
    folder: epath.Path,
    donor: options.RunConfig | None,
    report: Report,
) -> dict[str, Any]:
  """Trains a run that may start from another, and checks what is frozen.

  Args:
    cfg: The run's config.
    folder: The run's folder.
    donor: The config of the run that it starts from; None for none.
    report: Takes what a person wants to read.

  Returns:
    The summary.

  Raises:
    errors.RunFailed: See `train`.
  """
  # Without a donor nothing asks for its config.
  read = lambda _: donor
  run = run_lib.prepare(cfg, folder, read_run=read)  # pyrefly: ignore
  summary = run_lib.complete(run, report=report)
  if donor is not None and cfg.frozen and cfg.start is not None:
    _check_frozen(folder, cfg, donor, summary.get('start', {}).get('step'))
  return summary


def _check_frozen(folder, cfg, donor, step) -> None:
  """Makes sure that frozen leaves are the donor's."""
  there = restoring.restore_params(
      donor, cfg.start.workdir, step=step
  ).params
  here = restoring.restore_params(cfg, folder).params
  changed = warm_start.changed(here, there, cfg.start.parts, cfg.frozen)
  if changed:
    raise errors.RunFailed(
        f'{folder}: frozen parameters are not those of {cfg.start.workdir}:'
        f' {", ".join(changed)}.'
    )


def final(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Says how each stage ended, for a person."""
  lines = []
  for name, summary in summaries.items():
    for split, values in summary['eval'].items():
      others = ''.join(
          f', {metric} {value:.1%}'
          for metric, value in values.items()
          if metric.endswith('/accuracy')
      )
      lines.append(
          f'{name}, {split}: cross-entropy {values["cross_entropy"]:.4f} nats,'
          f' accuracy {values["accuracy"]:.1%}{others}'
      )
  return lines
