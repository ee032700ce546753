"""Readers of files that were harmed answer rightly, or refuse them.

A few hundred cases, the same every time, under pytest. For longer:

  PYTHONPATH=tests/helpers python tests/fuzz_test.py SECONDS
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gpt2_files
import hypothesis
import mutations
import numpy as np
import published_models
import pytest
import tiny_families
from etils import epath
from hypothesis import strategies as st

from iblm_jax import config, files
from iblm_jax.certification import certificate, comparison
from iblm_jax.data.shards import files as shard_files
from iblm_jax.data.shards import source as shard_source
from iblm_jax.data.text import tokenizers
from iblm_jax.models.pretrained import gpt2_weights
from iblm_jax.models.pretrained import settings as pretrained_settings
from iblm_jax.training import manifest, metrics

EXAMPLES = 60
SECONDS_EACH, BYTES_IN_ALL, LETTERS = 5.0, 1 << 30, 20_000
CERTIFICATE = pathlib.Path(__file__).parent / 'certification/made_by_0_1'


@dataclasses.dataclass(frozen=True)
class Reader:
  """A file that is harmed, and who reads it.

  Attributes:
    make: Fills a folder.
    name: Of the file in it that is harmed.
    read: Takes the folder; raises nothing but `errors`.
    harm: Takes the file's bytes; gives a strategy of harmed ones.
    check: Takes what `read` gave of the file as it was, then of the harmed.
    errors: What `read` may raise.
  """

  make: Callable[[pathlib.Path], None]
  name: str
  read: Callable[[pathlib.Path], Any]
  harm: Callable[[bytes], st.SearchStrategy[bytes]] = mutations.harmed_json
  check: Callable[[Any, Any], bool] = lambda right, found: True
  errors: tuple[type[Exception], ...] = (ValueError,)


def make_checkpoint(folder):
  folder = folder / '7'
  (folder / 'state').mkdir(parents=True)
  (folder / 'state/array').write_bytes(b'numbers')
  (folder / 'data').write_text('{"next_index": 7}')
  manifest.write(epath.Path(folder), 7, 'f' * 64, '')


def read_checkpoint(folder):
  """(What is said of it, what it is said to hold)."""
  said = manifest.find_damage(epath.Path(folder / '7'))
  assert said is None or isinstance(said, str) and '\n' not in said
  path = folder / '7' / manifest.NAME
  return said, said or json.loads(path.read_text()).items()


def make_metrics(folder):
  writer = metrics.JsonLines(folder / 'metrics.jsonl', keep_up_to=-1)
  for step in range(5):
    writer.write(step, {'train/loss': 1 / (step + 1), 'gapt/phase': 1})
  writer.close()


def make_config(name, folder):
  tree = config.to_dict(config.from_dict(tiny_families.small(name)))
  (folder / 'config.json').write_text(json.dumps(tree))


def make_certificate(folder):
  shutil.copytree(CERTIFICATE, folder, dirs_exist_ok=True)


def make_shards(folder):
  tokens = np.arange(300, dtype=np.uint16) % 250
  (folder / 'a.bin').write_bytes(shard_files.header(300) + tokens.tobytes())
  shard_files.write_array_record(str(folder / 'a.array_record'), tokens)
  listed = [{'name': 'a.bin', 'tokens': 300, 'documents': 2}]
  tree = {'tokenizer': 'bytes', 'eot_id': 0, 'shards': listed}
  (folder / 'index.json').write_text(json.dumps(tree))


def read_shard(name, folder):
  shard = shard_files.open_shard(str(folder / name))
  return shard.read(0, shard.num_tokens).tolist()


def read_index(folder):
  cfg = shard_source.ShardsConfig(
      train=str(folder / 'a.bin'), vocab_size=259, eot_id=0
  )
  shard_source.check_index(cfg)
  return shard_source.make_tokenizer(cfg).vocab_size


def make_gpt2(folder):
  shutil.copytree(gpt2_files.write(folder / 'made'), folder, dirs_exist_ok=True)
  shutil.rmtree(folder / 'made')


def make_gemma(folder):
  settings = published_models.SETTINGS['gemma3_text'] | {
      'layer_types': ['sliding_attention', 'full_attention'],
      'rope_parameters': {
          'sliding_attention': {'rope_type': 'default', 'rope_theta': 20.0},
          'full_attention': {'rope_type': 'linear', 'factor': 2.0},
      },
  }
  (folder / 'config.json').write_text(json.dumps(settings))


def read_gemma(folder):
  given = files.read_object(folder / 'config.json')
  return pretrained_settings.to_config(given)


def harmed_header(data):
  """Of safetensors: its length, its JSON, or any byte."""
  size = struct.unpack('<Q', data[:8])[0]
  header, rest = data[8 : 8 + size], data[8 + size :]
  return st.one_of(
      mutations.harmed_bytes(data[:400]).map(lambda start: start + data[400:]),
      mutations.harmed_json(header).map(
          lambda text: struct.pack('<Q', len(text)) + text + rest
      ),
  )


def make_tokenizer(folder):
  package = pytest.importorskip('tokenizers')
  vocab = {c: i for i, c in enumerate(['<s>', '</s>', '<unk>', *'abc '])}
  made = package.Tokenizer(
      package.models.BPE(vocab, [], unk_token='<unk>')
  )
  made.add_special_tokens(['<s>', '</s>', '<unk>'])
  made.save(str(folder / 'tokenizer.json'))


def read_tokenizer(folder):
  loaded = tokenizers.load_tokenizer(str(folder / 'tokenizer.json'))
  ids = loaded.encode('abc cab')
  assert ids.size == 0 or 0 <= ids.min() <= ids.max() < loaded.vocab_size
  return loaded.decode(ids)


READERS = {
    'manifest': Reader(
        make_checkpoint, f'7/{manifest.NAME}', read_checkpoint,
        # What it names has not changed, whatever else it leaves out.
        check=lambda right, found: found[0] is not None
        or found[1] <= right[1],
    ),
    'array': Reader(
        make_checkpoint, '7/state/array', read_checkpoint,
        harm=mutations.harmed_bytes,
        check=lambda right, found: found[0] is not None,
    ),
    'metrics': Reader(
        make_metrics, 'metrics.jsonl',
        lambda folder: metrics.read_metrics(folder / 'metrics.jsonl'),
        harm=mutations.harmed_lines,
        check=lambda right, found: all(
            isinstance(row['step'], int) for row in found
        ),
    ),
    **{
        f'config of {name}': Reader(
            functools.partial(make_config, name), 'config.json',
            config.read_run, check=lambda right, found: hash(found) or True,
        )
        for name in ('autoencoder', 'memory')
    },
    'certificate': Reader(
        make_certificate, 'certificate.json', comparison.open_checked,
        errors=(ValueError, comparison.Mismatch),
        check=lambda right, found: found.tree['model'] == right.tree['model'],
    ),
    'code': Reader(
        make_certificate, 'code.bin', comparison.open_checked,
        harm=mutations.harmed_bytes,
        errors=(ValueError, comparison.Mismatch),
        check=lambda right, found: False,
    ),
    # Whoever made the file has made its hash.
    'losses': Reader(
        make_certificate, 'losses.npz',
        lambda folder: certificate.unpack_losses(
            (folder / 'losses.npz').read_bytes()
        ),
        harm=mutations.harmed_bytes,
    ),
    'index': Reader(
        make_shards, 'index.json', read_index,
        check=lambda right, found: found == right,
    ),
    'bin': Reader(
        make_shards, 'a.bin', functools.partial(read_shard, 'a.bin'),
        harm=mutations.harmed_bytes,
        check=lambda right, found: len(found) < 1000,
    ),
    'array_record': Reader(
        make_shards, 'a.array_record',
        functools.partial(read_shard, 'a.array_record'),
        harm=mutations.harmed_bytes,
        check=lambda right, found: found == right,
    ),
    'safetensors': Reader(
        make_gpt2, 'model.safetensors', gpt2_weights.load_gpt2,
        harm=harmed_header,
    ),
    'gpt2_config': Reader(make_gpt2, 'config.json', gpt2_weights.load_gpt2),
    'published_config': Reader(make_gemma, 'config.json', read_gemma),
    'tokenizer': Reader(make_tokenizer, 'tokenizer.json', read_tokenizer),
}


def contents(folder):
  return {
      path.relative_to(folder): path.read_bytes()
      for path in folder.rglob('*') if path.is_file()
  }


def fuzz(reader: Reader, folder: pathlib.Path, **settings) -> int:
  """Harms and reads; how often, unless something is not as it should be."""
  reader.make(folder)
  path = folder / reader.name
  data, right = path.read_bytes(), reader.read(folder)
  before = contents(folder)
  del before[pathlib.Path(reader.name)]
  peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  most, count = peak() + BYTES_IN_ALL, 0

  @hypothesis.settings(
      deadline=None,
      database=None,
      suppress_health_check=list(hypothesis.HealthCheck),
      **settings,
  )
  @hypothesis.given(reader.harm(data))
  def check(harmed):
    nonlocal count
    if harmed == data:
      return
    count += 1
    path.write_bytes(harmed)
    began = time.monotonic()
    try:
      found = reader.read(folder)
    except reader.errors as error:
      # Programs make one line of it.
      assert 0 < len(str(error).strip()) < LETTERS
    else:
      assert reader.check(right, found), found
    assert time.monotonic() - began < SECONDS_EACH
    assert peak() < most
    left = contents(folder)
    assert left.pop(pathlib.Path(reader.name)) == harmed
    assert left == before

  check()
  return count


@pytest.mark.parametrize('name', READERS)
def test_harmed_files_are_read_rightly_or_refused(name, tmp_path):
  fuzz(READERS[name], tmp_path, max_examples=EXAMPLES, derandomize=True)


def main(seconds: float) -> None:
  """Fuzzes every reader in turn until the time is over."""
  until, count, names = time.monotonic() + seconds, 0, itertools.cycle(READERS)
  while time.monotonic() < until:
    reader = READERS[next(names)]
    with tempfile.TemporaryDirectory() as folder:
      count += fuzz(reader, pathlib.Path(folder), max_examples=200)
  print(f'{count} harmed files of {len(READERS)} readers')


if __name__ == '__main__':
  main(float(sys.argv[1]))
