"""Prepared shards against plain Python, restarts, and bad input."""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from iblm_jax.data import identity, prepare, sources
from iblm_jax.data.shards import files as shard_files
from iblm_jax.data.shards import source as shards
from iblm_jax.data.shards import writer as shard_writer
from iblm_jax.data.sources import shard_documents
from iblm_jax.data.text import files as text
from iblm_jax.data.text import tokenising

ROOT = pathlib.Path(__file__).parents[2]
BOS = 256


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  """So that a few documents make many chunks."""
  monkeypatch.setattr(text, '_CHUNK_BYTES', 500)
  monkeypatch.setattr(tokenising, '_CHUNK_CHARACTERS', 500)


def some_documents(n, seed=0):
  rng = np.random.default_rng(seed)
  return [
      ''.join(rng.choice(list('abc dé\n'), rng.integers(1, 60))) + str(i)
      for i in range(n)
  ]


def write_json(path, documents):
  data = '\n'.join(json.dumps({'text': d}) for d in documents).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return str(path)


def run(source, out, *, report=print, **options):
  fields = {'tokenizer', 'documents', 'text_field', 'holdout'}
  how = tokenising.Options(
      **{'holdout': 0.2} | {k: v for k, v in options.items() if k in fields}
  )
  rest = {k: v for k, v in options.items() if k not in fields}
  source = source if isinstance(source, list) else [source]
  prepare.prepare(source, str(out), how, report=report, **rest)


def files_of(folder):
  return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}


def by_loop(documents, holdout, shard_tokens):
  """Contents of the .bin files, from the definition."""
  sides = {'train': [[]], 'validation': [[]]}
  for document in documents:
    data = document.encode()
    word = hashlib.blake2b(data, digest_size=16).digest()[:8]
    held_out = int.from_bytes(word, 'big') / 2**64 < holdout
    shards_of_side = sides['validation' if held_out else 'train']
    if len(shards_of_side[-1]) >= shard_tokens:
      shards_of_side.append([])
    shards_of_side[-1] += [BOS, *data]
  return {
      f'{side}_{i:06d}.bin': struct.pack(
          f'<256i{len(tokens)}H',
          20240520, 1, len(tokens), *[0] * 253, *tokens,
      )
      for side, lists in sides.items()
      for i, tokens in enumerate(lists)
      if tokens
  }


@pytest.mark.parametrize('shard_tokens', [1, 700, 10**6])
@pytest.mark.parametrize('holdout', [0.0, 0.2])
@pytest.mark.parametrize('name', ['a.jsonl', 'a.jsonl.gz'])
def test_files_agree_with_a_loop(tmp_path, shard_tokens, holdout, name):
  documents = some_documents(60 if shard_tokens == 1 else 300)
  source = write_json(tmp_path / name, documents)
  out = tmp_path / 'out'
  run(source, out, shard_tokens=shard_tokens, holdout=holdout)
  found = files_of(out)
  index = json.loads(found.pop('index.json'))
  assert found == by_loop(documents, holdout, shard_tokens)
  assert index['finished'] and 'progress' not in index
  assert (index['eot_id'], index['vocab_size']) == (256, 259)
  assert index['sources'] == [
      {'name': source, 'bytes': os.path.getsize(source)}
  ]
  assert [s['name'] for s in index['shards']] == sorted(found)
  for shard in index['shards']:
    data = found[shard['name']]
    assert shard['split'] == shard['name'].split('_')[0]
    assert shard['sha256'] == hashlib.sha256(data).hexdigest()
    assert shard['tokens'] == (len(data) - 1024) // 2
    tokens = struct.unpack(f'<{shard["tokens"]}H', data[1024:])
    assert shard['documents'] == tokens.count(BOS)


def test_shard_may_be_exactly_full(tmp_path):
  documents = [f'{i:03}' for i in range(20)]  # Four tokens each.
  source = write_json(tmp_path / 'a.jsonl', documents)
  run(source, tmp_path / 'out', shard_tokens=12, holdout=0.0)
  found = files_of(tmp_path / 'out')
  index = json.loads(found.pop('index.json'))
  assert found == by_loop(documents, 0.0, 12)
  assert [s['documents'] for s in index['shards']] == [3] * 6 + [2]


