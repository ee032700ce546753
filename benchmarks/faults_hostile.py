"""Starts programs on what a stranger, or a broken disk, has made for them."""

import collections
import gzip
import os
import pathlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import faults_config
import faults_harm
import faults_kills
import faults_programs as programs
import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1] / 'tests/helpers'))
import hostile_certificates

from iblm_jax.data.shards import files as shard_files

_SECONDS, _BYTES = 60.0, 2 << 30
# More would take the machine with it.
_LIMIT = 6 << 30
_SHARES = {
    'certify': 30, 'generate': 20, 'probe': 12, 'report': 13, 'data.prepare': 25
}
Case = tuple[str, Callable[[pathlib.Path], list[Any]]]


def hostile(count: int, folder: pathlib.Path, seed: int) -> tuple[dict, list]:
  """Starts programs on so many hostile inputs.

  Returns:
    Figures by name, and a line for each violation.
  """
  runs = {}
  for family in ('text', 'memory'):
    runs[family] = folder / f'unharmed_{family}'
    command = _train(family, runs[family], folder)
    ended = programs.run(*command, outputs=folder)
    if ended.status:
      return {}, [f'{family}: fails unharmed: {ended.output}']
  certificate = pathlib.Path(programs.in_child(_honest, str(folder)))
  every = {
      'certify': _forgeries(certificate),
      'generate': [*_runs(runs['text'], _generate), *_prompts(runs['text'])],
      'probe': _runs(runs['memory'], _probe),
      'report': [*_runs(runs['text'], _report), *_names(runs['text'])],
      'data.prepare': _sources(),
  }
  draw, figures, violations = random.Random(seed), collections.Counter(), []
  most = {'seconds': 0.0, 'MB': 0.0}
  for program, cases in every.items():
    cases = list(cases)
    draw.shuffle(cases)
    for name, make in cases[: -(-_SHARES[program] * count // 100)]:
      place = folder / 'hostile'
      shutil.rmtree(place, ignore_errors=True)
      place.mkdir()
      ended = programs.run(
          program, *make(place), outputs=folder, timeout=_SECONDS,
          data_limit=_LIMIT,
      )
      problem = _problem(ended)
      if problem:
        violations.append(f'{program} of {name}: {problem}')
      figures['refused' if ended.status else 'harmless'] += not problem
      most['seconds'] = max(most['seconds'], ended.seconds)
      most['MB'] = max(most['MB'], ended.peak_bytes / 1e6)
  figures.update({f'most {k}': round(v) for k, v in most.items()})
  return dict(figures), violations


def _problem(ended):
  said = ended.output[-2000:]
  if ended.timed_out:
    return f'goes on after {_SECONDS:.0f} s: {said}'
  if ended.is_traceback or ended.status < 0 or ended.status not in (0, 1, 2):
    return f'status {ended.status}: {said}'
  if ended.peak_bytes > _BYTES:
    return f'{ended.peak_bytes / 1e9:.1f} GB: {said}'
  if ended.status and not ended.last_line:
    return 'refused without a word'
  return None


def _train(family, workdir, folder):
  if family != 'text':
    return faults_kills.command(family, workdir)
  text = folder / 'text.txt'
  lines = (f'Line {n} of a text that a model reads again.' for n in range(200))
  text.write_text('\n'.join(lines))
  return (
      *faults_kills.command(family, workdir),
      f'--config.data.text.paths={text}',
  )


def _honest(folder):
  return str(hostile_certificates.make(pathlib.Path(folder, 'honest')))


def _forgeries(certificate) -> Iterator[Case]:
  for name, forge in hostile_certificates.FORGERIES.items():

    def make(place, forge=forge):
      folder = faults_harm.copy(certificate, place / 'c')
      programs.in_child(forge, folder)  # some compute
      return [f'--verify={folder}']

    yield name, make


# --- Runs.

_DEEP = '[' * 200_000
# In place of a file of a run.
_TEXTS = {
    'nothing': '', 'null': 'null', 'a list': '[]', 'NULs': '\0' * 4096,
    'depth': _DEEP, 'a deep field': f'{{"step": {_DEEP}', 'no text': '\udcff',
    'a number too large': '{"step": 1' + '0' * 5000 + '}\n',
    'an infinite number': '{"step": 1e999}\n', 'an array of text': '["a"]\n',
    'lists in fields': '{"model": [], "data": [], "step": [], "eval": []}\n',
}
_PLACES = {
    'a pipe': os.mkfifo,
    'a folder': os.mkdir,
    'a loop of links': lambda path: path.symlink_to(path.name),
    'zeros without an end': lambda path: path.symlink_to('/dev/zero'),
}
_FILES = (
    'config.json', 'metrics.jsonl', 'summary.json', 'checkpoints',
    f'checkpoints/{faults_config.STEPS}/manifest.json',
)
# In config.json: sizes that no memory holds, paths that no run has.
_FIELDS = {
    '"width": 16': ('"width": 16000000', '"width": 1e300', '"width": -16'),
    '"num_layers": 1': ('"num_layers": 1000000000', '"num_layers": "1"'),
    '"vocab_size": 259': ('"vocab_size": 1000000000000',),
    '"batch_size": 8': ('"batch_size": 1000000000',),
    '"tokenizer": "bytes"': (
        '"tokenizer": "/dev/zero"', '"tokenizer": "/dev/zero.json"',
        '"tokenizer": "x\\ny"',
    ),
    '"seed": 0': (f'"seed": {2**70}',),
}


def _runs(base, arguments) -> Iterator[Case]:
  for file in _FILES:
    for what, text in _TEXTS.items():
      yield f'{what} for {file}', _replaced(
          base, file, arguments,
          lambda path, text=text: path.write_text(
              text, errors='surrogateescape'
          ),
      )
    for what, put in _PLACES.items():
      yield f'{what} for {file}', _replaced(base, file, arguments, put)
  text = (base / 'config.json').read_text()
  for old, news in _FIELDS.items():
    for new in news if old in text else ():
      yield f'{new} in config.json', _replaced(
          base, 'config.json', arguments,
          lambda path, new=new, old=old: path.write_text(
              text.replace(old, new)
          ),
      )
  for what in ('/dev/null', '/proc/self', '', 'a\0b'.replace('\0', '\n')):
    yield f'the workdir {what!r}', lambda place, what=what: arguments(
        what, place
    )


def _replaced(base, file, arguments, put):
  def make(place):
    folder = faults_harm.copy(base, place / 'run')
    path = folder / file
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink()
    put(path)
    return arguments(folder, place)

  return make


def _generate(folder, place):
  return [f'--workdir={folder}', '--prompt=A text', '--max_tokens=3']


def _probe(folder, place):
  return [
      f'--workdir={folder}', '--steps=2', '--batch_size=2', '--layers=1',
      '--width=16', '--heads=2',
  ]


def _report(folder, place):
  return [folder, f'--out={place / "out"}']


def _prompts(base) -> Iterator[Case]:
  for flag in (
      '--prompt=' + 'x' * 100_000, '--prompt=\udcff', '--prompt=\x1b[2J',
      '--temperature=nan', '--temperature=-1', '--temperature=1e-320',
      '--temperature=1e300', '--top_k=1000000000000', '--top_k=-1',
      f'--seed={2**70}', f'--step={10**30}', '--max_tokens=-5',
      f'--max_tokens={10**18}',
  ):
    yield flag[:40], lambda place, flag=flag: [
        f'--workdir={base}', '--prompt=A', '--max_tokens=3', flag
    ]


def _names(base) -> Iterator[Case]:
  for name in ('$x^$', '<script>', '\udcff', 'a' * 200, '%s{}', '\n'):
    yield f'a run named {name!r}', lambda place, name=name: _report(
        faults_harm.copy(base, place / name), place
    )


# --- Text.

_GOOD = b'{"text": "a document that says something to be read"}\n' * 30


def _sources() -> Iterator[Case]:
  packed = gzip.compress(_GOOD)
  for name, data in {
      'broken.jsonl': _GOOD + b'{"text": "abc\n', 'list.jsonl': b'[1]\n',
      'utf16.jsonl': _GOOD.decode().encode('utf-16'),
      'utf8.jsonl': b'{"text": "\xff"}\n', 'null.jsonl': b'{"text": null}\n',
      'nul.jsonl': b'\0\0\n', 'surrogate.jsonl': b'{"text": "\\ud800"}\n',
      'deep.jsonl': b'[' * 200_000, 'digits.jsonl': b'9' * 100_000 + b'\n',
      'long.jsonl': b'{"text": "' + b'x' * 30_000_000 + b'"}\n',
      'nothing.jsonl': b'', 'blank.jsonl': b'\n' * 1000, 'nothing.txt': b'',
      'nul.txt': b'abc\0' * 5000, 'short.txt': b'a', 'latin1.txt': b'\xe9' * 99,
      'cut.jsonl.gz': packed[:-30], 'no.jsonl.gz': _GOOD, 'no.txt.gz': b'',
      'more.jsonl.gz': packed + b'garbage',
      'flip.jsonl.gz': packed[:40] + b'\0' + packed[41:],
      'bomb.txt.gz': gzip.compress(b' a' * (1 << 23)) * 300,
      'bomb.jsonl.gz': gzip.compress(b'a' * (1 << 24)) * 300,
      'name\n.txt': b'text ' * 99,
  }.items():

    def make(place, name=name, data=data):
      (place / name).write_bytes(data)
      return [place / name, *_to(place)]

    yield name, make
  for what, put in _PLACES.items():

    def one(place, put=put):
      put(place / 'a.txt')
      return [place / 'a.txt', *_to(place)]

    def beside(place, put=put):
      (place / 'texts').mkdir()
      (place / 'texts/b.txt').write_text('text ' * 99)
      put(place / 'texts/a.txt')
      return [place / 'texts', *_to(place)]

    yield f'{what} for a file', one
    yield f'{what} beside a file', beside
  for flag in (
      '--tokenizer=/dev/zero', '--holdout=nan', '--shard_tokens=-1',
      f'--workers={10**9}', '--tokenizer=', '--holdout=1e-320',
  ):

    def flagged(place, flag=flag):
      (place / 'a.txt').write_text('text ' * 99)
      return [place / 'a.txt', *_to(place), flag]

    yield flag, flagged

  def half(place):
    """What another program left in the folder."""
    (place / 'a.txt').write_text('text ' * 99)
    (place / 'out').mkdir()
    tokens = np.arange(9, dtype=np.uint16).tobytes()
    (place / 'out/train_000000.bin').write_bytes(
        shard_files.header(99) + tokens
    )
    (place / 'out/index.json').write_text(_DEEP)
    return [place / 'a.txt', *_to(place)]

  yield 'an index that is deep', half


def _to(place):
  return [f'--out={place / "out"}', '--workers=1']
