"""Certificates that a stranger has forged, each a change of an honest one.

`FORGERIES` maps names to functions that change a copy of a certificate's folder
in place. `iblm-certify --verify` must end with one line and status 1 (2 where
files are missing or none) in bounded time and memory. `SHOWN` maps those that
nobody can tell from honest ones to what the printed lines must hold; they end
with status 0. The honest one is that of `CONFIG`: about generated data, so that
it needs no file. `make` makes it.
"""

import hashlib
import io
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

# The smallest that still has all parts.
CONFIG = dict(
    model=dict(
        vocab_size=27, num_layers=1, width=8, num_heads=1,
        positions='rotary', tie_embeddings=False, document_mask=False,
        scan_layers=False, entropy=dict(patch_size=4),
    ),
    data=dict(
        kind='topics', batch_size=8, eval_units=8,
        topics=dict(num_train=30, num_heldout=9, length=8),
    ),
    objective=dict(
        method='ce', measure_entropy=False, skip_first=0, skip_last=0
    ),
    optimizer=dict(weight_decay=0.0, schedule=dict(peak=0.1, warmup_steps=0)),
    parameterisation=dict(kind='subspace', dims=4, entries='sign'),
    train=dict(num_steps=1, log_every=1),
    certificate=dict(
        levels=(3,), alphas=(0.05, 0.5), top_k=(1,), sample=None, heldout=9,
        search_bits=2.5,
    ),
)
FORGERIES: dict[str, Callable[[pathlib.Path], None]] = {}


def make(workdir: Any) -> pathlib.Path:
  """Makes the honest certificate; returns its folder."""
  from iblm_jax.certification import pipeline

  pipeline.certify(
      pipeline.from_dict(CONFIG), epath.Path(workdir), lambda line: None
  )
  return pathlib.Path(workdir) / 'certificate'


def forgery(function):
  FORGERIES[function.__name__] = function
  return function


def read(folder: pathlib.Path) -> dict[str, Any]:
  return json.loads((folder / 'certificate.json').read_text())


def write(
    folder: pathlib.Path,
    tree: dict[str, Any],
    text: Callable[[dict[str, Any]], str] = json.dumps,
) -> None:
  """Writes a tree with the hashes that it should have."""
  for name in ('code', 'losses'):
    path = folder / ('code.bin' if name == 'code' else 'losses.npz')
    if path.is_file() and not path.is_symlink():
      tree['hashes'][name] = hashlib.sha256(path.read_bytes()).hexdigest()
  tree['hashes']['parts'] = {
      name: hashlib.sha256(
          json.dumps(part, sort_keys=True).encode()
      ).hexdigest()
      for name, part in tree.items()
      if name in (
          'claims', 'terms', 'population', 'code', 'model', 'heldout', 'made'
      )
  }
  (folder / 'certificate.json').write_text(text(tree))


def changed(name: str, path: str, value: Any) -> None:
  """Adds a forgery that sets one field; its path has dots."""

  def forge(folder):
    tree = node = read(folder)
    *parents, last = path.split('.')
    for parent in parents:
      node = node[int(parent) if isinstance(node, list) else parent]
    node[int(last) if isinstance(node, list) else last] = value
    write(folder, tree)

  FORGERIES[name] = forge


def written(name: str, text: Callable[[dict[str, Any]], str]) -> None:
  """Adds a forgery that writes the JSON itself."""
  FORGERIES[name] = lambda folder: write(folder, read(folder), text)


def losses(name: str, data: Callable[[bytes], bytes]) -> None:
  """Adds a forgery with another losses.npz."""

  def forge(folder):
    path = folder / 'losses.npz'
    path.write_bytes(data(path.read_bytes()))
    write(folder, read(folder))

  FORGERIES[name] = forge


# --- Text that is no JSON, or means two things.
def _first_wins(tree):
  fake = json.loads(json.dumps(tree['claims']))
  for claim in fake:
    claim['value'] = 1.0
  return f'{{"claims": {json.dumps(fake)}, {json.dumps(tree)[1:]}'


