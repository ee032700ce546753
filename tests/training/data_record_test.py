"""A run goes on with the data that it began with, and with no others."""

import gzip
import json
import os
import shutil

import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax import training
from iblm_jax.data import identity, sources
from iblm_jax.data.shards import files as shard_files
from iblm_jax.training import data_record
from iblm_jax.training import run as run_lib

WORDS = ''.join(f'{a}{b}\n' for a in 'abcdefgh' for b in 'abcdefgh').encode()


def shard(tokens):
  return shard_files.header(len(tokens)) + tokens.astype('<u2').tobytes()


def pages(body):
  lines = [json.dumps({'id': f'en/{i}', 'text': f'{body} {i}'})
           for i in range(4)]
  return '\n'.join(lines).encode()


TOKENS = np.arange(400) % 7
# Of each kind: its options, files, and one of these as it becomes.
KINDS = {
    'folder': (
        'text', dict(paths='DIR/a'),
        {'a/1.txt': b'one text', 'a/2.txt': b'two'},
        {'a/1.txt': b'one tExt'},
    ),
    'jsonl': (
        'text', dict(paths='DIR/a.jsonl'), {'a.jsonl': b'{"text": "one"}'},
        {'a.jsonl': b'{"text": "two"}'},
    ),
    'gz': (
        'text', dict(paths='DIR/a.txt.gz'),
        {'a.txt.gz': gzip.compress(b'one', mtime=0)},
        {'a.txt.gz': gzip.compress(b'two', mtime=0)},
    ),
    'tokenizer': (
        'text', dict(paths='DIR/a.txt', tokenizer='DIR/t.json'),
        {'a.txt': b'one', 't.json': b'{"a": 0}'}, {'t.json': b'{"b": 0}'},
    ),
    'shards': (
        'shards',
        dict(train='DIR/a.bin', validation='DIR/b.bin', eot_id=0, vocab_size=7),
        {'a.bin': shard(TOKENS), 'b.bin': shard(TOKENS)},
        {'b.bin': shard(TOKENS[::-1])},
    ),
    'tokenizer of shards': (
        'shards', dict(train='DIR/a.bin', eot_id=0, vocab_size=7),
        {
            'a.bin': shard(TOKENS), 't.json': b'{"a": 0}',
            'index.json': b'{"tokenizer": "t.json"}',
        },
        {'t.json': b'{"b": 0}'},
    ),
    'shard_documents': (
        'shard_documents',
        dict(files=('DIR/a.bin',), eot_id=0, vocab_size=7, num_train=3),
        {'a.bin': shard(TOKENS)}, {'a.bin': shard(TOKENS[::-1])},
    ),
    'words': (
        'words', dict(path='DIR/a.txt', num_train=9), {'a.txt': WORDS},
        {'a.txt': WORDS.replace(b'aa', b'zz')},
    ),
    'pages': (
        'pages', dict(path='DIR/a.jsonl', num_train=2),
        {'a.jsonl': pages('a')}, {'a.jsonl': pages('b')},
    ),
}


def write(folder, files):
  for name, data in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def found_of(folder, kind, options):
  options = json.loads(json.dumps(options).replace('DIR', str(folder)))
  tree = {'kind': kind, kind: options}
  return sources.identity_of(config_lib.build(sources.DataConfig, tree, 'data'))


@pytest.mark.parametrize('name', KINDS)
def test_a_file_of_the_same_name_and_size_is_refused(tmp_path, name):
  kind, options, files, change = KINDS[name]
  data, workdir = tmp_path / 'data', tmp_path / 'run'
  workdir.mkdir()
  write(data, files)
  data_record.claim(workdir, found_of(data, kind, options))
  shutil.move(data, tmp_path / 'away')
  shutil.copytree(tmp_path / 'away', data, copy_function=shutil.copyfile)
  for path in files:  # a copy of another time is the same corpus
    os.utime(data / path, (1, 1))
  data_record.check(workdir, found_of(data, kind, options))
  ((path, contents),) = change.items()
  assert len(contents) == len(files[path])
  write(data, change)
  with pytest.raises(ValueError) as e:
    data_record.check(workdir, found_of(data, kind, options))
  message = str(e.value)
  assert str(data / path) in message and 'has other contents' in message
  assert '\n' not in message


