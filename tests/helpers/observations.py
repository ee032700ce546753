"""What is the same before and after a change: hashes of what is computed.

Only configs as trees of JSON, programs and the imports below are used, so that
the same lines look at any version. What version 0.1 gave lies in
tests/compatibility/v0_1.
"""

import atexit
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import runpy
import shutil
import tarfile
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from iblm_jax import config, models, sublora
from iblm_jax.data import make_source, split_names

FOLDER = pathlib.Path(__file__).parents[1] / 'compatibility/v0_1'

_STACK = dict(
    vocab_size=11, num_layers=2, width=8, num_heads=2, mlp_width=12,
    norm='rms', positions='rotary', activation='swiglu', document_mask=False,
    entropy=dict(patch_size=2),
)
_MIXER = dict(
    _STACK, norm='layer', norm_epsilon=1e-5, positions='none', num_heads=1,
    activation='gelu', biases=True, mixer=dict(length=13, num_heads=2),
)
_SHORT = dict(_STACK, num_layers=1, scan_layers=False)
_ENCODER = dict(_SHORT, tie_embeddings=True)


def _memory(kind, **rest):
  return dict(
      family='memory', encoder=_ENCODER, decoder=_SHORT, num_chunks=3,
      chunk_length=4, kind=kind, **rest,
  )


MODELS = {
    'gpt2': dict(
        _STACK, norm='layer', norm_epsilon=1e-5, positions='learned',
        activation='gelu', tie_embeddings=True, biases=True, max_length=16,
    ),
    'modded': dict(
        _STACK, norm_scale=False, embedding_norm=True, activation='relu2',
        qk_norm=True, logit_softcap=30.0, value_residual=True,
        embedding_residual=True, unet_skips=True, dtype='bfloat16', window=5,
        document_mask=True,
    ),
    'llama': dict(
        _STACK, scan_layers=False,
        entropy=dict(patch_size=3, alpha=1.0, center=True),
    ),
    'mixer': _MIXER,
    'autoencoder': dict(
        family='autoencoder', encoder=_ENCODER, decoder=_SHORT, length=12
    ),
    'autoencoder_repeat': dict(
        family='autoencoder', encoder=_ENCODER, length=12, compression=2,
        decoder=dict(_SHORT, positions='learned', max_length=12),
        injection='repeat',
    ),
    'memory_recent': _memory('parallel', layout='recent'),
    'memory_fixed': _memory('parallel', layout='fixed', empty='learned'),
    'memory_none': _memory('none'),
    'memory_recurrent': _memory('recurrent'),
    'memory_oracle': _memory('oracle_token'),
}
LENGTH = 12

_FILES = {
    'text': 'text.txt', 'words': 'words.txt', 'pages': 'pages.jsonl',
}
# Options of every kind of data, small enough for eight batches.
DATA = {
    'multiplication': {},
    'markov': dict(vocab_size=9, num_topics=3, length=10, num_heldout=40),
    'needle': dict(
        vocab_size=16, num_chunks=3, chunk_length=6, pairs=1, num_heldout=40
    ),
    'text': dict(documents='paragraph', holdout=0.3, seq_len=8),
    'shards': dict(seq_len=8, eot_id=256, vocab_size=259),
    'topics': dict(num_train=50, num_heldout=40, length=12),
    'words': dict(num_train=30, length=8),
    'pages': dict(num_train=9, length=24, stride=5),
    'shard_documents': dict(
        eot_id=256, vocab_size=259, num_train=3, length=16, stride=7
    ),
}

PROJECTORS = {
    'kron': dict(dims=(4, 6)),
    'kron_sign': dict(kind='kron', dims=(4, 6), entries='sign'),
    'kron_direct': dict(kind='kron', dims=(2, 3), direct=('bias',)),
    'rdkronqr': dict(dims=9),
    'fastfood': dict(dims=10),
    'sparse': dict(dims=10),
    'sparse_drawn': dict(kind='sparse', dims=10, taps=2, hold=False),
    'dense': dict(dims=7),
}


# Relative or absolute, of numbers on another kind of machine; of what tiny runs
# have learned, in which rounding grows.
_CLOSE, _LEARNED = 1e-3, 0.05
# What the clock says.
_TIMES = ('seconds', 'time_ratio')


