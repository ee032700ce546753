"""Certificates that strangers have forged end in one line, or are shown."""

import pathlib
import shutil

import hostile_certificates as hostile
import pytest
from etils import epath

from iblm_jax.certification import pipeline, verification

# The smallest that still has all parts, about generated data.
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


@pytest.fixture(scope='module')
def honest(tmp_path_factory):
  """Folder of a certificate."""
  workdir = epath.Path(tmp_path_factory.mktemp('honest'))
  pipeline.certify(pipeline.from_dict(CONFIG), workdir, lambda line: None)
  return pathlib.Path(workdir / 'certificate')


def verify(folder):
  """Verifies; returns the lines that it said."""
  said = []
  verification.check_files(folder)
  verification.verify(folder, said.append)
  return said


@pytest.fixture
def forge(honest, tmp_path):
  """Makes a forgery, by its name."""

  def forge(name):
    shutil.copytree(honest, tmp_path / 'c')
    hostile.FORGERIES[name](tmp_path / 'c')
    return tmp_path / 'c'

  return forge


def test_the_honest_one_is_verified(honest):
  verify(honest)


# What each forgery is refused with; it is found before anything is computed.
READ = {
    'duplicate_key': "the key 'claims' stands twice",
    'list': 'holds no certificate',
    'null': 'holds no certificate',
    'empty': 'is damaged: Expecting value',
    'cut': 'is damaged',
    'deep': 'more than 32 groups in each other',
    'deep_and_closed': 'more than 32 groups in each other',
    'trailing': 'is damaged: Extra data',
    'binary': 'is damaged: Expecting value',
    'many_digits': r'1000000000.* must be an integer of 64 bits',
    'large_float': '1e999 is not finite',
    'not_a_number': 'NaN is no number',
    'infinite': 'Infinity is no number',
    'population_null': r'population is of type NoneType',
    'model_list': r'model is of type list',
    'levels_list': r'code\.levels is of type list',
    'hashes_number': r'hashes\.data is of type int',
    'made_note': r'made\.note is not a field',
    'made_text': r'made\.seconds is of type str',
    'losses_bomb': 'losses.npz is damaged: .*must not be compressed',
    'losses_header': r'losses must be float64 of 2 axes.*\(1099511627776, ',
    'losses_garbage': 'losses.npz is damaged: it is no npz file',
    'losses_empty': 'losses.npz is damaged: it is no npz file',
    'losses_cut': 'losses.npz is damaged: it is no npz file',
    'losses_trailing': 'losses.npz is damaged: it is no npz file',
    'losses_nan': 'losses must be finite',
    'losses_half': 'losses must be float64 .* got float16',
    'losses_pickle': 'losses must be float64',
    'losses_more': r"must hold \['errors.npy'.* got .*'more.npy'",
    'code_sparse': 'code.bin must have at most 536,870,912 bytes, got 68,7',
    'json_sparse': 'certificate.json must have at most 4,194,304 bytes',
    'code_device': 'code.bin must be a regular file, got a link',
    'json_link': 'certificate.json must be a regular file, got a link',
    'losses_pipe': 'losses.npz must be a regular file, got a pipe',
    'code_folder': 'code.bin must be a regular file, got a folder',
    'missing': 'must hold losses.npz; there is none',
    'no_folder': 'must hold certificate.json; there is none',
}


@pytest.mark.parametrize('name', READ)
def test_what_cannot_be_read(forge, name):
  with pytest.raises(
      (ValueError, verification.Mismatch), match=READ[name]
  ) as found:
    verify(forge(name))
  said = str(found.value)
  assert len(said) < 1000 and '\n' not in said and '\x1b' not in said
