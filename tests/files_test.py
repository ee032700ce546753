"""Files are written whole or not at all."""

import json
import os

import pytest

from iblm_jax import files
from iblm_jax.data import prepare
from iblm_jax.data.text import tokenising
from iblm_jax.reports import runs


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / 'a.json'
  files.write_json(path, {'a': 1})
  before = path.read_bytes()
  assert json.loads(before) == {'a': 1} and before.endswith(b'}\n')

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    files.write_json(path, {'a': 2})
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def test_data_are_synced_before_the_name_and_the_name_after(
    tmp_path, monkeypatch
):
  events = []
  fsync, replace = os.fsync, os.replace
  monkeypatch.setattr(
      os, 'fsync', lambda fd: events.append('sync') or fsync(fd)
  )
  monkeypatch.setattr(
      os, 'replace', lambda a, b: events.append('name') or replace(a, b)
  )
  files.write_bytes(tmp_path / 'a', b'1')
  assert events == ['sync', 'name', 'sync']


@pytest.mark.parametrize('name', ['', ' ', '~nobody-of-that-name/runs'])
def test_a_folder_that_nobody_has(name):
  with pytest.raises(ValueError, match='workdir must be a folder'):
    files.folder('workdir', name)
  with pytest.raises(ValueError, match='run must be a folder'):
    runs.read_runs([name])


def test_an_empty_source_is_not_the_current_folder(tmp_path):
  with pytest.raises(ValueError, match="data sets, got ''"):
    prepare.prepare(
        [''], str(tmp_path / 'shards'), tokenising.Options()
    )
  assert not (tmp_path / 'shards').exists()