@pytest.mark.parametrize(
    'change, message',
    [
        ({'a/3.txt': b'three'}, r"file '.*a/3.txt' is new"),
        ({'a/1.txt': b'longer than one'}, r"1.txt' had 8 bytes, and has 15"),
        ({'a/2.txt': None}, r"file '.*a/2.txt' is missing"),
    ],
)
def test_what_comes_and_goes_is_named(tmp_path, change, message):
  kind, options, files, _ = KINDS['folder']
  write(tmp_path, files)
  data_record.claim(tmp_path, found_of(tmp_path, kind, options))
  for path, contents in change.items():
    if contents is None:
      (tmp_path / path).unlink()
    else:
      write(tmp_path, {path: contents})
  with pytest.raises(ValueError, match=message):
    data_record.check(tmp_path, found_of(tmp_path, kind, options))


def test_large_files_are_sampled_at_both_ends(tmp_path):
  path = tmp_path / 'a.bin'
  data = bytearray(2**23 + 1)
  path.write_bytes(data)
  before = identity.of_file(path, sampled=True)
  assert before.keys() == {'bytes', 'sha256_of_samples'}
  for place in (0, len(data) // 3, len(data) - 1):
    changed = data.copy()
    changed[max(0, place - 2**19) : place + 2**19] = b'x' * 2**20
    path.write_bytes(changed[: len(data)])
    assert identity.of_file(path, sampled=True) != before
  path.write_bytes(data)
  assert identity.of_file(path, sampled=True) == before
  assert 'sha256' in identity.of_file(path)


def text_run(tiny, path):
  tiny['model']['vocab_size'] = 259
  tiny['data'] = dict(
      batch_size=2, kind='text', text=dict(paths=str(path), seq_len=32)
  )
  tiny['train'] = dict(num_steps=1, log_every=1)
  tiny['optimizer']['schedule']['warmup_steps'] = 0
  return config_lib.from_dict(tiny)


def test_a_run_is_refused_other_data_before_it_compiles(tiny, tmp_path):
  text, workdir = tmp_path / 'a.txt', tmp_path / 'run'
  text.write_bytes(b'some text of a run ' * 100)
  cfg = text_run(tiny, text)
  training.train(cfg, workdir, report=lambda line: None)
  lines = []
  training.train(cfg, workdir, report=lines.append)
  assert 'holds this run, finished' in lines[0]
  text.write_bytes(b'some tExt of a run ' * 100)
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  with pytest.raises(ValueError, match="a.txt' has other contents"):
    run_lib.prepare(cfg, workdir)
  assert {p: p.stat().st_mtime_ns for p in workdir.rglob('*')} == before
  # Checkpoints know of which data they are, so that the record can be made
  # again, but of no others.
  record = workdir / 'data.json'
  whole = record.read_bytes()
  for damage in (None, '{', '[]', '[' * 100_000):
    text.write_bytes(b'some tExt of a run ' * 100)
    record.unlink() if damage is None else record.write_text(damage)
    with pytest.raises(ValueError, match='data.json'):
      run_lib.prepare(cfg, workdir)
    text.write_bytes(b'some text of a run ' * 100)
    training.train(cfg, workdir, report=lambda line: None)
    assert record.read_bytes() == whole
  # A run of version 0.1 has no record, and gets one.
  record.unlink()
  (place,) = workdir.glob('checkpoints/*/run.json')
  tree = json.loads(place.read_text())
  place.write_text(json.dumps({k: tree[k] for k in ('step', 'config')}))
  data_record.claim(workdir, run_lib.prepare(cfg, workdir).job.identity)
  assert record.read_bytes() == whole


class Rows(list):
  """Data of one's own that say what they are."""

  identity = 'corpus 7'


def test_data_of_ones_own_say_what_they_are(tiny, tmp_path):
  tiny['data'] = dict(batch_size=2)
  cfg = config_lib.from_dict(tiny)
  rows = [{'tokens': np.arange(8) + i} for i in range(4)]
  other = [{'tokens': np.arange(8) + i + 1} for i in range(4)]
  prepare = lambda data: run_lib.prepare(cfg, tmp_path, source=data)
  data_record.claim(tmp_path, prepare(rows).job.identity)
  prepare(list(rows))
  with pytest.raises(ValueError, match="source 'train' has other contents"):
    prepare(other)
  (tmp_path / 'data.json').unlink()
  named = Rows(rows)
  data_record.claim(tmp_path, prepare(named).job.identity)
  prepare(Rows(other))
  named.identity = 'corpus 8'
  with pytest.raises(ValueError, match="was 'corpus 7', and is 'corpus 8'"):
    prepare(named)
