"""Reads what workers report and decides which run may start where."""

import re
from collections.abc import Sequence

from . import commands

# States of a node and of a queued resource after which it must be recreated:
# https://docs.cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes
GONE = frozenset(
    {'PREEMPTED', 'TERMINATED', 'FAILED', 'SUSPENDING', 'SUSPENDED'}
)
STOPPED = 143
BAD_CONFIG = 2


def parse_states(text: str) -> list[str]:
  r"""Finds the states that `tpu_worker.sh state` printed, one per worker.

  Args:
    text: Output of ssh to some workers, in any order, with other lines between.

  Returns:
    For each worker 'none' (nothing was started), 'alive', 'exited N' or 'lost'
    (started, and gone without an exit status).

  Example:
    >>> parse_states('SSH: connecting\niblm-state: exited 143\n')
    ['exited 143']
  """
  pattern = r'^iblm-state: (none|alive|lost|exited [0-9]+)\r?$'
  return re.findall(pattern, text, re.M)


def run_status(states: Sequence[str]) -> int | None:
  """Finds the exit status of a run from the states of all its workers.

  Returns:
    None while a worker is alive or none answered. Else 2 if any was given a bad
    config, else 1 if any failed otherwise, else 143 if any was stopped after
    saving, else 0.

  Example:
    >>> run_status(['exited 0', 'exited 134']), run_status(['alive', 'lost'])
    (1, None)
  """
  if not states or 'alive' in states:
    return None
  return worst(
      int(state.split()[1]) if state.startswith('exited ') else 1
      for state in states
  )


def worst(statuses) -> int:
  """Reduces several exit statuses to one: 2, else 1, else 143, else 0."""
  kinds = {x if x in (0, BAD_CONFIG, STOPPED) else 1 for x in statuses}
  return next(x for x in (BAD_CONFIG, 1, STOPPED, 0) if x in kinds)


def any_failed(states: Sequence[str]) -> bool:
  """Tells whether a worker ended so that the others cannot continue."""
  return any(state not in ('alive', 'exited 0') for state in states)


def workdir_of(args: Sequence[str]) -> str | None:
  """Finds the workdir among the flags of `iblm_jax.main`; the last one counts.

  Example:
    >>> workdir_of(['--config=c.py', '--workdir', 'gs://bucket/run'])
    'gs://bucket/run'
  """
  workdir = None
  for i, arg in enumerate(args):
    name, equals, value = arg.partition('=')
    if name in ('--workdir', '-workdir'):
      workdir = value if equals else ''.join(args[i + 1 : i + 2])
  return workdir


def check_workdir(
    spec: commands.TpuSpec, args: Sequence[str], *, outlives: bool = False
) -> None:
  """Refuses a workdir that the run could not be resumed from.

  Args:
    spec: The TPU VM of the run.
    args: Flags of `iblm_jax.main`.
    outlives: Whether the run must outlive the TPU VM, which may be deleted.

  Raises:
    ValueError: There is no workdir, or a local one where gs:// is needed.
  """
  workdir = workdir_of(args)
  if not workdir:
    raise ValueError(
        'the arguments after -- have no --workdir; give one on gs://.'
    )
  if workdir.startswith('gs://'):
    return
  if not spec.single_host:
    raise ValueError(
        f'--workdir={workdir} is on the local disk of each of the machines of a'
        f' {spec.accelerator}, so no checkpoint would be whole. It must start'
        ' with gs://.'
    )
  if outlives:
    raise ValueError(
        f'--workdir={workdir} is lost when the TPU VM is deleted, as --retries,'
        ' --spot and --delete_after may. It must start with gs://.'
    )
