"""Files are written whole or not at all."""

import json
import os

import pytest

from iblm_jax import files


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
