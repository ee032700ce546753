"""What every experiment's program does: flags, the clock, results, figures."""

import io
import json
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from iblm_jax import cli, files
from iblm_jax.experiments._harness import jobs, results, rows, variants
from iblm_jax.reports import figures
from iblm_jax.training import progress


class Results(NamedTuple):
  """What an experiment writes: one file of results, and its figures.

  Attributes:
    rows: See `results.write`, as for the next three.
    settings: What the rows depend on.
    tables: For the page.
    baseline: The method that the others are compared with.
    draw: From the tree of the file to figures by name; None draws nothing.
    part: Follows the experiment's name, for a file other than results.json.
    lines: What a person wants to read at the end.
    seconds: That the rows took, where the clock does not tell.
    also: More of the file, by name.
    page: From the PNGs of the figures by name to report.html.
  """

  rows: Sequence[Mapping[str, Any]]
  settings: Mapping[str, Any]
  tables: Mapping[str, Mapping[str, Any]]
  baseline: str | None = None
  draw: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda tree: {}
  part: str = ''
  lines: Sequence[str] = ()
  seconds: float | None = None
  also: Mapping[str, Any] = {}
  page: Callable[[Mapping[str, bytes]], str] | None = None


class Experiment(NamedTuple):
  """A question that a program answers.

  Attributes:
    claim: What it tests, in a sentence.
    run: From the values of the flags to results; none where they were there.
    seeds: Number of seeds by default; None for an experiment without the flag.
    smoke: What the flag --smoke does; empty for an experiment without it.
    define_flags: Defines flags of its own.
  """

  name: str
  claim: str
  run: Callable[[Any], Sequence[Results]]
  seeds: int | None = None
  smoke: str = 'A tiny version that ends in seconds.'
  define_flags: Callable[[], Any] = lambda: None


def start(experiment: Experiment) -> None:
  """Entry point of an experiment's program."""
  cli.DEFINE_folder('workdir', 'Folder of the experiment.')
  if experiment.seeds is not None:
    flags.DEFINE_integer(
        'seeds',
        experiment.seeds,
        'Number of seeds.',
        lower_bound=1,
        upper_bound=1000,
    )
  if experiment.smoke:
    flags.DEFINE_bool('smoke', False, experiment.smoke)
  experiment.define_flags()
  flags.mark_flag_as_required('workdir')
  cli.run(
      lambda: conduct(experiment, **flags.FLAGS.flag_values_dict()),
      module=experiment.run.__module__,
  )


def conduct(
    experiment: Experiment, workdir: epath.PathLike, **values: Any
) -> None:
  """Runs an experiment and writes what it found."""
  workdir = epath.Path(workdir)
  clock = workdir / 'seconds.json'
  with cli.refusing():
    figures.check_matplotlib()  # which are drawn at the end
    before = files.read_json(clock) if clock.exists() else 0.0
    if not isinstance(before, int | float):
      raise ValueError(f'{clock} must hold a number, got {before!r:.80}.')
  started, counts = time.monotonic(), True
  seconds = lambda: before + time.monotonic() - started
  try:
    made = experiment.run(types.SimpleNamespace(workdir=workdir, **values))
    counts = bool(made)
    for found in made:
      _write(experiment, found, workdir, seconds())
  except cli.BadUsage:
    counts = False
    raise
  finally:
    if counts and workdir.exists():
      files.write_json(clock, seconds(), indent=None)
  if not made:
    return
  parts = [found.part for found in made]
  if any(parts):
    cli.report('wrote ' + ', '.join(f'{workdir}/{p}.json' for p in parts))
  else:
    took = progress.clock(made[0].seconds or seconds())
    cli.report(f'done in {took}: {workdir}/results.json')


def train_methods(
    options: Any,
    base: Mapping[str, Any],
    methods: Mapping[str, variants.Overrides],
    seeds: Sequence[int],
    folder: str,
    *,
    select: str,
    max_batches: int | None = None,
) -> list[dict[str, Any]]:
  """Trains every method on every seed and makes the rows of results.

  Args:
    folder: In the workdir; runs in it that are done are not trained again.

  Raises:
    cli.BadUsage: A folder holds another run; nothing was trained.
    errors.RunFailed, errors.Preempted: See `jobs.train`.
  """
  todo = variants.make_runs(base, methods, seeds)
  path = options.workdir / folder
  with cli.refusing():
    jobs.check(todo, path)
  side_by_side = False if options.smoke else None
  jobs.train(todo, path, side_by_side=side_by_side, report=cli.report)
  return [
      rows.make_row(
          method,
          seed,
          path / variants.run_name(method, seed),
          select=select,
          max_batches=max_batches,
      )
      for seed in seeds
      for method in methods
  ]


def check_settings(settings: Mapping[str, Any], workdir: epath.Path) -> None:
  """Raises ValueError where a workdir holds another experiment.

  Args:
    workdir: May be missing; settings.json in it says what it holds.
  """
  path = workdir / 'settings.json'
  if not path.exists():
    if (workdir / 'parts').exists() or (workdir / 'results.json').exists():
      raise ValueError(
          f'{workdir} holds results without settings.json, so they may be'
          ' results of something else. Use another workdir.'
      )
    return
  held = files.read_object(path)
  here = json.loads(json.dumps(settings))
  changed = sorted(
      name for name in held | here if held.get(name) != here.get(name)
  )
  if changed:
    raise ValueError(
        f'{workdir} holds results with other settings ({", ".join(changed)}).'
        ' Use another workdir, or its flags to go on.'
    )


def keep_settings(settings: Mapping[str, Any], workdir: epath.Path) -> None:
  """Says in a workdir what it holds."""
  workdir.mkdir(parents=True, exist_ok=True)
  files.write_json(workdir / 'settings.json', settings, indent=None)


def command(name: str) -> str:
  """What was typed, without the machine's folders."""
  words = ['python', '-m', f'iblm_jax.experiments.{name}', '--workdir=DIR']
  for argument in sys.argv[1:]:
    flag, equals, value = argument.partition('=')
    if flag.lstrip('-') != 'workdir':
      names = [path.rstrip('/').split('/')[-1] for path in value.split(',')]
      words.append(flag + equals + ','.join(names))
  return ' '.join(words)


def _write(experiment, found, workdir, seconds):
  tree = results.write(
      workdir / f'{found.part or "results"}.json',
      experiment='_'.join(filter(None, (experiment.name, found.part))),
      claim=experiment.claim,
      command=command(experiment.name),
      settings=found.settings,
      rows=found.rows,
      baseline=found.baseline,
      tables=found.tables,
      wall_seconds=seconds if found.seconds is None else found.seconds,
      also=found.also,
  )
  drawn = {}
  for name, figure in found.draw(tree).items():
    if figure is not None:
      buffer = io.BytesIO()
      figure.savefig(buffer, format='png')
      drawn[name] = buffer.getvalue()
      files.write_bytes(workdir / f'{name}.png', drawn[name])
  if found.page is not None:
    files.write_text(workdir / 'report.html', found.page(drawn))
  for line in found.lines:
    cli.report(line)
