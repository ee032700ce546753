"""Runs the commands of a TPU VM: create, set up, run, follow, try again."""

import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from . import commands, outcomes
from . import shell as shell_lib

ROOT = pathlib.Path(__file__).parents[1]
# Polls in a row that may fail while gcloud says that the TPU is well.
_MAX_MISSES = 10


@dataclasses.dataclass
class Session:
  """Controls one TPU VM.

  Attributes:
    spec: which TPU VM.
    shell: runs the commands.
    poll_seconds: between two looks at the TPU or the run.
    settle_seconds: how long after a failed run its TPU is watched: a state such
      as PREEMPTED may come later than the failure.
  """

  spec: commands.TpuSpec
  shell: shell_lib.Shell
  poll_seconds: float = 30.0
  settle_seconds: float = 60.0

  def state(self) -> str:
    """Asks for the state of the request until it is ACTIVE, then of the node.

    Returns:
      What gcloud says, or NOT_FOUND.

    Raises:
      Failed: if gcloud cannot tell.
    """
    if self.spec.queued:
      state = self._describe(commands.describe_queued_command(self.spec))
      if state != 'ACTIVE':
        return state
    return self._describe(commands.describe_command(self.spec))

  def create(self) -> None:
    """Creates the TPU VM and waits until it is ready."""
    if self.shell.run(commands.create_command(self.spec)).returncode:
      raise shell_lib.NotCreated(f'{self.spec.name} was not created.')
    if self.spec.queued:
      self.wait_until_ready()

  def wait_until_ready(self) -> None:
    """Waits for the end of the queue, without a limit."""
    last = None
    while (state := self.state()) != 'READY' and not self.shell.dry_run:
      if state in outcomes.GONE or state == 'NOT_FOUND':
        raise shell_lib.NotCreated(f'{self.spec.name} is {state}, not READY.')
      if state != last:
        shell_lib.report(f'{self.spec.name} is {state}')
      last = state
      self.shell.sleep(self.poll_seconds)

  def setup(self, repo: str = '', revision: str = 'HEAD') -> None:
    """Puts code and a virtual environment onto all workers; may be repeated.

    Args:
      repo: Git URL that the workers fetch from. Where it is empty, the
        committed files of this program's checkout are copied.
      revision: A branch, tag or commit.
    """
    files = [str(commands.WORKER_SCRIPT)]
    with tempfile.TemporaryDirectory() as folder:
      if repo:
        setup = commands.worker_command('setup', 'git', repo, revision)
      else:
        files.append(f'{folder}/{commands.ARCHIVE}')
        setup = commands.worker_command('setup', 'archive', commands.ARCHIVE)
        self.shell.must(
            commands.archive_command(str(ROOT), revision, files[-1]),
            f'packing revision {revision}',
        )
      self.shell.must(commands.scp_command(self.spec, files), 'copying')
    self.shell.must(commands.ssh_command(self.spec, setup), 'setup')

  def start(self, args: Sequence[str]) -> None:
    """Starts `python -m iblm_jax.main` on all workers, detached."""
    command = commands.worker_command('start', *args)
    self.shell.must(commands.ssh_command(self.spec, command), 'start')

  def follow(self) -> int:
    """Prints the log of worker 0 until the run has ended on all workers.

    When a worker fails, the others are stopped: they would wait for it.

    Returns:
      Exit status of the run, see `outcomes.run_status`.

    Raises:
      Preempted: if the TPU VM was taken away.
      Failed: if the workers cannot be reached.
    """
    offset, misses, stopped = 0, 0, False
    ask = commands.ssh_command(self.spec, commands.state_command())
    stop = commands.ssh_command(self.spec, commands.worker_command('stop'))
    while True:
      answer = self.shell.run(ask, capture=True)
      if not answer.returncode:
        offset += self._copy_log(offset)
      if self.shell.dry_run:
        return 0
      states = outcomes.parse_states(answer.stdout.decode())
      status = outcomes.run_status(states)
      if answer.returncode or not states:
        self._raise_if_gone()
        misses += 1
        if misses == _MAX_MISSES:
          raise shell_lib.Failed(
              f'{misses} looks in a row failed; the run may go on. '
              + _end(answer.stderr)
          )
      elif status is not None:
        return status
      else:
        misses = 0
        if outcomes.any_failed(states) and not stopped:
          shell_lib.report(f'workers: {", ".join(states)}; stopping the others')
          self.shell.run(stop)
          stopped = True
          continue
      self.shell.sleep(self.poll_seconds)

  def worker_states(self) -> list[str]:
    """Asks all workers for their states, see `outcomes.parse_states`."""
    command = commands.ssh_command(self.spec, commands.state_command())
    answer = self.shell.run(command, capture=True)
    if answer.returncode:
      raise shell_lib.Failed(f'ssh failed: {_end(answer.stderr)}')
    return outcomes.parse_states(answer.stdout.decode())

  def stop(self) -> None:
    """Asks the run to save and end, on all workers."""
    command = commands.worker_command('stop')
    self.shell.must(commands.ssh_command(self.spec, command), 'stop')

  def logs(self, worker: str, lines: int, follow: bool) -> None:
    """Prints the end of a worker's log."""
    extra = ['follow'] if follow else []
    command = commands.worker_command('log', str(lines), *extra)
    self.shell.must(
        commands.ssh_command(self.spec, command, worker=worker), 'logs'
    )

  def delete(self) -> None:
    """Deletes the TPU VM, and its request if it was queued."""
    self.shell.must(commands.delete_command(self.spec), 'delete')

  def launch(
      self,
      args: Sequence[str],
      *,
      retries: int = 0,
      repo: str = '',
      revision: str = 'HEAD',
  ) -> int:
    """Creates a TPU VM and runs on it, again on a new one if it is taken away.

    Args:
      args: Flags of `iblm_jax.main`, the same in every try.
      retries: How often the TPU VM may be recreated.
      repo: See `setup`.
      revision: See `setup`.

    Returns:
      The exit status of the run.

    Raises:
      Failed: The run cannot be started, or the TPU VM was taken away too often.
    """
    for left in range(retries, -1, -1):
      try:
        self._ensure()
        self.setup(repo, revision)
        self.start(args)
        status = self.follow()
        if status in (0, outcomes.BAD_CONFIG) or not self._settles_to_gone():
          return status
        reason = f'the run ended with {status} and the TPU VM is gone'
      except shell_lib.Failed as error:
        # On a first try the flags or the quota may be wrong; later it is only
        # capacity that is missing.
        missing = isinstance(error, shell_lib.NotCreated) and left < retries
        taken = isinstance(error, shell_lib.Preempted) or self._is_gone()
        if not (missing or taken):
          raise
        reason = str(error).removesuffix('.')
      if not left:
        raise shell_lib.Preempted(
            f'{reason}; no retries left. The same command resumes the run.'
        )
      shell_lib.report(
          f'{reason}; trying again, {left} of {retries} retries left'
      )
      self.shell.sleep(self.poll_seconds)
    raise AssertionError('unreachable')

  def _ensure(self) -> None:
    while (state := self.state()) == 'SUSPENDING':  # cannot be deleted yet
      self.shell.sleep(self.poll_seconds)
    if state in outcomes.GONE:
      self.delete()
    if state in outcomes.GONE or state == 'NOT_FOUND' or self.shell.dry_run:
      self.create()
    elif state == 'READY':
      shell_lib.report(f'{self.spec.name} is there already')
    else:
      self.wait_until_ready()

  def _copy_log(self, offset: int) -> int:
    command = commands.worker_command('log_from', str(offset + 1))
    log = self.shell.run(
        commands.ssh_command(self.spec, command, worker='0'), capture=True
    )
    sys.stdout.buffer.write(log.stdout)
    sys.stdout.buffer.flush()
    return len(log.stdout)

  def _describe(self, command: list[str]) -> str:
    answer = self.shell.run(command, capture=True)
    error = _end(answer.stderr)
    if not answer.returncode:
      return answer.stdout.decode().strip()
    if 'NOT_FOUND' in error or 'not found' in error:
      return 'NOT_FOUND'
    raise shell_lib.Failed(f'describe failed: {error}')

  def _raise_if_gone(self) -> None:
    try:
      state = self.state()
    except shell_lib.Failed:
      return  # gcloud cannot tell now; the next look asks again.
    if state in outcomes.GONE:
      raise shell_lib.Preempted(f'{self.spec.name} is {state}')
    if state == 'NOT_FOUND':
      raise shell_lib.Failed(
          f'{self.spec.name} was deleted; it is not recreated.'
      )

  def _is_gone(self) -> bool:
    try:
      return self.state() in outcomes.GONE
    except shell_lib.Failed:
      return False

  def _settles_to_gone(self) -> bool:
    end = time.monotonic() + self.settle_seconds
    while not (gone := self._is_gone()) and time.monotonic() < end:
      self.shell.sleep(min(self.poll_seconds, self.settle_seconds))
    return gone


def _end(output: bytes) -> str:
  return output.decode(errors='replace').strip()[-500:]
