"""Starts our programs in processes of their own, at once.

`python -m` takes seconds to import the libraries. Here one process has imported
them, and every program is a fork of it, which then starts its own JAX.
"""

import importlib
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
import weakref

import jax

ROOT = pathlib.Path(__file__).parents[2]

_FORKS = multiprocessing.get_context('forkserver')
_FORKS.set_forkserver_preload([
    'iblm_jax.main', 'iblm_jax.experiments.memory', 'flax.linen', 'grain',
    'jax.numpy', 'matplotlib.figure', 'optax', 'orbax.checkpoint',
])


class Program:
  """A program that was started; its output goes to files."""

  def __init__(self, name, args, devices, folder):
    self._folder = tempfile.mkdtemp()
    weakref.finalize(self, shutil.rmtree, self._folder)
    self.args = (name, *map(str, args))
    self._process = _FORKS.Process(
        target=_run, args=(self.args, devices, self._folder, folder),
        daemon=True,
    )
    self._process.start()

  @property
  def stdout(self):
    return self._read('stdout')

  @property
  def stderr(self):
    return self._read('stderr')

  def _read(self, name):
    path = pathlib.Path(self._folder, name)
    return path.read_text() if path.exists() else ''

  def poll(self):
    """Exit status, None while it runs; minus its number after a signal."""
    return self._process.exitcode

  def send_signal(self, number):
    os.kill(self._process.pid, number)

  def wait(self, timeout=300):
    """Waits for the end; returns the exit status."""
    self._process.join(timeout)
    assert self.poll() is not None, f'{self} goes on after {timeout} s'
    return self.poll()

  def wait_until(self, condition, timeout=300):
    """Waits for a condition that has to come true before the end."""
    deadline = time.monotonic() + timeout
    while not condition():
      assert self.poll() is None, f'{self} has ended'
      assert time.monotonic() < deadline, f'{self}: nothing after {timeout} s'
      time.sleep(0.005)

  def __str__(self):
    return ' '.join(self.args) + f'\n{self.stdout}\n{self.stderr}'


def start(name, *args, devices=None, folder=ROOT):
  """Starts `python -m iblm_jax.<name>`, as that many CPU devices."""
  return Program(name, args, devices, folder)


def run(name, *args, status=0, devices=None, folder=ROOT):
  """Runs `python -m iblm_jax.<name>` to its end with this exit status."""
  program = start(name, *args, devices=devices, folder=folder)
  program.wait()
  assert program.poll() == status, str(program)
  return program


def _run(args, devices, outputs, folder):
  for name, stream in ('stdout', sys.stdout), ('stderr', sys.stderr):
    stream.flush()
    file = os.open(os.path.join(outputs, name), os.O_WRONLY | os.O_CREAT)
    os.dup2(file, stream.fileno())
  os.chdir(folder)
  if devices:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', devices)
  name, *rest = args
  module = importlib.import_module(f'iblm_jax.{name}')
  sys.argv = [module.__file__, *rest]
  module.run()