@functools.cache
def made() -> pathlib.Path:
  """Folder of what version 0.1 made."""
  folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, folder)
  with tarfile.open(FOLDER / 'made.tar.xz') as archive:
    archive.extractall(folder, filter='data')
  return pathlib.Path(folder)


@functools.cache
def expected() -> dict:
  """What was observed of version 0.1."""
  return json.loads((made() / 'expected.json').read_text())


@functools.cache
def is_same_machine() -> bool:
  """Whether floats must be those of version 0.1 to the last bit."""
  return expected()['machine'] == machine()


def check_same(actual, wanted, path='', close=_CLOSE):
  """Asserts that two trees agree, to the last bit on the same machine."""
  exact = is_same_machine()
  if isinstance(wanted, dict):
    assert isinstance(actual, dict) and actual.keys() == wanted.keys(), path
    for key in wanted:
      if exact or key != 'sha256':
        check_same(actual[key], wanted[key], f'{path}.{key}', close)
  elif isinstance(wanted, list):
    assert len(actual) == len(wanted), path
    for index, pair in enumerate(zip(actual, wanted, strict=True)):
      check_same(*pair, f'{path}.{index}', close)
  elif isinstance(wanted, float) and not exact:
    assert actual == pytest.approx(wanted, rel=close, abs=close), path
  else:
    assert actual == wanted, path


def check_results(name, tree):
  """Asserts that an experiment's results are those of version 0.1.

  Args:
    name: of the experiment; its program was started as tests do.
    tree: of its results.json.
  """
  wanted = json.loads((made() / f'results/{name}.json').read_text())
  for part in ('experiment', 'claim', 'tables'):
    assert tree[part] == wanted[part], part
  for part in ('rows', 'summary', 'paired'):
    check_same(
        _timeless(tree[part]), _timeless(wanted[part]), part, _LEARNED
    )


def _timeless(tree):
  if isinstance(tree, dict):
    return {
        key: _timeless(value)
        for key, value in tree.items()
        if not any(word in key for word in _TIMES)
    }
  return [_timeless(one) for one in tree] if isinstance(tree, list) else tree


def machine() -> dict[str, str]:
  """What the last bit of a float depends on."""
  x_64x64 = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)

  @jax.jit
  def reference(x):
    y = jnp.tanh(x @ x.T / 8)
    return jax.nn.softmax(y @ y), jnp.exp(y).sum(), jax.lax.rsqrt(1 + y * y)

  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  kind = [line for line in lines if line.startswith(('model name', 'flags'))]
  return {
      'cpu': hashlib.sha256('\n'.join(kind[:2]).encode()).hexdigest(),
      'architecture': platform.machine(),
      'jax': jax.__version__,
      'cores': os.cpu_count(),
      'numpy': np.__version__,
      'reference': digest(reference(x_64x64))['sha256'],
  }


def digest(tree) -> dict:
  """Hash of all paths, types, shapes and bits; sums to six digits."""
  found, sample = hashlib.sha256(), []
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    x = np.asarray(leaf)
    name = jax.tree_util.keystr(path)
    found.update(f'{name} {x.dtype} {x.shape}'.encode())
    found.update(np.ascontiguousarray(x).tobytes())
    total = np.abs(x.astype(np.float64)).sum()
    sample.append([name, float(f'{total:.6g}')])
  return {'sha256': found.hexdigest(), 'sample': sample}


def options(**groups):
  """Options of a run, of which only these groups matter."""
  tree = dict(
      model=MODELS['llama'], data={}, optimizer={},
      objective=dict(skip_first=0, skip_last=0),
  )
  tree['optimizer'] = dict(schedule={})
  tree.update(groups)
  if tree['model'].get('family') == 'autoencoder':
    tree['task'] = dict(kind='regeneration')
  return config.from_dict(tree)


def configs(folder) -> dict[str, dict]:
  """Options of every variant of every config file, as config.json has them."""
  found = {}
  for path in sorted(pathlib.Path(folder).glob('*.py')):
    module = runpy.run_path(str(path))
    if path.stem == 'curriculum' or 'get_config' not in module:
      continue  # a list of runs
    try:
      module['get_config']('no variant')
    except ValueError as error:
      names = {*re.findall(r"'(\w+)'", str(error)), 'smoke'}
    for name in sorted(names):
      tree = module['get_config'](name).to_dict()
      tree.pop('certificate', None)
      kind = tree['data'].get('kind')
      if kind in ('text', 'shards'):  # the user says which
        key = 'paths' if kind == 'text' else 'train'
        tree['data'][kind][key] = 'a.txt' if kind == 'text' else 'a.bin'
      cfg = config.from_dict(tree)
      found[f'{path.stem}:{name}'] = config.to_dict(cfg)
  return found


