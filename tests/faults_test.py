"""The campaign of faults finds them: its harm, and its verdicts."""

import importlib
import pathlib
import random

import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent / 'benchmarks'


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def base(tmp_path):
  folder = tmp_path / 'base'
  (folder / 'a').mkdir(parents=True)
  (folder / 'a/one').write_bytes(b'some bytes')
  (folder / 'two').write_bytes(b'others')
  return folder


def load(name):
  return importlib.import_module(name)


def test_every_harm_changes_what_it_says(base, tmp_path):
  harm = load('faults_harm')
  before, kinds = harm.held(base), set()
  for seed in range(200):
    copy = harm.copy(base, tmp_path / 'copy')
    done = harm.harm(copy, random.Random(seed), 'a/')
    after = harm.held(copy)
    kinds.add(done.kind)
    assert after != before or done.kind == 'nul tail', done
    assert after['two'] == before['two']
    if done.sha256:  # a stray beside what was there
      assert after[done.path] == done.sha256 and before.items() < after.items()
  assert kinds == set(harm._KINDS)


def keeping(folder):
  """Reads every file whose name it knows, as a good reader does."""
  return [(folder / name).read_bytes() for name in ('a/one', 'two')]


def judge(base, tmp_path, ask):
  return load('faults_damage')._judge(
      60, 0, {'base': (base, ('',))},
      lambda name, folder, report: ask(folder), {'base': keeping(base)},
      tmp_path,
  )


def test_damage_that_is_read_is_a_violation(base, tmp_path):
  figures, violations = judge(base, tmp_path, lambda folder: (
      [path.read_bytes() for path in (folder / 'a/one', folder / 'two')
       if path.is_file()]
  ))
  assert figures['harmless'] > 5
  assert any('flip' in line for line in violations)
  assert all('accepted with another result' in line for line in violations)


def test_damage_that_is_named_is_none(base, tmp_path):

  def ask(folder):
    names = ('a/one', 'two')
    if any(not (folder / name).is_file() for name in names):
      raise FileNotFoundError('one is missing')
    if keeping(folder) != keeping(base):
      raise ValueError('two has changed')
    return keeping(folder)

  figures, violations = judge(base, tmp_path, ask)
  assert not violations
  assert figures['named'] + figures['harmless'] == 60
  assert min(figures.values()) > 5


@pytest.mark.parametrize(('said', 'verdict'), [
    (KeyError('x'), "KeyError: 'x'"),
    (ValueError(''), 'not named in one line'),
    (ValueError('a\nb'), 'not named in one line'),
])
def test_other_errors_are_violations(base, tmp_path, said, verdict):

  def ask(folder):
    raise said

  _, violations = judge(base, tmp_path, ask)
  assert len(violations) == 60 and all(verdict in line for line in violations)


def test_what_is_gone_is_a_violation(base, tmp_path):

  def ask(folder):
    for path in folder.rglob('*'):
      if path.is_file() and path.name not in ('one', 'two'):
        path.unlink()
    raise ValueError('refused')

  _, violations = judge(base, tmp_path, ask)
  assert violations
  assert all('is gone' in v or 'but gone' in v for v in violations)


def test_runs_that_differ(base):
  differences = load('faults_kills').differences
  run = {'arrays': 'a', 'metrics': [{'step': 1}], 'steps': [1]}
  assert differences(run, dict(run)) == []
  assert differences({**run, 'metrics': []}, run) == ['metrics']
