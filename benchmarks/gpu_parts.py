"""Parts of a benchmark: processes of their own, within a budget of time."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

_HERE = pathlib.Path(__file__).resolve().parent
# How far a part may run over the budget before it is stopped, in s.
_GRACE = 30


class Failed(Exception):
  """A part of the benchmark failed; the message is one line."""


class Parts:
  """Runs parts within the budget and keeps what they found."""

  def __init__(
      self,
      folder: pathlib.Path,
      cache: pathlib.Path,
      *,
      budget: float,
      on_cpu: bool,
  ):
    """Starts the clock.

    Args:
      folder: for logs and results.
      cache: folder of compiled programs, which parts share.
      budget: seconds.
      on_cpu: keeps parts from the GPU.
    """
    self._start = time.monotonic()
    self._folder, self._cache = folder, cache
    self._budget, self._on_cpu = budget, on_cpu
    self.failed = False

  def left(self) -> float:
    """Seconds of the budget."""
    return self._budget - (time.monotonic() - self._start)

  def elapsed(self) -> float:
    """Seconds since the start."""
    return time.monotonic() - self._start

  def run(
      self,
      name: str,
      spec: dict,
      *,
      least: float,
      leave: float = 0,
      script: str = 'gpu_jax.py',
      python: str = sys.executable,
  ) -> dict | None:
    """The part's figures, or None after a line that says why there are none.

    Args:
      name: of the part.
      spec: handed to the process.
      least: seconds that must be left for it to start.
      leave: seconds it must leave to others.
      script: file in this folder.
      python: that runs it.

    Returns:
      What the process wrote.
    """
    if self.left() < least:
      print(
          f'{name}: left out, {max(self.left(), 0):.0f} s of the budget are'
          f' left and it needs about {least:.0f} s', flush=True,
      )
      return None
    seconds = max(self.left() - leave, least) + _GRACE
    start = time.monotonic()
    try:
      figures = self._process(
          name, [python, str(_HERE / script)],
          {'seconds': seconds - _GRACE, **spec}, seconds,
      )
    except Exception as error:
      self.failed = True
      print(f'{name}: failed: {error}', flush=True)
      return None
    print(f'{name}: done in {time.monotonic() - start:.0f} s', flush=True)
    for note in (figures.get('note'), *figures.get('skipped', ())):
      if note:
        print(f'{name}: note: {note}', flush=True)
    return figures

  def _process(self, name, program, spec, seconds):
    stem = ''.join(c if c.isalnum() else '_' for c in name)
    result = self._folder / f'{stem}.json'
    result.unlink(missing_ok=True)
    log = self._folder / f'{stem}.log'
    with log.open('w') as output:
      process = subprocess.Popen(
          [*program, json.dumps(spec), str(result)],
          stdout=output, stderr=subprocess.STDOUT, env=self._environment(),
          start_new_session=True,  # To end with all of its own children.
      )
      try:
        status = process.wait(seconds)
      except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
          raise Failed(f'stopped after {seconds:.0f} s') from error
        raise
    figures = json.loads(result.read_text()) if result.exists() else {}
    if status or not figures or 'error' in figures:
      lines = log.read_text(errors='replace').split('\n')
      last = next((line for line in reversed(lines) if line.strip()), '')
      raise Failed(figures.get('error', f'exit status {status}: {last}'))
    return figures

  def _environment(self):
    env = dict(os.environ)
    paths = [str(_HERE.parent), env.get('PYTHONPATH', '')]
    env['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    # Parts share what XLA finds out about kernels; no earlier call's.
    env['JAX_COMPILATION_CACHE_DIR'] = str(self._cache)
    env.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.9')
    if self._on_cpu:
      env['JAX_PLATFORMS'] = 'cpu'
      env['CUDA_VISIBLE_DEVICES'] = ''
    return env
