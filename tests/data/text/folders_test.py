"""Folders as other programs leave them, pipes, and gzips that blow up."""

import gzip
import os

import numpy as np
import pytest

from iblm_jax.data import kinds, prepare, sources
from iblm_jax.data.shards import files as shard_files
from iblm_jax.data.text import files as text
from iblm_jax.data.text import tokenising

MAC = b'\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \xb0'


def read(path, **options):
  return text.read_documents(text.TextConfig(paths=str(path), **options))


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'a.txt').write_text('good text\n')
  return tmp_path / 'in'


def test_hidden_files_and_sidecars_are_left_out_and_counted(folder):
  (folder / '._a.txt').write_bytes(MAC)
  (folder / '.DS_Store').write_bytes(MAC)
  for name in ('.ipynb_checkpoints', '__MACOSX', '.git'):
    (folder / name).mkdir()
    (folder / name / 'a-checkpoint.txt').write_text('old copy\n')
  with pytest.warns(UserWarning, match='4 hidden files or folders left out'):
    assert read(folder) == ['good text\n']
  # One that is named itself is meant.
  assert read(folder / '.git') == read(folder / '.git' / 'a-checkpoint.txt')


def test_folder_of_hidden_files_alone_says_so(tmp_path):
  (tmp_path / '._a.txt').write_bytes(MAC)
  with pytest.raises(ValueError, match='must hold .* found 1 hidden files'):
    read(tmp_path)


def test_loops_of_links_are_read_once(folder):
  (folder / 'b').mkdir()
  (folder / 'b' / 'b.txt').write_text('more')
  os.symlink('.', folder / 'self')
  os.symlink('..', folder / 'b' / 'up')
  with pytest.warns(UserWarning, match='2 links to a folder that they are in'):
    assert read(folder) == ['good text\n', 'more']
  os.remove(folder / 'self')
  os.remove(folder / 'b' / 'up')
  # A link that is no loop is one more copy, as it always was.
  os.symlink('b', folder / 'c')
  assert read(folder) == ['good text\n', 'more', 'more']


def test_deep_folders_are_read(folder):
  path = str(folder)
  for _ in range(1100):  # Deeper than calls may nest.
    path += '/a'
    os.mkdir(path)
  with open(path + '/z.txt', 'w') as file:
    file.write('deep')
  try:
    assert read(folder) == ['deep', 'good text\n']
  finally:
    # In two parts, since what tidies up after tests nests its calls.
    os.rename(str(folder) + '/a' * 550, folder / 'half')


def test_pipes_and_devices_are_refused(folder, tmp_path):
  os.mkfifo(tmp_path / 'pipe.txt')
  with pytest.raises(ValueError, match='pipe.txt.* regular file, got a pipe'):
    read(tmp_path / 'pipe.txt')
  os.symlink(tmp_path / 'pipe.txt', folder / 'b.txt')
  with pytest.raises(ValueError, match=r"b\.txt' must be .* got a pipe"):
    read(folder)
  os.symlink('/dev/zero', tmp_path / 'zero.jsonl')
  with pytest.raises(ValueError, match='zero.jsonl.* got a device'):
    read(tmp_path / 'zero.jsonl')
  os.remove(folder / 'b.txt')
  os.symlink(tmp_path / 'none', folder / 'c.txt')
  with pytest.raises(ValueError, match=r"c\.txt' is a link to nothing"):
    read(folder)
  os.mkfifo(tmp_path / 'pipe.bin')
  with pytest.raises(ValueError, match='pipe.bin.* got a pipe'):
    shard_files.open_shard(str(tmp_path / 'pipe.bin'))


@pytest.mark.parametrize('kind', ['words', 'pages'])
def test_folder_in_place_of_a_file_is_named(tmp_path, kind):
  path = tmp_path / ('a.txt' if kind == 'words' else 'a.jsonl')
  path.mkdir()
  options = kinds.get(kind).options(path=str(path), num_train=2)
  config = sources.DataConfig(kind=kind, batch_size=2, options=options)
  with pytest.raises(ValueError, match="must be a regular file, got a folder"):
    sources.make_documents(config)


def test_empty_files_do_not_refuse_a_folder(folder):
  for name in ('b.txt', 'c.jsonl'):
    (folder / name).write_text('\n')
  with pytest.warns(UserWarning, match='2 files without a document left out'):
    assert read(folder) == ['good text\n']
  (folder / 'a.txt').write_text(' ')
  with pytest.raises(ValueError, match=f"folder '{folder}' holds no document"):
    read(folder)


@pytest.mark.parametrize('name', ['a.txt.gz', 'a.jsonl.gz'])
@pytest.mark.parametrize('documents', text.DOCUMENTS)
def test_gzip_that_unpacks_to_too_much_is_refused(
    tmp_path, monkeypatch, name, documents
):
  monkeypatch.setattr(text, '_LEAST_UNPACKED', 2**16)
  path = tmp_path / name
  path.write_bytes(gzip.compress(b' a' * 2**23))
  taken = []
  readinto = text._Unpacked.readinto

  def counted(self, buffer):
    taken.append(len(buffer))
    return readinto(self, buffer)

  monkeypatch.setattr(text._Unpacked, 'readinto', counted)
  with pytest.raises(ValueError, match=f"{name}.* gz_ratio = 100 times") as e:
    read(path, documents=documents)
  assert '\n' not in str(e.value)
  # It stops soon after, and has not unpacked all of it.
  assert sum(taken) < 100 * path.stat().st_size + 2**20
  out = str(tmp_path / 'out')
  with pytest.raises(ValueError, match='gz_ratio'):
    prepare.prepare([str(path)], out, tokenising.Options(documents=documents))
  if name == 'a.txt.gz':
    assert len(read(path, documents=documents, gz_ratio=2000)[0]) == 2**24
    options = tokenising.Options(documents=documents, gz_ratio=2000)
    prepare.prepare([str(path)], out, options, report=lambda line: None)


def test_gzip_of_several_pieces_is_read_whole(tmp_path):
  lines = [str(i) * 50 for i in range(40_000)]
  data = gzip.compress('\n'.join(lines[:99]).encode() + b'\n')
  data += gzip.compress('\n'.join(lines[99:]).encode())
  (tmp_path / 'a.txt.gz').write_bytes(data)
  assert read(tmp_path / 'a.txt.gz', documents='line') == lines
  assert read(tmp_path / 'a.txt.gz') == ['\n'.join(lines)]


def test_globs_of_shards_leave_hidden_files_out(tmp_path):
  shard = shard_files.header(2) + np.array([1, 2], '<u2').tobytes()
  for name in ('a.bin', '._a.bin', '.x/a.bin', 'x/a.bin'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(MAC if '._' in name else shard)

  def found(pattern):
    names = shard_files.find_shards('train', [f'{tmp_path}/{pattern}'])
    return [os.path.relpath(name, tmp_path) for name in names]

  assert found('*.bin') == ['a.bin']
  assert found('*/*.bin') == ['x/a.bin']
  assert found('.*/*.bin') == ['.x/a.bin']
  assert found('._*') == ['._a.bin']
