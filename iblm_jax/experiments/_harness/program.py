"""What the experiments' programs share: flags, the clock, the end."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from iblm_jax import cli
from iblm_jax.experiments._harness import rows as rows_lib
from iblm_jax.experiments._harness import runs as runs_lib
from iblm_jax.experiments._harness import variants, workdirs
from iblm_jax.reports import figures
from iblm_jax.training import progress

FLAGS = flags.FLAGS


def define_flags(seeds: int) -> None:
  """The flags of every experiment."""
  flags.DEFINE_string('workdir', None, 'Folder of the experiment.')
  flags.DEFINE_integer('seeds', seeds, 'Number of seeds.', lower_bound=1)
  flags.DEFINE_bool('smoke', False, 'A tiny version that ends in seconds.')
  flags.mark_flag_as_required('workdir')


@contextlib.contextmanager
def stopwatch(workdir: epath.Path) -> Generator[Callable[[], float]]:
  """Seconds that an experiment took, over all its starts.

  Yields:
    A function that tells them; they are kept in the workdir.
  """
  path = workdir / 'seconds.json'
  before = json.loads(path.read_text()) if path.exists() else 0.0
  started = time.monotonic()
  total = lambda: before + time.monotonic() - started
  try:
    yield total
  finally:
    if workdir.exists():  # not where the flags were refused
      workdirs.write_json(path, total())


def train_methods(
    base: Mapping[str, Any],
    methods: Mapping[str, variants.Overrides],
    seeds: Sequence[int],
    folder: epath.Path,
    *,
    select: str,
    max_batches: int | None = None,
    report: Callable[[str], None] = cli.report,
) -> list[dict[str, Any]]:
  """Trains every method on every seed and makes the rows of results.

  Args:
    base: config that methods change.
    methods: overrides by name.
    seeds: of the runs.
    folder: of the runs; those that are done are not trained again.
    select: see `rows.make_row`.
    max_batches: see `rows.make_row`.
    report: takes lines of progress.

  Returns:
    A row per run.

  Raises:
    cli.BadUsage: if a folder holds another run; nothing was trained.
    errors.RunFailed, errors.Preempted: see `runs.train`.
  """
  todo = variants.make_runs(base, methods, seeds)
  with cli.refusing():
    runs_lib.check(todo, folder)
  side_by_side = False if FLAGS.smoke else None
  runs_lib.train(todo, folder, side_by_side=side_by_side, report=report)
  made = []
  for seed in seeds:
    for method in methods:
      made.append(
          rows_lib.make_row(
              method,
              seed,
              folder / variants.run_name(method, seed),
              select=select,
              max_batches=max_batches,
          )
      )
  return made


def command(name: str) -> str:
  """What was typed, without the machine's folders."""
  words = ['python', '-m', f'iblm_jax.experiments.{name}', '--workdir=DIR']
  for argument in sys.argv[1:]:
    flag, equals, value = argument.partition('=')
    if flag.lstrip('-') != 'workdir':
      names = [path.rstrip('/').split('/')[-1] for path in value.split(',')]
      words.append(flag + equals + ','.join(names))
  return ' '.join(words)


def save_figure(figure: Any, path: epath.Path) -> None:
  """Writes a matplotlib figure as PNG; nothing for None."""
  if figure is None:
    return
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  path.write_bytes(buffer.getvalue())


def check_figures() -> None:
  """Refuses to start where figures could not be drawn at the end."""
  with cli.refusing():
    figures.check_matplotlib()


def done(workdir: epath.Path, seconds: float) -> None:
  """The last line."""
  cli.report(f'done in {progress.clock(seconds)}: {workdir}/results.json')
