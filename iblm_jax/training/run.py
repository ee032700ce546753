"""Trains a run in a folder, which it claims, locks and completes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from etils import epath

from iblm_jax import files
from iblm_jax.training import (
  config,
  data_record,
  lock,
  loop,
  metrics,
  options,
  restoring,
)


class Run(NamedTuple):
  """A run that fits its folder, its data and its devices.

  Attributes:
    job: What is trained on what.
    workdir: The folder.
    begin: What it begins with where it starts from another run, see
      `restoring.beginning`.
  """

  job: loop.Job
  workdir: epath.Path
  begin: restoring.Beginning | None


def train(
    cfg: options.RunConfig | Mapping[str, Any],
    workdir: epath.PathLike,
    *,
    source: Any = None,
    eval_sources: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
    writers: Sequence[metrics.Writer] = (),
) -> dict[str, Any]:
  """Trains, evaluates and saves, from wherever the folder stands.

  The same call again resumes an interrupted run, bit for bit, and returns the
  summary of a finished one. What it leaves is what `iblm_jax.main` leaves, so
  every program reads it.

  Args:
    cfg: The options, or a mapping that `config.from_dict` takes.
    workdir: The folder of the run, created where missing.
    source: Training data in place of those that `cfg.data` describes, of any
      type that `data.as_source` takes. Batch k must be a function of k, so
      that a resumed run goes on with the batch it would have had.
    eval_sources: Evaluation sets by name, with a `source`, alike.
    report: Takes what a person wants to read, a line at a time.
    writers: Take every line of metrics, beside `metrics.jsonl`.

  Returns:
    What `summary.json` holds: the last evaluation, phases, times, versions.

  Raises:
    ValueError: Options, data, devices or the folder do not fit together;
      nothing was compiled or written.
    FloatingPointError: The loss is not finite.
    errors.RunFailed: Another process trains in this folder, or a checkpoint
      could not be written or read.
    errors.Preempted: The run was asked to stop, and has saved.
  """
  return complete(
      prepare(cfg, workdir, source=source, eval_sources=eval_sources),
      report=report,
      writers=writers,
  )


def prepare(
    cfg: options.RunConfig | Mapping[str, Any],
    workdir: epath.PathLike,
    *,
    source: Any = None,
    eval_sources: Mapping[str, Any] | None = None,
    read_run: Callable[[str], options.RunConfig] = config.read_run,
) -> Run:
  """Checks everything that can be checked before anything is written.

  Args:
    cfg: See `train`.
    workdir: See `train`.
    source: See `train`.
    eval_sources: See `train`.
    read_run: Gives the config of the run that this one starts from.

  Returns:
    The run, for `complete`.

  Raises:
    ValueError: See `train`.
  """
  if not isinstance(cfg, options.RunConfig):
    if not isinstance(cfg, Mapping | ml_collections.ConfigDict):
      raise ValueError(
          'cfg must be a RunConfig, a mapping or a ConfigDict, got'
          f' {cfg!r:.80}. iblm_jax.config_files.load(NAME) gives one by name.'
      )
    cfg = config.from_dict(cfg)
  if not isinstance(eval_sources, Mapping | None):
    raise ValueError(
        'eval_sources must map names to sources, got a'
        f' {type(eval_sources).__name__}.'
    )
  workdir = files.folder('workdir', workdir)
  config.check_workdir(cfg, workdir)
  job = loop.prepare(cfg, source=source, eval_sources=eval_sources)
  data_record.check(workdir, job.identity)
  return Run(job, workdir, restoring.beginning(cfg, workdir, read_run))


def complete(
    run: Run,
    *,
    report: Callable[[str], None] = print,
    writers: Sequence[metrics.Writer] = (),
) -> dict[str, Any]:
  """Trains what is left of a prepared run, see `train`.

  A run that fails before its first update gives its folder back: its options
  may have been why, and corrected ones shall not be those of another run.
  """
  run.workdir.mkdir(parents=True, exist_ok=True)
  if jax.process_index() > 0:
    return _train(run, report, writers)
  with lock.held(run.workdir):
    is_new = config.claim_workdir(run.job.cfg, run.workdir)
    data_record.claim(run.workdir, run.job.identity)
    try:
      return _train(run, report, writers)
    except Exception:
      if is_new:
        config.disclaim_workdir(run.workdir)
      raise


def _train(run, report, writers):
  return loop.train(
      run.job, run.workdir, report=report, begin=run.begin, writers=writers
  )
