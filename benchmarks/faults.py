"""Harms runs, files and programs on purpose; counts what was lost.

  python benchmarks/faults.py
  python benchmarks/faults.py --kills=20 --parts=kills

Prints a table of figures, then every violation, and exits with 1 if there is
one. See docs/reliability.md.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

_PARTS = ('kills', 'devices', 'damage', 'hostile', 'fuzz', 'cost')
FLAGS = flags.FLAGS
flags.DEFINE_list('parts', list(_PARTS), f'Which of {_PARTS}.')
flags.DEFINE_integer('kills', 200, 'Kills that find a run alive.')
flags.DEFINE_integer('changes', 10, 'Kills after which the devices change.')
flags.DEFINE_integer('damages', 300, 'Files harmed.')
flags.DEFINE_integer('inputs', 100, 'Hostile inputs of programs.')
flags.DEFINE_float('fuzz_seconds', 120.0, 'How long files are fuzzed.')
flags.DEFINE_integer('rounds', 5, 'Saves that are timed.')
flags.DEFINE_integer('draws', 0, 'Seed of all that is random.')
flags.DEFINE_string('folder', None, 'Keeps what a violation left; a new one.')


def _row(part, figures, violations, seconds):
  text = ', '.join(f'{name} {value}' for name, value in figures.items())
  print(f'{part:10} {len(violations):3} violations  {text}  ({seconds:.0f} s)',
        flush=True)
  for line in violations:
    print(f'  {line}', flush=True)


def _fuzz(seconds):
  tests = pathlib.Path(__file__).parents[1] / 'tests'
  paths = [str(tests / 'helpers'), os.environ.get('PYTHONPATH', '')]
  ended = subprocess.run(
      [sys.executable, str(tests / 'fuzz_test.py'), str(seconds)],
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
      capture_output=True, text=True, check=False,
  )
  if ended.returncode:
    return {}, [ended.stderr[:2000] + ended.stderr[-2000:]]
  return {ended.stdout.strip(): 'read rightly or refused'}, []


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}.')
  unknown = set(FLAGS.parts) - set(_PARTS)
  if unknown:
    raise app.UsageError(f'--parts must be some of {_PARTS}, got {unknown}.')
  folder = pathlib.Path(FLAGS.folder or tempfile.mkdtemp(prefix='faults_'))
  folder.mkdir(parents=True, exist_ok=True)
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'cache'))
  logging.set_verbosity(logging.ERROR)
  # Now, since they import JAX.
  import faults_cost
  import faults_damage
  import faults_hostile
  import faults_kills

  seed = FLAGS.draws
  parts = {
      'kills': lambda: faults_kills.kills(FLAGS.kills, folder, seed),
      'devices': lambda: faults_kills.changed_devices(
          FLAGS.changes, folder, seed
      ),
      'damage': lambda: faults_damage.damage(FLAGS.damages, folder, seed),
      'hostile': lambda: faults_hostile.hostile(FLAGS.inputs, folder, seed),
      'fuzz': lambda: _fuzz(FLAGS.fuzz_seconds),
      'cost': lambda: faults_cost.cost(FLAGS.rounds, folder),
  }
  failed = False
  for part in _PARTS:
    if part in FLAGS.parts:
      began = time.monotonic()
      figures, violations = parts[part]()
      _row(part, figures, violations, time.monotonic() - began)
      failed |= bool(violations)
  if not failed and not FLAGS.folder:
    shutil.rmtree(folder)
  sys.exit(int(failed))


if __name__ == '__main__':
  app.run(main)
