"""Errors that other libraries raise end as one line; bugs do not."""

import errno
import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from programs import ROOT, run

from iblm_jax import cli, files, foreign


def refused(name, *args, status=2):
  """The one line of a program that refuses."""
  done = run(name, *args, status=status)
  assert len(done.stderr.splitlines()) == 1, done.stderr
  return done.stderr


def raised(code, name='x.py', **names):
  """An error as it comes out of a file of that name."""
  with pytest.raises(Exception) as caught:  # noqa: B017, PT011
    exec(compile(code, name, 'exec'), names)
  return caught.value


@pytest.mark.parametrize('program', ['main', 'certify', 'curriculum'])
@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (None, 'own.py is not there.'),
        ('raise KeyError("a")', "own.py: KeyError: 'a'"),
        ('x = (', "own.py: '(' was never closed (own.py, line 1)"),
        ('x = 1', "own.py: .*has no attribute 'get_config'"),
        ('import sys\nsys.exit(0)', 'own.py: SystemExit: 0'),
        ('def get_config():\n  raise ValueError("a\\n b")', 'own.py: a b'),
        ('def get_config(): return []', 'must return a ConfigDict, got [].'),
    ],
)
def test_config_files(tmp_path, program, text, words):
  path = tmp_path / 'own.py'
  if text is not None:
    path.write_text(text)
  line = refused(program, f'--config={path}', f'--workdir={tmp_path}/run')
  head, _, tail = words.partition('.*')
  assert head in line and tail in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('name', 'text', 'words'),
    [
        ('own.py', '', "'own.py': .* A plugin is named as in Python"),
        ('own', 'x = (', "'own': '(' was never closed (own.py, line 1)"),
        ('own', 'raise KeyError("a")', "'own': KeyError: 'a'"),
        ('own', 'import sys\nsys.exit(0)', "'own': SystemExit: 0"),
    ],
)
def test_plugins(tmp_path, name, text, words):
  (tmp_path / 'own.py').write_text(text)
  done = run('main', f'--plugin={name}', '--list', status=2, folder=tmp_path)
  head, _, tail = words.partition('.*')
  assert head in done.stderr and tail in done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('kind', ['folder', 'pipe', 'loop', 'deep', 'list'])
@pytest.mark.parametrize('program', ['main', 'generate', 'probe', 'report'])
def test_what_is_no_config_of_a_run(tmp_path, program, kind):
  path = tmp_path / 'config.json'
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  odd(path, kind)
  args = [f'--workdir={tmp_path}']
  if program == 'main':
    args += ['--config=multiplication:smoke']
  elif program == 'report':
    args = [str(tmp_path), f'--out={tmp_path}/out']
  assert kind == 'loop' or str(path) in refused(program, *args)
  assert not (tmp_path / 'out').exists()


def odd(path, kind):
  if kind == 'folder':
    path.mkdir()
  elif kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'loop':
    path.symlink_to(path)
  else:
    path.write_text({'deep': '[' * 100_000, 'list': '[]'}[kind])


def test_json_that_is_no_object(tmp_path):
  path = tmp_path / 'a.json'
  for kind in ('folder', 'pipe', 'loop'):
    odd(path, kind)
    with pytest.raises(ValueError, match='a.json (must be a file|cannot be)'):
      files.read_object(path)
    path.rmdir() if kind == 'folder' else path.unlink()
  for text, words in (
      (b'[' * 100_000, 'is not readable JSON: .*recursion'),
      (b'', 'is not readable JSON'), (b'\xff', 'is not readable JSON'),
      (b'[1]', r'must hold a JSON object, got \[1\]'),
  ):
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f'a.json {words}'):
      files.read_object(path)


@pytest.mark.parametrize('kind', ['folder', 'pipe', 'deep', 'list'])
@pytest.mark.parametrize('name', ['seconds.json', 'settings.json'])
def test_what_is_no_experiment(tmp_path, name, kind):
  odd(tmp_path / name, kind)
  args = ('--smoke', f'--workdir={tmp_path}')
  assert name in refused('experiments.certificates', *args)


def test_a_text_is_read_before_an_experiment_trains(tmp_path):
  line = refused(
      'experiments.cycle', '--smoke', f'--text={tmp_path}/none.txt',
      f'--workdir={tmp_path}/run',
  )
  assert 'none.txt' in line and not (tmp_path / 'run').exists()


def test_a_damaged_part_ends_a_run_that_goes_on(tmp_path):
  (tmp_path / 'part.json').write_text('{"rows": [')
  with pytest.raises(ValueError) as caught:  # noqa: PT011
    files.read_object(tmp_path / 'part.json')
  line, is_usage = foreign.explain(caught.value)
  assert 'part.json is not readable' in line and not is_usage


def test_no_memory():
  with pytest.raises(MemoryError) as numpy_error:
    np.zeros(2**58)
  for error in (
      numpy_error.value, MemoryError(),
      jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'),
  ):
    line, is_usage = foreign.explain(error)
    assert line.startswith('out of memory: smaller ') and not is_usage


def test_backends_that_are_not_there(monkeypatch):
  def no_devices():
    raise RuntimeError('later')

  error = raised('assert False')  # which is all that JAX says of some
  assert foreign.explain(error) is None
  monkeypatch.setattr(jax, 'devices', no_devices)
  line, is_usage = foreign.explain(error)
  assert line.startswith('JAX_PLATFORMS=') and is_usage
  assert foreign.explain(raised('{}["weights"]')) is None
  done = subprocess.run(
      [
          sys.executable, '-m', 'iblm_jax.main', '--workdir=never_made',
          '--config=multiplication:smoke',
      ],
      env=os.environ | {'JAX_PLATFORMS': 'nope'}, cwd=ROOT, check=False,
      capture_output=True, text=True,
  )
  assert done.returncode == 2
  assert "JAX_PLATFORMS='nope': JAX cannot start that" in done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(
    importlib.util.find_spec('gcsfs') is not None, reason='gcsfs is there'
)
@pytest.mark.parametrize('program', ['main', 'generate', 'probe', 'report'])
def test_extras(tmp_path, program):
  args = {
      'main': ['--config=multiplication:smoke', '--workdir=gs://bucket/run'],
      'report': ['gs://bucket/run', f'--out={tmp_path}/out'],
  }.get(program, ['--workdir=gs://bucket/run'])
  line = refused(program, *args)
  assert 'gs://bucket/run' in line and "'iblm-jax[gcs]'" in line


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left .*a.json') as caught:
    files.write_json(tmp_path / 'a.json', {})
  # Nothing that was typed is to blame.
  with pytest.raises(OSError, match='No space left'), cli.refusing():
    raise caught.value
  with pytest.raises(cli.BadUsage, match='nowhere'), cli.refusing():
    pathlib.Path('nowhere').read_text()


def test_a_bug_shows_where_it_is():
  for code in ('{}["weights"]', 'None.x', '1 / 0', 'assert False', 'import no'):
    assert foreign.explain(raised(code)) is None


def test_a_program_shows_the_traceback_of_a_bug(tmp_path):
  (tmp_path / 'own.py').write_text(
      'from iblm_jax import config_flag\n'
      'config_flag.answered = lambda: {}["weights"]\n'
  )
  done = run(
      'main', '--plugin=own', '--config=multiplication:smoke',
      f'--workdir={tmp_path}/run', status=1, folder=tmp_path,
  )
  assert "KeyError: 'weights'" in done.stderr and 'Traceback' in done.stderr
