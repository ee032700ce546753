"""Verifies in a process of its own, which may take so much and no more.

What a stranger wrote may make regular expressions backtrack for ever, a
compiler run for days, or native code end the process: nothing inside a process
holds all of that.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time

from iblm_jax import errors
from iblm_jax.certification import reading

# Time to understand a config, before any data or array: a second as a rule.
CONFIG_SECONDS = 20
# The same program, without the folder that the interpreter would add.
_START = 'import sys; del sys.argv[0]; from {} import {} as run; run()'


def run(
    module: str, function: str, *, seconds: float, gigabytes: float
) -> None:
  """Calls a function without arguments in another process, and waits.

  It has the same command line, environment, modules and standard output. What
  it wrote as errors is passed on at the end.

  Args:
    module: The module of the function.
    function: Its name.
    seconds: Time that it may take.
    gigabytes: Memory that it may take, where /proc tells how much it takes.

  Raises:
    errors.RunFailed: It took more, or ended by a signal or a traceback.
    SystemExit: It ended with another status than 0.
  """
  path = os.pathsep.join(filter(None, sys.path))
  start = _START.format(module, function)
  sys.stdout.flush()
  with tempfile.TemporaryFile('w+', errors='replace') as said:
    child = subprocess.Popen(
        [sys.executable, '-P', '-c', start, *sys.argv],
        env={**os.environ, 'PYTHONPATH': path},
        stdin=subprocess.DEVNULL,
        stderr=said,
    )
    try:
      _watch(child, seconds, gigabytes)
    finally:
      child.kill()
      child.wait()
    said.seek(0)
    text = said.read()
  # By `stop_at`; there are systems without it.
  if child.returncode == -getattr(signal, 'SIGALRM', 1 << 16):
    raise errors.RunFailed(
        f'its config alone took longer than {CONFIG_SECONDS} s.'
    )
  if child.returncode < 0:
    name = signal.Signals(-child.returncode).name
    raise errors.RunFailed(
        f'the process that verified it ended by {name}, as where there is no'
        ' more memory.'
    )
  if 'Traceback (most recent call last)' in text:
    raise errors.RunFailed(reading.shown(text.strip().splitlines()[-1]))
  sys.stderr.write(text)
  if child.returncode:
    sys.exit(child.returncode)


def stop_at(seconds: float) -> None:
  """Lets the kernel end this process then, whoever still watches it."""
  if hasattr(signal, 'alarm'):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(seconds))


def _watch(child, seconds, gigabytes) -> None:
  deadline = time.monotonic() + seconds
  while child.poll() is None:
    if time.monotonic() > deadline:
      raise errors.RunFailed(
          f'it took longer than --verify_seconds={seconds:g}.'
      )
    if _memory(child.pid) > gigabytes * 1e9:
      raise errors.RunFailed(
          f'it took more memory than --verify_gigabytes={gigabytes:g}.'
      )
    with contextlib.suppress(subprocess.TimeoutExpired):
      child.wait(0.1)


def _memory(pid: int) -> int:
  """Bytes of a process that are in memory, 0 where nobody says."""
  try:
    with open(f'/proc/{pid}/statm') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except (OSError, ValueError, IndexError):
    return 0
