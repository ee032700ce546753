"""Train, evaluate, save, resume."""

import bisect
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from iblm_jax import errors, files
from iblm_jax.data import batches, pipeline, sources
from iblm_jax.data.sources import own
from iblm_jax.models import families, flops
from iblm_jax.training import (
  checkpoints,
  data_record,
  evaluation,
  fitting,
  options,
  progress,
  restoring,
  signals,
)
from iblm_jax.training import metrics as metrics_lib
from iblm_jax.training import program as program_lib
from iblm_jax.training import summary as summary_lib
from iblm_jax.training.scale import capacity, hardware
from iblm_jax.training.scale import mesh as mesh_lib


class Job(NamedTuple):
  """A run whose parts fit together; nothing of it is on disk yet."""

  cfg: options.RunConfig
  source: batches.Source
  eval_sources: dict[str, batches.Source]
  program: program_lib.Program
  identity: Mapping[str, Any] = {}  # of the data, see `data_record`


def prepare(
    cfg: options.RunConfig,
    devices: Any = None,
    *,
    source: Any = None,
    eval_sources: Mapping[str, Any] | None = None,
) -> Job:
  """Reads the data and checks that model, data and devices fit together.

  Args:
    cfg: The run.
    devices: Devices of the mesh; by default all.
    source: Training data in place of those that `cfg.data` describes, of any
      type that `data.as_source` takes.
    eval_sources: Evaluation sets by name, with a `source`, alike.

  Returns:
    The job.

  Raises:
    ValueError: Options do not fit, and the message names one; nothing was
      compiled or written.
  """
  if source is None:
    if eval_sources:
      raise ValueError('eval_sources need a source to train on, got None.')
    splits = sources.make_sources(cfg.data)
    identity = sources.identity_of(cfg.data)
  else:
    splits = _own_sources(cfg, {'train': source, **(eval_sources or {})})
    identity = data_record.of_sources(splits)
  fitting.check_data(cfg, splits)
  if cfg.train.tensorboard:
    metrics_lib.check_tensorboard()
  source = splits.pop('train')
  program = program_lib.Program(cfg, devices)
  capacity.check_memory(
      cfg, program.abstract_state, program.mesh, source.length
  )
  return Job(cfg, source, splits, program, identity)


def _own_sources(cfg, objects) -> dict[str, batches.Source]:
  """Sources of objects that the caller has given, see `own.as_source`."""
  # The blank is the last token of the model where no other one is named.
  blanks = int(cfg.task.has_blanks and cfg.task.blank_id is None)
  splits = {
      name: own.as_source(
          obj,
          vocab_size=cfg.model.vocab_size - blanks,
          batch_size=getattr(obj, 'batch_size', cfg.data.batch_size),
          train=name == 'train',
      )
      for name, obj in objects.items()
  }
  for name, split in splits.items():
    if split.batch_size != cfg.data.batch_size:
      raise ValueError(
          f'data.batch_size must be that of the source {name!r},'
          f' {split.batch_size}, got {cfg.data.batch_size}.'
      )
  return splits


