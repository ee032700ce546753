"""Harms folders and asks their readers: named, harmless, or a violation."""

import collections
import contextlib
import io
import json
import pathlib
import random
import shutil
import signal
from collections.abc import Callable
from typing import Any

import faults_config
import faults_harm
import faults_kills
import faults_programs as programs
import jax
import numpy as np

from iblm_jax import config, data, errors
from iblm_jax.certification import comparison, pipeline, verification
from iblm_jax.data import prepare
from iblm_jax.training import checkpoints, restoring, run

_SECONDS_EACH = 60
_STOPPED_AT = faults_config.STEPS - faults_config.EVERY
# Errors that programs turn into one line.
_NAMED = (ValueError, errors.RunFailed, OSError, comparison.Mismatch)
_WORDS = [a + b + c for a in 'abcdefgh' for b in 'xyz' for c in ('', 'no', 'a')]


class _Stop(Exception):
  pass


def damage(count: int, folder: pathlib.Path, seed: int) -> tuple[dict, list]:
  """Harms run folders, shards and certificates so many times in all.

  Returns:
    Figures by name, and a line for each violation.
  """
  parts = {'runs': _runs, 'shards': _shards, 'certificates': _certificates}
  shares = {'runs': count - 2 * (count // 4)}
  figures, violations = collections.Counter(), []
  for name, part in parts.items():
    found, bad = programs.in_child(
        part, shares.get(name, count // 4), str(folder / name), seed
    )
    figures.update(found)
    violations += bad
  return dict(figures), violations


def _judge(
    count: int,
    seed: int,
    bases: dict[str, tuple[pathlib.Path, tuple[str, ...]]],
    ask: Callable[[str, pathlib.Path, Callable[[str], None]], Any],
    wanted: dict[str, Any],
    work: pathlib.Path,
) -> tuple[dict, list]:
  """Harms copies of folders in turn, and judges what their reader does.

  Args:
    count: How many times.
    seed: Of what is harmed.
    bases: By name, a folder and which of its files to harm, in turn.
    ask: Of a name, a folder and where to report to; what is read there.
    wanted: What is read of each folder unharmed.
    work: Gets the copies; those of violations stay.
  """
  draw, names = random.Random(seed), sorted(bases)
  figures, violations = collections.Counter(), []
  signal.signal(signal.SIGALRM, _late)
  for number in range(count):
    name = names[number % len(names)]
    base, within = bases[name]
    copy = faults_harm.copy(base, work / f'copy_{number}')
    prefix = within[number // len(names) % len(within)]
    harm = faults_harm.harm(copy, draw, prefix)
    before, said = faults_harm.held(copy), []
    signal.alarm(_SECONDS_EACH)
    try:
      found = ask(name, copy, said.append)
    except _NAMED as error:
      verdict = _of_refusal(str(error), before, faults_harm.held(copy))
    except Exception as error:
      verdict = f'{type(error).__name__}: {error}'
    else:
      verdict = 'named' if any(map(_is_said, said)) else 'harmless'
      if found != wanted[name]:
        verdict = f'accepted with another result: {said}'
    finally:
      signal.alarm(0)
    if harm.sha256 and _is_gone(harm, copy):
      verdict = 'the stray is gone'
    figures['named'] += verdict == 'named'
    figures['harmless'] += verdict == 'harmless'
    if verdict not in ('named', 'harmless'):
      violations.append(f'{copy}: {name}, {harm}: {verdict}')
    else:
      shutil.rmtree(copy, ignore_errors=True)
  return dict(figures), violations


def _is_gone(harm, copy):
  """Of a stray; one within an old checkpoint goes with it."""
  first, _, rest = harm.path.partition('/')
  whole = copy / first / rest.split('/')[0]
  is_old = first == 'checkpoints' and '/' in rest and not whole.exists()
  return not is_old and harm.sha256 not in faults_harm.held(copy).values()


def _of_refusal(message, before, after):
  if not message or len(message.strip().splitlines()) > 1:
    return f'not named in one line: {message}'
  left = collections.Counter(after.values())
  lost = collections.Counter(before.values()) - left
  return f'refused, but gone: {lost}' if lost else 'named'


def _is_said(line):
  return any(w in line for w in ('damage', 'missing', 'aside', 'cut', 'kept'))


def _late(number, frame):
  raise RuntimeError(f'still reading after {_SECONDS_EACH} s')


# --- Runs.


def _runs(count, folder, seed):
  folder = pathlib.Path(folder)
  tree = faults_config.get_config('transformer')
  cfg = config.from_dict(tree)
  stopped, finished = folder / 'stopped', folder / 'finished'

  def until_stopped(line):
    if line.startswith(f'step {_STOPPED_AT + 1}'):
      raise _Stop

  try:
    run.train(cfg, stopped, report=until_stopped)
  except _Stop:
    pass
  run.train(cfg, finished, report=lambda line: None)
  whole = faults_kills._left_by(finished)
  whole['steps'] = None

  def ask(name, workdir, report):
    if name == 'reader':
      before = faults_harm.held(workdir)
      with contextlib.redirect_stdout(io.StringIO()) as said:
        step, numbers = taken(workdir)
      if said.getvalue():
        report(said.getvalue())
      assert before == faults_harm.held(workdir), 'a reader has written'
      assert step == faults_config.STEPS or said.getvalue(), 'in silence'
      return numbers == right[step]
    run.train(cfg, workdir, report=report)
    return {**faults_kills._left_by(workdir), 'steps': None}

  def taken(workdir, step=None):
    found = restoring.restore_params(cfg, workdir, step=step)
    return found.step, _numbers(found.params)

  right = dict(
      taken(finished, step)
      for step in checkpoints.saved_steps(finished / 'checkpoints')
  )
  everything = (
      'checkpoints/', 'metrics.jsonl', f'checkpoints/{_STOPPED_AT}/', 'config',
      'checkpoints/', '',
  )
  return _judge(
      count,
      seed,
      {
          'resumed': (stopped, everything),
          'finished': (finished, ('summary', *everything)),
          'reader': (
              finished, (f'checkpoints/{faults_config.STEPS}/', 'config')
          ),
      },
      ask,
      {
          'resumed': whole,
          'finished': whole,
          'reader': True,
      },
      folder,
  )


def _numbers(tree):
  return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]


# --- Shards.


def _shards(count, folder, seed):
  folder = pathlib.Path(folder)
  (folder / 'texts').mkdir(parents=True)
  for number in range(40):
    text = f'Document {number} of a corpus that is harmed. ' * (number % 4 + 1)
    (folder / 'texts' / f'{number}.txt').write_text(text)
  bases = {}
  for kind in ('bin', 'array_record'):
    bases[kind] = folder / kind, ('',)
    prepare.prepare(
        [str(folder / 'texts')],
        str(folder / kind),
        prepare.tokenising.Options(tokenizer='bytes', holdout=0.2),
        format=kind,
        report=lambda line: None,
    )

  def ask(name, copy, report):
    before = faults_harm.held(copy)
    cfg = data.DataConfig(
        kind='shards',
        batch_size=4,
        shards=data.ShardsConfig(
            train=f'{copy}/train_*.{name}',
            validation=f'{copy}/validation_*.{name}',
            seq_len=32, eot_id=256, vocab_size=259,
        ),
    )
    found = [
        {key: value.tolist() for key, value in split.batch(k).items()}
        for _, split in sorted(data.make_sources(cfg).items())
        for k in range(split.num_eval_batches or 20)
    ]
    found.append(data.make_tokenizer(cfg).vocab_size)
    assert before == faults_harm.held(copy), 'a reader has written'
    return found

  wanted = {name: ask(name, base, None) for name, (base, _) in bases.items()}
  return _judge(count, seed, bases, ask, wanted, folder)


# --- Certificates.


def _certificates(count, folder, seed):
  folder = pathlib.Path(folder)
  made = make_certificate(folder)

  def ask(name, copy, report):
    before = faults_harm.held(copy)
    verification.verify(copy, report, str(folder / 'words.txt'))
    assert before == faults_harm.held(copy), 'a reader has written'
    return json.loads((copy / 'certificate.json').read_text())

  bases = {'certificate': (made, ('',))}
  wanted = {'certificate': ask('certificate', made, lambda line: None)}
  return _judge(count, seed, bases, ask, wanted, folder)


def make_certificate(folder: pathlib.Path) -> pathlib.Path:
  """Makes a certificate in a folder; returns where it is."""
  folder.mkdir(parents=True, exist_ok=True)
  words = folder / 'words.txt'
  words.write_text('\n'.join(_WORDS) + '\n')
  cfg = pipeline.from_dict(faults_config.certificate(str(words)))
  jobs = [pipeline.prepare(one) for one in pipeline.alternatives(cfg)]
  workdir = folder / 'run'
  config.claim_workdir(cfg.run, workdir)
  pipeline.certify(cfg, workdir, lambda line: None, jobs)
  return workdir / 'certificate'