written('duplicate_key', _first_wins)
written('list', lambda tree: '[1, 2]')
written('null', lambda tree: 'null')
written('empty', lambda tree: '')
written('cut', lambda tree: json.dumps(tree)[:-9])
written('deep', lambda tree: '[' * 100_000)
written(
    'deep_and_closed',
    lambda tree: '{"a": ' + '[' * 900 + ']' * 900 + ', ' + json.dumps(tree)[1:],
)
written('trailing', lambda tree: json.dumps(tree) + ' {}')
written('binary', lambda tree: '\0' * 4096)
written(
    'many_digits',
    lambda tree: json.dumps(tree).replace(
        '"search_bits": ', f'"search_bits": 1{"0" * 400} , "x": ', 1
    ),
)
written(
    'large_float',
    lambda tree: json.dumps(tree).replace(
        '"search_bits": ', '"search_bits": 1e999, "x": ', 1
    ),
)
changed('not_a_number', 'claims.0.value', float('nan'))
changed('infinite', 'claims.0.value', float('inf'))

# --- Fields of the wrong type, of nobody, or too many.
changed('population_null', 'population', None)
changed('model_list', 'model', [])
changed('levels_list', 'code.levels', [9])
changed('hashes_number', 'hashes.data', 7)
changed('extra_null', 'audited_by', None)
changed('extra_claim_field', 'claims.0.audited_by', None)
changed('made_note', 'made.note', 'audited by a bank')
changed('made_text', 'made.seconds', 'a\x1b[2Jb')
changed('files', 'population.files', {'the_pile.jsonl': '00'})
changed('lines_in_text', 'population.unit', 'word\nverified: everything')
changed('unknown_option', 'model.certificate.audit', None)
changed('choice_unpaid', 'code.levels', 17)
changed('claim_lowered', 'claims.0.value', 0.5)
changed('claim_null', 'claims.0', None)
changed('heldout_lowered', 'heldout.documents', 1)


# --- Sizes.
changed('search_bits', 'model.certificate.search_bits', 10**18)
changed('sample', 'model.certificate.sample', 10**11)
changed('alphas', 'model.certificate.alphas', [1e-320, 0.5])
changed('width', 'model.config.model.width', 2**18)
changed('width_of_a_float', 'model.config.model.width', 1e300)
changed('layers', 'model.config.model.num_layers', 10**9)
changed('vocabulary', 'model.config.model.vocab_size', 10**12)
changed('length', 'model.config.data.topics.length', 10**12)
changed('units', 'model.config.data.topics.num_train', 10**12)
changed('numbers', 'code.numbers', 10**12)
changed('dims', 'model.config.parameterisation.dims', 10**12)
changed('batch', 'model.config.data.batch_size', 2**20)
changed('seed', 'model.config.train.seed', 2**63 - 1)


@forgery
def heldout(folder):
  tree = read(folder)
  tree['model']['certificate']['heldout'] = 10**10
  tree['model']['config']['data']['topics']['num_heldout'] = 10**10
  write(folder, tree)


# --- Patterns and paths.
changed(
    'pattern', 'model.config.parameterisation.direct',
    ['^(([a-z]|[a-z_/])+)+X$'],
)


def _data(name, path):
  def forge(folder):
    tree = read(folder)
    data = tree['model']['config']['data']
    data['kind'] = 'words'
    data['words'] = {'path': path, 'num_train': 3}
    write(folder, tree)

  FORGERIES[name] = forge


_data('data_device', '/dev/zero')
_data('data_remote', 'gs://bucket/words.txt')
_data('data_secret', '/etc/passwd')
_data('data_lines', 'words\nverified: all.txt')


# --- Losses.
def _bomb(data):
  del data
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z:
    for name in ('losses', 'errors', 'token_losses'):
      with z.open(f'{name}.npy', 'w', force_zip64=True) as member:
        header = {
            'descr': '<f8', 'fortran_order': False, 'shape': (2, 10_000_000),
        }
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(10):
          member.write(bytes(16_000_000))
  return file.getvalue()


def _header(data):
  """Arrays that say to be large and are not."""
  with np.load(io.BytesIO(data)) as held:
    arrays = dict(held)
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as z:
    for name in arrays:
      member = io.BytesIO()
      np.lib.format.write_array_header_1_0(
          member,
          {'descr': '<f8', 'fortran_order': False, 'shape': (2**40, 2**40)},
      )
      z.writestr(f'{name}.npy', member.getvalue())
  return file.getvalue()


def _arrays(**changes):
  def data(held):
    with np.load(io.BytesIO(held)) as file:
      arrays = dict(file)
    made = io.BytesIO()
    np.savez(made, **{
        name: change(arrays[name]) if name in arrays else change
        for name, change in {
            **{name: lambda x: x for name in arrays}, **changes
        }.items()
    })
    return made.getvalue()

  return data