def train(
    job: Job,
    workdir: epath.PathLike,
    *,
    report: Callable[[str], None] = print,
    begin: restoring.Beginning | None = None,
    writers: Sequence[metrics_lib.Writer] = (),
) -> dict[str, Any]:
  """Trains until the end of the run, from wherever the workdir stands.

  `run.train` also checks, claims and locks the workdir.

  Args:
    job: The run, from `prepare`.
    workdir: Gets metrics.jsonl, checkpoints/ and summary.json, and start.json
      if the run starts from another. A run that it holds is resumed; the caller
      has checked that it is the same run.
    report: Takes what a person wants to read, a line at a time.
    begin: What a run with a `start` begins with, see `restoring.beginning`;
      not called where there is a checkpoint.
    writers: Take every line of metrics, beside metrics.jsonl.

  Returns:
    The summary.

  Raises:
    ValueError: A run with a `start` and no checkpoint is not told its
      beginning.
    FloatingPointError: The loss is not finite.
    errors.Preempted: It was asked to stop by a signal or the cluster, and has
      saved.
    checkpoints.CheckpointError: Saving fails, or nothing intact is left.
  """
  cfg, program = job.cfg, job.program
  workdir = epath.Path(workdir)
  started = time.monotonic()
  workdir.mkdir(parents=True, exist_ok=True)

  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(program.mesh))
    stop = stack.enter_context(
        signals.StopOnSignal(enabled=jax.process_count() == 1)
    )
    store = stack.enter_context(
        checkpoints.Checkpoints(
            workdir / 'checkpoints',
            keep=cfg.train.keep_checkpoints,
            report=report,
        )
    )
    restored = store.restore(program.abstract_state)
    first = 0 if restored is None else restored[0]
    rows = None if restored is None else store.metrics(first)
    summary = summary_lib.of_finished(
        workdir, cfg.train.num_steps, restored and first, rows, report
    )
    if summary is not None:
      return summary
    if restored is None:
      data = {'next_index': 0}
      is_added = cfg.parameterisation is not None
      if cfg.start is not None and begin is None and not is_added:
        raise ValueError(
            f'start: the run begins with parameters of {cfg.start.source};'
            ' begin must give them, got None.'
        )
      state = program.init(jax.random.key(cfg.train.seed))
      if begin is not None:
        params, origin = begin(state.params)
        state = state._replace(params=params)
        if jax.process_index() == 0:
          files.write_json(workdir / restoring.ORIGIN, origin)
    else:
      _, state, data = restored
      report(f'resumed from the checkpoint of step {first}')
    if cfg.start is not None and cfg.start.pretrained is not None:
      measured = families.measured(cfg.model)
      report(
          f'{cfg.start.pretrained}: {measured.num_layers} layers of width'
          f' {measured.width}'
      )
    num_trained = program_lib.num_trained(state.params, cfg.frozen)
    report(
        f'{num_trained:,} trained parameters,'
        f' {cfg.data.batch_size} rows of {job.source.length} tokens a step,'
        f' {program.mesh.size} x {jax.devices()[0].device_kind}'
    )
    writers = _writers(
        cfg, workdir, -1 if restored is None else first, rows, writers
    )
    for writer in writers:
      stack.callback(writer.close)
    iterator = pipeline.make_iterator(
        job.source,
        rows=mesh_lib.local_rows(
            cfg.data.batch_size, program.batch_sharding
        ),
        num_threads=cfg.data.num_threads,
        prefetch=cfg.data.prefetch,
        start=data['next_index'],
    )
    stack.callback(iterator.close)

    state, final = _steps(
        job, state, first, iterator, store, writers, stop, report, workdir
    )
    store.wait()
  summary = summary_lib.make_summary(
      cfg,
      final,
      state,
      program.mesh,
      wall_seconds=time.monotonic() - started,
      resumed_from=None if restored is None else first,
  )
  if jax.process_index() == 0:
    if cfg.start is not None and cfg.start.pretrained is not None:
      names = ('pretrained', 'sha256')
      summary['start'] = {name: getattr(cfg.start, name) for name in names}
    elif (workdir / restoring.ORIGIN).exists():
      origin = files.read_json(workdir / restoring.ORIGIN)
      summary['start'] = {name: origin[name] for name in ('workdir', 'step')}
    summary_lib.write(workdir, summary)
  return summary


def _writers(
    cfg, workdir, keep_up_to, rows, others
) -> list[metrics_lib.Writer]:
  """All that take metrics; one process writes."""
  if jax.process_index() > 0:
    return []
  jsonl = metrics_lib.JsonLines(
      workdir / 'metrics.jsonl', keep_up_to=keep_up_to, text=rows
  )
  found = [jsonl, *others]
  if cfg.train.tensorboard:
    folder = workdir / 'tensorboard'
    found.append(metrics_lib.TensorBoard(folder, keep_up_to=keep_up_to))
  return found