def model(name) -> dict:
  """Fresh parameters at a fixed key, and what they make of fixed tokens."""
  cfg = options(model=MODELS[name]).model
  tokens_BxL = np.random.default_rng(1).integers(
      11, size=(2, LENGTH), dtype=np.int32
  )

  @jax.jit
  def run(key, tokens_BxL):
    params = models.init(key, cfg)
    outputs = models.apply(params, tokens_BxL, cfg, collect='entropy')
    return params, (outputs.logits_BxLxV, outputs.entropy)

  params, outputs = run(jax.random.key(7), tokens_BxL)
  outputs = jax.tree.map(lambda x: x.astype(jnp.float32), outputs)
  return {'init': digest(params), 'outputs': digest(outputs)}


def data_config(kind, shards):
  """Options of a kind of data; `shards` is a folder of token shards."""
  fields = dict(DATA[kind])
  if kind == 'text':
    fields['paths'] = str(FOLDER / 'text.txt')
  elif kind in _FILES:
    fields['path'] = str(FOLDER / _FILES[kind])
  elif kind == 'shards':
    fields['train'] = f'{shards}/train*.bin'
    fields['validation'] = f'{shards}/validation*.bin'
  elif kind == 'shard_documents':
    fields['files'] = (f'{shards}/train*.bin',)
  tree = dict(kind=kind, batch_size=3, seed=5, eval_units=6)
  return options(data={**tree, kind: fields}).data


def streams(kind, shards) -> dict[str, str]:
  """Hashes of batches 0 and 7 of every split, or of the last one before."""
  cfg, found = data_config(kind, shards), {}
  for split in split_names(cfg):
    source = make_source(cfg, split)
    count = source.num_eval_batches
    for k in sorted({0, 7 if count is None else min(7, count - 1)}):
      found[f'{split}/{k}'] = digest(source.batch(k))['sha256']
  return found


def projected(name) -> dict:
  """P w of a fixed w and a fixed key."""
  given = dict(PROJECTORS[name])
  kind = given.pop('kind', name)
  tree = {
      'blocks': {
          'up': {'kernel': np.zeros((2, 8, 12)), 'bias': np.zeros((2, 12))},
          'down': {'kernel': np.zeros((2, 12, 8))},
      },
      'head': {'kernel': np.zeros((8, 11)), 'bias': np.zeros(11)},
  }
  tree = jax.tree.map(lambda x: x.astype(np.float32), tree)
  projector = sublora.make_projector(
      kind, tree, given.pop('dims'), jax.random.key(3), **given
  )
  w_d = np.random.default_rng(2).normal(size=projector.size)
  return digest(jax.jit(projector.apply)(w_d.astype(np.float32)))


def state(workdir, step) -> dict:
  """All that a checkpoint holds, as orbax alone reads it."""
  handler = ocp.StandardCheckpointHandler()
  with ocp.Checkpointer(handler) as checkpointer:
    return digest(checkpointer.restore(f'{workdir}/checkpoints/{step}/state'))


def metrics(workdir) -> list[dict]:
  """Lines of metrics.jsonl without those that depend on the clock."""
  lines = pathlib.Path(workdir, 'metrics.jsonl').read_text().splitlines()
  return [
      {k: v for k, v in json.loads(line).items() if not k.startswith('perf/')}
      for line in lines
  ]


def summary(workdir) -> dict:
  """What summary.json says about the run itself."""
  tree = json.loads(pathlib.Path(workdir, 'summary.json').read_text())
  names = (
      'method', 'steps', 'parameters', 'eval', 'seed', 'data_seed', 'phases',
      'frozen',
  )
  return {name: tree[name] for name in names if name in tree}


def files(folder) -> dict[str, str]:
  """Hashes of the files below a folder."""
  return {
      str(path.relative_to(folder)): hashlib.sha256(
          path.read_bytes()
      ).hexdigest()
      for path in sorted(pathlib.Path(folder).rglob('*'))
      if path.is_file()
  }