def test_copies_are_on_one_side():
  documents = [f'document {i % 500}' for i in range(2000)]
  held_out = [tokenising.is_held_out(d, 0.3) for d in documents]
  assert held_out[:500] * 4 == held_out
  assert 100 < sum(held_out[:500]) < 200
  # A larger share contains the smaller.
  fewer = [tokenising.is_held_out(d, 0.1) for d in documents]
  assert all(b for a, b in zip(fewer, held_out, strict=True) if a)


@pytest.mark.parametrize('documents', text.DOCUMENTS)
def test_text_files_are_cut_into_the_same_documents(tmp_path, documents):
  """Read in pieces here, and with no limit to a piece there."""
  lines = '\n'.join(some_documents(100)) + '\r\n \t\nend\n\n\n'
  (tmp_path / 'a.txt').write_text('\ufeff' + lines, newline='')
  (tmp_path / 'b.txt.gz').write_bytes(gzip.compress(lines.encode()))
  config = text.TextConfig(paths=str(tmp_path), documents=documents)
  pieces = text.read_documents(config)
  text._CHUNK_BYTES = 10**9  # The fixture puts it back.
  assert pieces == text.read_documents(config)
  out = tmp_path / 'out'
  run(str(tmp_path / 'a.txt'), out, documents=documents, holdout=0.0)
  count = {'file': 1}.get(documents, len(pieces) // 2)
  assert json.loads((out / 'index.json').read_text())['shards'][0][
      'documents'
  ] == count


def test_formats_hold_the_same(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', some_documents(2000))
  for format in ('bin', 'array_record'):
    run(source, tmp_path / format, format=format, shard_tokens=20_000)
  indices = [
      json.loads((tmp_path / f / 'index.json').read_text())['shards']
      for f in ('bin', 'array_record')
  ]
  assert len(indices[0]) == len(indices[1]) > 3
  for one, other in zip(*indices, strict=True):
    assert other['name'] == one['name'].replace('.bin', '.array_record')
    data = (tmp_path / 'array_record' / other['name']).read_bytes()
    assert other['sha256'] == hashlib.sha256(data).hexdigest()
    opened = [
        shard_files.open_shard(str(tmp_path / f / shard['name']))
        for f, shard in (('bin', one), ('array_record', other))
    ]
    np.testing.assert_array_equal(
        *(shard.read(0, shard.num_tokens) for shard in opened)
    )
  made = []
  for format in ('bin', 'array_record'):
    config = sources.DataConfig(
        kind='shards',
        batch_size=4,
        shards=shards.ShardsConfig(
            train=f'{tmp_path}/{format}/train_*',
            validation=f'{tmp_path}/{format}/validation_*',
            seq_len=64,
            eot_id=256,
            vocab_size=259,
        ),
    )
    assert sources.make_tokenizer(config).vocab_size == 259
    made.append(sources.make_sources(config))
  for split in ('train', 'validation'):
    one, other = (m[split] for m in made)
    for k in range(one.num_eval_batches or 50):
      np.testing.assert_equal(one.batch(k), other.batch(k))


class KilledError(BaseException):
  pass


@contextlib.contextmanager
def killed_at(monkeypatch, name, count):
  """Ends the program at a call of os.`name`; not even buffers get written."""
  function, calls = getattr(os, name), [0]

  def counted(*args):
    calls[0] += 1
    if calls[0] > count:
      raise KilledError
    return function(*args)

  with monkeypatch.context() as patch:
    patch.setattr(os, name, counted)
    yield


def leave_files_open(writer):
  """What was in a buffer is lost, and what was on its way is there in part."""
  for part in writer._parts.values():
    os.write(part.file.fileno(), b'half a ')
    # So that closing the file later writes no buffer.
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, part.file.fileno())
    os.close(devnull)
    part.file.close()
  os.close(writer._lock)


@pytest.mark.parametrize('format', ['bin', 'array_record'])
@pytest.mark.parametrize('name', ['replace', 'fsync', 'remove'])
def test_killed_anywhere_it_goes_on(tmp_path, monkeypatch, format, name):
  """Ends at every call that makes a change last, one after the other."""
  documents = some_documents(150)
  source = write_json(tmp_path / 'a.jsonl', documents)
  options = {'format': format, 'shard_tokens': 1500}
  run(source, tmp_path / 'whole', **options)
  wanted = files_of(tmp_path / 'whole')
  assert len(wanted) > 4
  monkeypatch.setattr(shard_writer.ShardWriter, 'close', leave_files_open)
  monkeypatch.setattr(prepare, '_COMMIT_SECONDS', 0.0)
  for step in (1, 2, 5):
    out = tmp_path / f'step_{step}'
    for attempt in range(1000):
      try:
        with killed_at(monkeypatch, name, attempt * step):
          run(source, out, **options)
        break
      except KilledError:
        continue
    assert attempt > 1
    assert files_of(out) == wanted


def test_written_documents_are_not_tokenised_again(tmp_path, monkeypatch):
  source = write_json(tmp_path / 'a.jsonl', some_documents(300))
  seen = []
  chunks_of = text.chunk_documents

  def watched(chunk, *args):
    seen.append(chunk.line)
    if len(seen) == 15:
      raise KilledError
    return chunks_of(chunk, *args)

  monkeypatch.setattr(text, 'chunk_documents', watched)
  with pytest.raises(KilledError):
    run(source, tmp_path / 'out', shard_tokens=700)
  before = files_of(tmp_path / 'out')
  finished = {k: v for k, v in before.items() if k.endswith('.bin')}
  assert len(finished) > 2
  lines = []
  run(source, tmp_path / 'out', shard_tokens=700, report=lines.append)
  # Some chunks after the last finished shard are read twice.
  assert set(seen[15:]) & set(seen[:10]) == set()
  assert lines[0].startswith('going on after ')
  after = files_of(tmp_path / 'out')
  assert finished.items() <= after.items()


def test_finished_folder_is_left_alone(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', some_documents(50))
  run(source, tmp_path / 'out')
  stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').iterdir()}
  lines = []
  run(source, tmp_path / 'out', report=lines.append)
  assert lines == [f'{tmp_path}/out is finished already.']
  for path, stamp in stamps.items():
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    'change,message',
    [
        ({'holdout': 0.3}, 'holdout=0.2, got 0.3: nothing was written'),
        ({'shard_tokens': 701}, 'shard_tokens=700, got 701'),
        ({'format': 'array_record'}, "format='bin', got 'array_record'"),
        ({'text_field': 'body'}, "text_field='text', got 'body'"),
        ({'source': 'b.jsonl'}, 'sources=.*a.jsonl.*got .*b.jsonl'),
    ],
)
@pytest.mark.parametrize('is_finished', [True, False])
def test_other_settings_are_refused(tmp_path, change, message, is_finished):
  documents = some_documents(100)
  source = write_json(tmp_path / 'a.jsonl', documents)
  other = write_json(tmp_path / 'b.jsonl', documents)
  out, options = tmp_path / 'out', {'shard_tokens': 700}
  run(source, out, **options)
  if not is_finished:
    index = json.loads((out / 'index.json').read_text())
    index['finished'] = False
    index['progress'] = {'chunks': 100, 'partial': {}}
    (out / 'index.json').write_text(json.dumps(index))
  before = files_of(out)
  change = dict(change)
  source = other if change.pop('source', None) else source
  with pytest.raises(ValueError, match=message):
    run(source, out, **options | change)
  assert files_of(out) == before


def test_changed_source_is_refused(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', some_documents(50))
  run(source, tmp_path / 'out')
  write_json(tmp_path / 'a.jsonl', some_documents(51))
  with pytest.raises(ValueError, match='other settings, sources='):
    run(source, tmp_path / 'out')


def test_damage_of_the_folder_is_found(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', some_documents(100))
  out = tmp_path / 'out'
  run(source, out, shard_tokens=700)
  path = out / 'index.json'
  index = json.loads(path.read_text())
  index['finished'] = False
  index['progress'] = {'chunks': 100, 'partial': {}}
  path.write_text(json.dumps(index))
  shard = out / 'train_000001.bin'
  data = shard.read_bytes()
  shard.write_bytes(data[:-2])
  with pytest.raises(ValueError, match='train_000001.bin.* must have'):
    run(source, out, shard_tokens=700)
  shard.unlink()
  with pytest.raises(ValueError, match="must hold 'train_000001.bin'"):
    run(source, out, shard_tokens=700)
  path.write_text('{')
  with pytest.raises(ValueError, match='is no index of shards'):
    run(source, out, shard_tokens=700)
  path.unlink()
  with pytest.raises(ValueError, match='must be empty or hold shards'):
    run(source, out, shard_tokens=700)


def test_two_programs_cannot_write_to_a_folder(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', some_documents(50))
  writer = shard_writer.ShardWriter(
      str(tmp_path / 'out'), {'format': 'bin', 'shard_tokens': 5}
  )
  with pytest.raises(ValueError, match='written by another program'):
    run(source, tmp_path / 'out')
  writer.close()


def test_a_disk_that_cannot_lock_is_said(tmp_path, monkeypatch):

  def refuse(file, flags):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  source = write_json(tmp_path / 'a.jsonl', some_documents(50))
  with pytest.warns(UserWarning, match='cannot be locked .No locks available'):
    run(source, tmp_path / 'out')
  assert 'index.json' in files_of(tmp_path / 'out')


@pytest.mark.parametrize(
    'content,message',
    [
        ('{"text": "a"}\n' * 99 + '{"text":', 'line 100 is not JSON'),
        ('{"text": "a"}\n' * 50 + '{"id": 3}', "line 51 must be .* 'text'"),
        (b'{"text": "a"}\n' * 60 + b'\xff', 'offset 840, line 61'),
        ('\n \n', 'hold no document'),
    ],
)
def test_bad_line_is_named(tmp_path, content, message):
  path = tmp_path / 'a.jsonl'
  content = content.encode() if isinstance(content, str) else content
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    run(str(path), tmp_path / 'out')
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
    'options,message',
    [
        ({'shard_tokens': 0}, 'shard_tokens must be .* got 0'),
        ({'workers': 0}, 'workers must be .* got 0'),
        ({'holdout': 0.95}, 'holdout must be .* got 0.95'),
        ({'tokenizer': 'words'}, "tokenizer must be .* got 'words'"),
        ({'source': 'no.txt'}, "'no.txt' does not exist"),
        ({'out': 'gs://bucket/x'}, 'out must be a local folder'),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
  source = write_json(tmp_path / 'a.jsonl', ['a'])
  options = {'source': source, 'out': tmp_path / 'out', **options}
  with pytest.raises(ValueError, match=message):
    run(**options)
  assert not (tmp_path / 'out').exists()


def test_tokenizer_file_is_kept_beside_the_shards(tmp_path):
  tokenizers = pytest.importorskip('tokenizers')
  vocabulary = {'<|endoftext|>': 0, 'a': 1, 'b': 2, '[UNK]': 3}
  made = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(vocabulary, unk_token='[UNK]')
  )
  made.add_special_tokens(['<|endoftext|>'])
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.save(str(tmp_path / 'own.json'))
  source = write_json(tmp_path / 'a.jsonl', ['a b', 'b c b', 'a a'])
  out = tmp_path / 'out'
  run(source, out, tokenizer=str(tmp_path / 'own.json'), holdout=0.0)
  shard = shard_files.open_shard(str(out / 'train_000000.bin'))
  assert shard.read(0, 99).tolist() == [0, 1, 2, 0, 2, 3, 2, 0, 1, 1]
  own = (tmp_path / 'own.json').read_bytes()
  (tmp_path / 'own.json').write_bytes(own + b'\n')
  with pytest.raises(ValueError, match='tokenizer_sha256='):
    run(source, out, tokenizer=str(tmp_path / 'own.json'), holdout=0.0)
  (tmp_path / 'own.json').unlink()
  config = shards.ShardsConfig(train=str(out / 'train_*.bin'))
  assert shards.make_tokenizer(config).encode('b a').tolist() == [2, 1]


def test_large_vocabulary_is_refused(tmp_path, monkeypatch):
  source = write_json(tmp_path / 'a.jsonl', ['a'])
  large = types.SimpleNamespace(vocab_size=65537)
  monkeypatch.setattr(
      prepare.tokenizers_lib, 'load_tokenizer', lambda spec: large
  )
  with pytest.raises(ValueError, match='at most 65536 .* got 65537'):
    run(source, tmp_path / 'out')


def fake_datasets(monkeypatch, records, calls):
  module = types.ModuleType('datasets')

  def load_dataset(name, config=None, *, split, streaming):
    calls.append((name, config, split, streaming))
    if name == 'missing':
      raise FileNotFoundError('no such data set')
    return records

  module.load_dataset = load_dataset
  monkeypatch.setitem(sys.modules, 'datasets', module)


def test_data_set(tmp_path, monkeypatch):
  documents = some_documents(200)
  calls = []
  records = [{'text': d, 'id': i} for i, d in enumerate(documents)]
  records.insert(3, {'text': ' \n', 'id': -1})  # Blank, as in files.
  fake_datasets(monkeypatch, records, calls)
  for i, source in enumerate(
      ['hf:stories', 'hf:me/stories:test', 'hf:me/stories/small:dev']
  ):
    run(source, tmp_path / str(i), shard_tokens=700)
    found = files_of(tmp_path / str(i))
    del found['index.json']
    assert found == by_loop(documents, 0.2, 700)
  assert calls == [
      ('stories', None, 'train', True),
      ('me/stories', None, 'test', True),
      ('me/stories', 'small', 'dev', True),
  ]


def test_bad_data_set_is_refused(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(ValueError, match=r"not installed: .*iblm-jax\[hf\]"):
    run('hf:stories', tmp_path / 'out')
  fake_datasets(monkeypatch, [{'text': 'a'}, {'body': 'a'}], [])
  with pytest.raises(ValueError, match=r"record 2: .*there are \['body'\]"):
    run('hf:stories', tmp_path / 'out')
  with pytest.raises(ValueError, match="'hf:missing' cannot be opened: no su"):
    run('hf:missing', tmp_path / 'other')

  def cut():
    yield {'text': 'a'}
    raise RuntimeError('connection lost')

  fake_datasets(monkeypatch, cut(), [])
  with pytest.raises(OSError, match='after record 1: connection lost'):
    run('hf:stories', tmp_path / 'third')


def children_of(pid):
  path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
  return [int(word) for word in path.read_text().split()]


def test_killed_with_workers(tmp_path):
  """Two workers and a real SIGKILL, then the same again to the end."""
  documents = some_documents(300)
  for i in range(40):
    lines = [f'{i} {j} {d}' * 20 for j, d in enumerate(documents)]
    write_json(tmp_path / f'{i:02}.jsonl', lines)
  names = sorted(str(p) for p in tmp_path.glob('*.jsonl'))
  code = f"""
from iblm_jax.data import prepare
from iblm_jax.data.text import tokenising
if __name__ == '__main__':
  prepare.prepare(
      {names}, {str(tmp_path / 'out')!r}, tokenising.Options(holdout=0.2),
      shard_tokens=200_000, workers=2,
  )
"""
  command = [sys.executable, '-c', code]
  started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
  deadline = time.monotonic() + 60
  while not (tmp_path / 'out' / 'train_000002.bin').exists():
    assert started.poll() is None and time.monotonic() < deadline
    time.sleep(0.002)
  workers = children_of(started.pid)
  started.send_signal(signal.SIGKILL)
  started.wait()
  assert len(workers) >= 2
  before = files_of(tmp_path / 'out')
  assert not json.loads(before['index.json'])['finished']
  done = subprocess.run(
      command, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('going on after ')
  # Chunks are cut as there.
  text._CHUNK_BYTES = 2**20
  run(names, tmp_path / 'whole', shard_tokens=200_000)
  assert files_of(tmp_path / 'out') == files_of(tmp_path / 'whole')
  # Workers of a killed program end as well.
  while any(os.path.exists(f'/proc/{pid}') for pid in workers):
    assert time.monotonic() < deadline
    time.sleep(0.05)


def test_program_reports_a_bad_line(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "a"}\n' * 70 + '{')
  command = [
      sys.executable, '-m', 'iblm_jax.data.prepare', path,
      f'--out={tmp_path}/out', '--workers=2', '--holdout=0',
  ]
  done = subprocess.run(
      command, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 2, done.stderr
  assert done.stderr.count('\n') == 1
  assert f"prepare.py: file '{path}', line 71 is not JSON" in done.stderr


def test_workers_do_without_jax():
  """Importing it would take each of them seconds."""
  code = (
      'import sys\n'
      'from iblm_jax.data import prepare\n'
      "print(sorted({'jax', 'grain', 'flax'} & set(sys.modules)))"
  )
  done = subprocess.run(
      [sys.executable, '-c', code],
      cwd=ROOT, capture_output=True, text=True, check=True,
  )
  assert done.stdout == '[]\n'


@pytest.mark.parametrize(
    'format,workers', [('bin', 1), ('array_record', 1), ('bin', 2)]
)
def test_corrected_source_is_taken_by_the_same_command(
    tmp_path, format, workers
):
  documents = some_documents(200)
  options = dict(format=format, workers=workers, shard_tokens=700)
  source = write_json(tmp_path / 'a.jsonl', documents)
  run(source, tmp_path / 'whole', **options)
  good = pathlib.Path(source).read_bytes()
  out = tmp_path / 'out'
  endings = (b'\n{"text":', b'\n{"text": 3}', b'\n\xff')
  for bad in endings[: 3 if workers == 1 else 1]:
    pathlib.Path(source).write_bytes(good + bad)
    for _ in range(2):  # The same again, which is refused in the same way.
      with pytest.raises(ValueError, match='line 201|a.jsonl'):
        run(source, out, **options)
      assert list(out.iterdir()) == []
  pathlib.Path(source).write_bytes(good)
  run(source, out, **options)
  assert files_of(out) == files_of(tmp_path / 'whole')


@pytest.mark.parametrize('step', range(6))
def test_killed_while_it_discards(tmp_path, monkeypatch, step):
  source = write_json(tmp_path / 'a.jsonl', some_documents(100))
  run(source, tmp_path / 'whole', shard_tokens=2000)
  good = pathlib.Path(source).read_bytes()
  pathlib.Path(source).write_bytes(good + b'\n{')
  out = tmp_path / 'out'
  with monkeypatch.context() as patch:
    patch.setattr(shard_writer.ShardWriter, 'discard', lambda self: None)
    with pytest.raises(ValueError, match='line 101'):
      run(source, out, shard_tokens=700)
  assert len(list(out.iterdir())) > 4
  discard = shard_writer.ShardWriter.discard

  def killed(writer):
    with killed_at(monkeypatch, 'remove', step):
      discard(writer)

  with monkeypatch.context() as patch:
    patch.setattr(shard_writer.ShardWriter, 'discard', killed)
    with pytest.raises(KilledError):
      run(source, out, shard_tokens=700)
  assert (out / 'index.json').exists()
  pathlib.Path(source).write_bytes(good)
  # Other settings too: files of before must not be left among the new ones.
  run(source, out, shard_tokens=2000)
  assert files_of(out) == files_of(tmp_path / 'whole')


def test_files_of_others_are_not_discarded(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', ['a'])
  out = tmp_path / 'out'
  with unfinished(out, source):
    (out / 'notes.txt').write_text('mine')
    (out / 'train_x.bin').write_text('mine')
  with pytest.raises(ValueError, match='is not JSON'):
    run(source, out)
  assert sorted(files_of(out)) == ['notes.txt', 'train_x.bin']


@contextlib.contextmanager
def unfinished(out, source):
  """An unfinished folder with files of somebody else, and a bad source."""
  pathlib.Path(source).write_text('{"text":')
  writer = shard_writer.ShardWriter(
      str(out),
      {
          'format': 'bin', 'tokenizer': 'bytes', 'tokenizer_sha256': None,
          'vocab_size': 259, 'eot_id': 256, 'documents': 'file',
          'text_field': 'text', 'holdout': 0.2, 'shard_tokens': 100_000_000,
          'sources': tokenising.describe([source]),
      },
  )
  yield
  writer.close()


@pytest.mark.parametrize('index', ['[]', 'null', '3', '[' * 100_000])
def test_index_that_is_none_is_refused(tmp_path, index):
  source = write_json(tmp_path / 'a.jsonl', ['a'])
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'index.json').write_text(index)
  with pytest.raises(ValueError, match='is no index of shards') as e:
    run(source, tmp_path / 'out')
  assert '\n' not in str(e.value)


def test_says_that_a_split_is_empty(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', ['some text', 'and more'])
  lines = []
  run(source, tmp_path / 'few', holdout=0.01, report=lines.append)
  assert 'no validation file: holdout=0.01 keeps none of the 2' in lines[-1]
  held = next(
      d for d in map(str, range(99)) if tokenising.is_held_out(d, 0.5)
  )
  both = write_json(tmp_path / 'b.jsonl', [held] * 2)
  run(both, tmp_path / 'all', holdout=0.5, report=lines.append)
  assert 'keeps all 2 documents for validation' in lines[-1]
  lines.clear()
  run(source, tmp_path / 'none', holdout=0.0, report=lines.append)
  assert len(lines) == 2


def swap_case(path):
  """Other contents of the same size."""
  data = path.read_bytes()
  path.write_bytes(data[:1024] + data[1024:].swapcase())
  assert path.read_bytes() != data


@pytest.mark.parametrize('is_large', [True, False])
@pytest.mark.parametrize('is_finished', [True, False])
def test_other_contents_of_the_same_size_are_named(
    tmp_path, monkeypatch, is_finished, is_large
):
  if is_large:
    monkeypatch.setattr(identity, '_WHOLE_BYTES', 1500)
    monkeypatch.setattr(identity, '_PIECE_BYTES', 100)
  source = write_json(tmp_path / 'a.jsonl', some_documents(100))
  out = tmp_path / 'out'
  run(source, out, shard_tokens=700)
  path = out / 'index.json'
  index = json.loads(path.read_text())
  assert is_large == ('sha256_of_samples' in index['shards'][0])
  if not is_finished:
    index['finished'] = False
    index['progress'] = {'chunks': 100, 'partial': {}}
    path.write_text(json.dumps(index))
  config = sources.DataConfig(
      kind='shards',
      options=shards.ShardsConfig(
          f'{out}/train_*', seq_len=8, eot_id=256, vocab_size=259
      ),
  )
  sources.make_sources(config)
  documents = sources.DataConfig(
      kind='shard_documents',
      options=shard_documents.ShardDocumentsConfig(
          (f'{out}/train_*',), eot_id=256, vocab_size=259, num_train=3
      ),
  )
  sources.make_documents(documents)
  shard = out / 'train_000001.bin'
  data = shard.read_bytes()
  swap_case(shard)
  for check in (
      lambda: run(source, out, shard_tokens=700),
      lambda: sources.make_sources(config),
      lambda: sources.make_documents(documents),
  ):
    with pytest.raises(
        ValueError, match="train_000001.bin' has other contents"
    ):
      check()
  shard.write_bytes(data)
  sources.make_sources(config)
  swap_case(tmp_path / 'a.jsonl')
  run(source, out, shard_tokens=700)


def test_a_source_that_changes_half_way_is_refused(tmp_path):
  source = write_json(tmp_path / 'a.jsonl', some_documents(300))
  out = tmp_path / 'out'

  def stop(line):
    raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(prepare, '_REPORT_SECONDS', -1)
    with pytest.raises(KeyboardInterrupt):
      run(source, out, shard_tokens=700, report=stop)
  assert not json.loads((out / 'index.json').read_text())['finished']
  swap_case(tmp_path / 'a.jsonl')
  before = files_of(out)
  with pytest.raises(ValueError, match="a.jsonl' has other contents"):
    run(source, out, shard_tokens=700)
  assert files_of(out) == before
  swap_case(tmp_path / 'a.jsonl')
  run(source, out, shard_tokens=700)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  source = write_json(tmp_path / 'a.jsonl', ['one', 'two'])
  with monkeypatch.context() as patch:
    patch.setattr(shard_writer.ShardWriter, 'add', full)
    with pytest.raises(OSError, match=f"No space left .*'{tmp_path}/out'"):
      run(source, tmp_path / 'out')
  run(source, tmp_path / 'out')  # with some space
