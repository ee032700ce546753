"""Documents of token shards are those between end-of-text tokens."""

import numpy as np
import pytest

from iblm_jax.data.shards import files as shard_files
from iblm_jax.data.sources import shard_documents

EOT = 9


def write(path, tokens):
  data = np.asarray(tokens, '<u2')
  path.write_bytes(shard_files.header(data.size) + data.tobytes())


@pytest.fixture
def corpus(tmp_path):
  """Files in which a document crosses a border; the texts, in order."""
  rng = np.random.default_rng(0)
  texts = [rng.integers(0, EOT, n).tolist() for n in (3, 1, 0, 12, 5, 2, 7, 4)]
  stream = [token for text in texts for token in (EOT, *text)]
  write(tmp_path / 'a.bin', [1, 2, *stream[:15]])  # begins within a document
  write(tmp_path / 'b.bin', [])
  write(tmp_path / 'c.bin', stream[15:])
  return tmp_path, texts


def load(folder, **options):
  options = {'num_train': 5, 'length': 16} | options
  config = shard_documents.ShardDocumentsConfig(
      files=(f'{folder}/*.bin',), eot_id=EOT, vocab_size=10, **options
  )
  return shard_documents.load_documents(config)


def units(source):
  """Scored targets of every unit."""
  found = []
  for split, count in (
      ('train', source.num_train), ('heldout', source.num_heldout)
  ):
    rows = source.rows(split, np.arange(count))
    batch = source.read(rows)
    parts = [[] for _ in range(count)]
    for r, unit in enumerate(rows.unit):
      parts[unit] += batch['targets'][r][batch['loss_mask'][r]].tolist()
      assert rows.begin[r] or batch['tokens'][r, 0] == EOT
    found += parts
  return found


@pytest.mark.parametrize('length, stride', [(16, None), (4, 3)])
def test_units_are_the_documents(corpus, length, stride):
  folder, texts = corpus
  source = load(folder, length=length, stride=stride)
  assert (source.num_train, source.num_heldout) == (5, 3)
  wanted = [[*text, EOT] for text in texts]
  assert sorted(units(source)) == sorted(wanted)
  population = source.population
  assert population['size'] == 8 and set(population['files']) == {
      'a.bin', 'b.bin', 'c.bin'
  }


def test_other_tokens_have_another_hash(corpus):
  folder, _ = corpus
  before = load(folder).population
  data = bytearray((folder / 'c.bin').read_bytes())
  data[-2] ^= 1
  (folder / 'c.bin').write_bytes(data)
  after = load(folder).population
  assert after['hash'] != before['hash']
  assert [k for k in 'abc' if after['files'][f'{k}.bin']
          != before['files'][f'{k}.bin']] == ['c']


def test_training_rows_are_windows_of_documents(corpus):
  folder, texts = corpus
  source = load(folder, length=4, num_train=7)
  keys = np.arange(200, dtype=np.uint64)
  batch = source.read(source.draw(keys))
  streams = [[EOT, *text, EOT] for text in texts]
  seen = set()
  for r in range(200):
    scored = batch['loss_mask'][r]
    row = batch['tokens'][r][scored].tolist()
    row.append(int(batch['targets'][r][scored][-1]))
    places = [
        k for k, stream in enumerate(streams)
        for i in range(len(stream) - len(row) + 1)
        if stream[i : i + len(row)] == row
    ]
    assert places
    seen.update(places)
  assert len(seen) >= 7


@pytest.mark.parametrize('change, message', [
    (dict(num_train=8), 'num_train must be below the 8 documents of'),
    (dict(vocab_size=9, eot_id=8), 'must hold tokens below vocab_size = 9'),
    (dict(eot_id=10), 'eot_id must be'),
    (dict(stride=17), 'stride must be'),
    (dict(files=()), 'files must name'),
    (dict(files=('no.bin',)), "'no.bin' matches no file"),
])
def test_bad_options(corpus, change, message):
  folder, _ = corpus
  options = dict(
      files=(f'{folder}/*.bin',), eot_id=EOT, vocab_size=10, num_train=5,
      length=16,
  )
  with pytest.raises(ValueError, match=message):
    shard_documents.load_documents(
        shard_documents.ShardDocumentsConfig(**options | change)
    )