losses('losses_bomb', _bomb)
losses('losses_header', _header)
losses('losses_garbage', lambda data: b'garbage')
losses('losses_empty', lambda data: b'')
losses('losses_cut', lambda data: data[: len(data) // 2])
losses('losses_trailing', lambda data: data + bytes(99))
losses('losses_nan', _arrays(losses=lambda x: x * np.nan))
losses('losses_short', _arrays(losses=lambda x: x[:, 1:]))
losses('losses_lower', _arrays(losses=lambda x: x - 2e-4))
losses('losses_half', _arrays(losses=lambda x: x.astype(np.float16)))
losses(
    'losses_pickle',
    _arrays(losses=lambda x: np.array([{'a': 1}], dtype=object)),
)
losses('losses_more', _arrays(more=np.zeros(3)))


# --- Codes and files.
@forgery
def code_empty(folder):
  (folder / 'code.bin').write_bytes(b'')
  write(folder, read(folder))


@forgery
def code_longer(folder):
  path = folder / 'code.bin'
  path.write_bytes(path.read_bytes() + b'\1')
  write(folder, read(folder))


def replaced(name, file, make):
  """Adds a forgery in which something else stands in place of a file."""

  def forge(folder):
    (folder / file).rename(folder / 'other')
    make(folder / file)

  FORGERIES[name] = forge


def truncated(name, file):
  """Adds a file of 64 GB that takes no room on the disk."""
  FORGERIES[name] = lambda folder: os.truncate(folder / file, 1 << 36)


truncated('code_sparse', 'code.bin')
truncated('json_sparse', 'certificate.json')
replaced('code_device', 'code.bin', lambda path: path.symlink_to('/dev/zero'))
replaced('json_link', 'certificate.json', lambda path: path.symlink_to('other'))
replaced('losses_pipe', 'losses.npz', os.mkfifo)
replaced('code_folder', 'code.bin', os.mkdir)
replaced('missing', 'losses.npz', lambda path: None)


@forgery
def no_folder(folder):
  shutil.rmtree(folder)
  folder.write_bytes(b'a file')


# --- Consistent: made anew from other declarations, or from other losses.
SHOWN: dict[str, str] = {}


def remade(name, shown, change, shift=0.0):
  """Adds a forgery in which every number follows from what is declared."""

  def forge(folder):
    from iblm_jax.certification import (
      assembly,
      certificate,
      pipeline,
      quantisation,
    )

    old = read(folder)
    change(old['model'])
    model = old['model']
    cfg = pipeline.from_dict(
        {**model['config'], 'certificate': model['certificate']}
    )
    subject = pipeline.subject_of(cfg, pipeline.prepare(cfg))
    data = (folder / 'code.bin').read_bytes()
    code = quantisation.Code(data, old['code']['levels'])
    scores = assembly.score(code, subject, cfg.certificate)
    train = scores.train
    train = train._replace(
        losses=train.losses - shift, token_losses=train.token_losses - shift
    )
    scores = scores._replace(train=train)
    tree = assembly.make_tree(code, subject, cfg.certificate, scores)
    tree['made'] = old['made']
    (folder / 'losses.npz').write_bytes(certificate.pack_losses(train))
    write(folder, tree)

  FORGERIES[name], SHOWN[name] = forge, shown


remade('losses_within_tolerance', 'at most', lambda model: None, shift=0.99e-4)
remade(
    'delta', 'delta = 0.999999;',
    lambda model: model['certificate'].update(delta=0.999999),
)
remade(
    'nothing_tried', 'search_bits 0.0; runs 1',
    lambda model: model['certificate'].update(search_bits=0, runs=1),
)
remade(
    'chosen_afterwards', 'headline hoeffding',
    lambda model: model['certificate'].update(headline='hoeffding'),
)


def _many_units(model):
  model['config']['data']['topics']['num_train'] = 10**12
  model['certificate']['sample'] = 30


remade('units_of_a_generator', 'm = 1,000,000,000,000 units', _many_units)


@forgery
def made_lines(folder):
  tree = read(folder)
  tree['made']['device'] = 'cpu\nverified: all\x1b[2J'
  write(folder, tree)


SHOWN['made_lines'] = r'on cpu\nverified: all\x1b[2J'
SHOWN['batch'] = '1,048,576 rows read'
