"""Starts programs of the library as forks of a process that has imported them.

`python -m` takes seconds to import the libraries. The parent must not use JAX
itself: whatever computes is a fork, too, see `in_child`.
"""

import dataclasses
import functools
import importlib
import itertools
import json
import os
import pathlib
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

# Tiny models compile for longer than they run; kills find them compiled.
os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_backend_optimization_level=0'
    ' --xla_cpu_parallel_codegen_split_count=1',
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax
from absl import flags

for _name in (
    'iblm_jax.certify', 'iblm_jax.data.prepare', 'iblm_jax.generate',
    'iblm_jax.main', 'iblm_jax.probe', 'iblm_jax.report', 'flax.linen',
    'grain', 'jax.numpy', 'matplotlib.figure', 'optax', 'orbax.checkpoint',
):
  importlib.import_module(_name)
warnings.filterwarnings('ignore', message='os.fork', category=RuntimeWarning)

# What a commit is made of.
_COMMITS = ('replace', 'rename', 'fsync', 'unlink', 'rmdir')
_POLL_SECONDS = 0.005


@dataclasses.dataclass
class Ended:
  """How a program ended.

  Attributes:
    status: Exit status; minus its number after a signal.
    output: Of stdout and stderr.
    seconds: From start to end.
    peak_bytes: Most memory that it held at once.
    killed: Whether it was alive when we killed it.
    timed_out: Whether it was killed for going on too long.
  """

  status: int
  output: str
  seconds: float
  peak_bytes: int
  killed: bool
  timed_out: bool

  @property
  def last_line(self) -> str:
    """The last that it said."""
    lines = self.output.strip().splitlines()
    return lines[-1] if lines else ''

  @property
  def is_traceback(self) -> bool:
    """Whether it ended as no program should."""
    return 'Traceback (most recent' in self.output or self.status in (
        -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS,
    )


def run(
    name: str,
    *args: Any,
    outputs: pathlib.Path,
    kill_after: float | None = None,
    die_at_commit: int | None = None,
    devices: int | None = None,
    timeout: float = 300.0,
    data_limit: int | None = None,
) -> Ended:
  """Runs `iblm_jax.<name>` in a fork until it ends or is killed.

  Args:
    name: Of a module of the library with a function `run`.
    *args: Of its command line.
    outputs: A folder for what it prints.
    kill_after: Seconds after which it gets SIGKILL.
    die_at_commit: It kills itself before or after its n-th call that renames,
      deletes or syncs something.
    devices: Number of fake CPU devices.
    timeout: Seconds after which it has failed.
    data_limit: Most bytes of data that the kernel gives it.
  """
  path = outputs / f'{os.getpid()}.out'
  sys.stdout.flush()
  sys.stderr.flush()
  began = time.monotonic()
  pid = os.fork()
  if not pid:
    _be_program(name, args, path, die_at_commit, devices, data_limit)
  killed = timed_out = False
  while True:
    found, status, usage = os.wait4(pid, os.WNOHANG)
    if found:
      break
    seconds = time.monotonic() - began
    if kill_after is not None and seconds >= kill_after or seconds > timeout:
      timed_out = seconds > timeout
      os.kill(pid, signal.SIGKILL)
      _, status, usage = os.wait4(pid, 0)
      break
    time.sleep(_POLL_SECONDS)
  code = os.waitstatus_to_exitcode(status)
  killed = code == -signal.SIGKILL and not timed_out
  return Ended(
      status=code,
      output=path.read_text(errors='replace') if path.exists() else '',
      seconds=time.monotonic() - began,
      peak_bytes=usage.ru_maxrss * 1024,
      killed=killed,
      timed_out=timed_out,
  )


def in_child(function: Callable[..., Any], *args: Any) -> Any:
  """Returns what a function returns in a fork, of JSON types.

  Raises:
    RuntimeError: It raised something there.
  """
  read, write = os.pipe()
  sys.stdout.flush()
  sys.stderr.flush()
  pid = os.fork()
  if not pid:
    os.close(read)
    try:
      answer = {'value': function(*args)}
    except BaseException:
      answer = {'error': traceback.format_exc()}
    with os.fdopen(write, 'w') as file:
      json.dump(answer, file)
    os._exit(0)
  os.close(write)
  with os.fdopen(read) as file:
    text = file.read()
  os.waitpid(pid, 0)
  answer = json.loads(text) if text else {'error': 'it died'}
  if 'error' in answer:
    raise RuntimeError(answer['error'])
  return answer['value']


def _be_program(name, args, path, die_at_commit, devices, data_limit):
  """What a fork does; it never returns."""
  code = 70
  try:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if data_limit is not None:
      resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
    _forget_flags()
    if devices is not None:
      jax.config.update('jax_num_cpu_devices', devices)
    if die_at_commit is not None:
      _die_at(die_at_commit)
    module = importlib.import_module(f'iblm_jax.{name}')
    sys.argv = [module.__file__, *map(str, args)]
    code = 0
    try:
      module.run()
    except SystemExit as end:
      code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
      traceback.print_exc()
      code = 1
    threading._shutdown()
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255)


def _forget_flags():
  """Those of this program: the other has its own."""
  for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
    if 'faults' in module:
      for flag in list(defined):
        if flag.name in flags.FLAGS:
          delattr(flags.FLAGS, flag.name)
  flags.FLAGS.unparse_flags()


def _die_at(count):
  """Makes the count-th call of a commit the last that this process makes."""
  calls = itertools.count(1)

  def dying(function):

    @functools.wraps(function)
    def call(*args, **kwargs):
      number = next(calls)
      if number == count and count % 2:
        os.kill(os.getpid(), signal.SIGKILL)
      result = function(*args, **kwargs)
      if number == count:
        os.kill(os.getpid(), signal.SIGKILL)
      return result

    return call

  for name in _COMMITS:
    setattr(os, name, dying(getattr(os, name)))
