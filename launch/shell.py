"""Runs command lines, or only prints them."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence


class Failed(Exception):
  """Says which command failed."""


class NotCreated(Failed):
  """Says that no TPU VM can be created, or not with these flags."""


class Preempted(Failed):
  """Says that the TPU VM was taken away."""


class Shell:
  """Runs command lines, or with `dry_run` only prints them."""

  def __init__(self, dry_run: bool = False):
    self.dry_run = dry_run

  def run(
      self, argv: Sequence[str], *, capture: bool = False
  ) -> subprocess.CompletedProcess:
    """Runs a command to its end; `capture` puts its output into the result.

    Nobody is there to answer: gcloud asks nothing, and no command can read
    what is typed here.
    """
    argv = _quiet(argv)
    if self.dry_run:
      print(shlex.join(argv), flush=True)
      return subprocess.CompletedProcess(argv, 0, b'', b'')
    try:
      return subprocess.run(
          argv,
          capture_output=capture,
          check=False,
          stdin=subprocess.DEVNULL,
      )
    except FileNotFoundError as error:
      raise Failed(f'{argv[0]} is not on the PATH.') from error

  def must(self, argv: Sequence[str], what: str) -> None:
    """Runs a command that has to succeed."""
    status = self.run(argv).returncode
    if status:
      raise Failed(f'{what} failed: {argv[0]} ended with {status}.')

  def sleep(self, seconds: float) -> None:
    """Waits, except in a dry run."""
    if not self.dry_run:
      time.sleep(seconds)


def _quiet(argv: Sequence[str]) -> list[str]:
  """Gives gcloud its flag --quiet, before the last argument."""
  if argv[0] != 'gcloud' or '--quiet' in argv:
    return list(argv)
  return [*argv[:-1], '--quiet', argv[-1]]


def report(line: str) -> None:
  """Prints a line about the TPU, apart from the run's own output."""
  print(f'tpu_vm: {line}', file=sys.stderr, flush=True)