def _steps(
    job, state, first, iterator, store, writers, stop, report, workdir
):
  """The loop; returns the last state and the last evaluation per set."""
  cfg, program = job.cfg, job.program
  loop, length = cfg.train, job.source.length
  peak = hardware.peak_flops(jax.devices()[0])

  frozen = program_lib.frozen_stacks(cfg, program.abstract_state.params)

  def flops_per_token(model):
    counted = flops.training_flops_per_token(model, length, frozen)
    return None if counted is None else cfg.task.reads * counted

  meter = progress.Meter(
      loop.num_steps,
      cfg.data.batch_size * length,
      flops_per_token=flops_per_token(cfg.model),
      peak_flops=peak and peak * program.mesh.size,
  )
  pending = None

  def write(step, values):
    try:
      for writer in writers:
        writer.write(step, values)
        writer.flush()
    except OSError as error:
      raise errors.RunFailed(
          f'could not write the metrics of step {step}: {error}. The same'
          f' command goes on from the last checkpoint: {_last(store)}.'
      ) from error

  def settle():
    """Reads the metrics of a step that the device has left behind."""
    nonlocal pending
    if pending is None:
      return
    step, values = pending[0], jax.device_get(pending[1])
    pending = None
    _check_finite(step, values, store)
    values |= meter.read(step)
    write(step, values)
    if step in (1, loop.num_steps) or step % loop.log_every == 0:
      left = meter.time_left(step)
      report(progress.line(step, loop.num_steps, values, left))

  def evaluate(step, keep=True):
    results = {}
    params = program.model_params(state.params)
    for name, split in job.eval_sources.items():
      results[name] = evaluation.evaluate(
          params,
          split,
          step=program.eval_step,
          sharding=program.batch_sharding,
          num_threads=cfg.data.num_threads,
      )
      report(progress.evaluation_line(step, name, results[name]))
    if keep and results:
      write(
          step,
          {
              f'eval/{name}/{metric}': value
              for name, values in results.items()
              for metric, value in values.items()
          },
      )
    return results

  if first == loop.num_steps:
    return state, evaluate(first, keep=False)
  if loop.eval_every and first == 0:
    evaluate(0)
  final = {}
  starts = loop.window_starts() or (0,)
  compiled = set()
  for step in range(first + 1, loop.num_steps + 1):
    if loop.profile_start is not None and step == loop.profile_start + 1:
      jax.profiler.start_trace(str(workdir / 'profile'))
    batch = mesh_lib.put_batch(
        next(iterator), program.batch_sharding, cfg.data.batch_size
    )
    stage = bisect.bisect_right(starts, step - 1) - 1
    aligned = cfg.alignment.measures(step)
    steps = program.aligned_steps if aligned else program.train_steps
    train_step, model = steps[stage]
    is_new = (stage, aligned) not in compiled
    if is_new:
      settle()
    state, metrics = train_step(state, batch)
    settle()
    store.poll()
    if is_new:
      # Compilation is not part of the rate.
      compiled.add((stage, aligned))
      jax.block_until_ready(metrics)
      meter.restart(step, flops_per_token(model))
    if (
        loop.profile_start is not None
        and step == loop.profile_start + loop.profile_steps
    ):
      jax.block_until_ready(metrics)
      jax.profiler.stop_trace()

    last = step == loop.num_steps
    if last or aligned or step == 1 or step % loop.log_every == 0:
      pending = (step, metrics)
    if last or (loop.eval_every and step % loop.eval_every == 0):
      settle()
      final = evaluate(step)
      meter.restart(step)
    stopping = store.reached_preemption(step) or stop.requested
    save = loop.checkpoint_every and step % loop.checkpoint_every == 0
    if last or stopping or save:
      settle()
      _check_finite(step, jax.device_get(metrics), store)
      rows = writers[0].text() if writers else ''
      store.save(step, state, iterator.get_state(), rows)
      meter.restart(step)
    if stopping and not last:
      store.wait()
      raise errors.Preempted(
          f'asked to stop: saved at step {step} of {loop.num_steps}; the same'
          ' command goes on from there.'
      )
  return state, final


def _check_finite(step, values, store) -> None:
  for name in ('train/loss', 'optim/grad_norm'):
    if not math.isfinite(values[name]):
      raise FloatingPointError(
          f'{name} is {float(values[name])} at step {step}: training stopped.'
          f' Last checkpoint: {_last(store)}. A smaller'
          ' optimizer.schedule.peak, a longer warm-up or a smaller'
          ' objective.weight may help.'
      )


def _last(store) -> str:
  saved = store.steps()
  return f'step {saved[-1]}' if saved else 'none'
