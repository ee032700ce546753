"""Certificates that strangers have forged end in one line, or are shown."""

import json
import shutil

import hostile_certificates as hostile
import pytest
from etils import epath
from programs import run

from iblm_jax import errors
from iblm_jax.certification import (
    confinement,
    reading,
    statement,
    verification,
)
from iblm_jax.experiments import certified


@pytest.fixture(scope='module')
def honest(tmp_path_factory):
  """Folder of a certificate."""
  return hostile.make(tmp_path_factory.mktemp('honest'))


def verify(folder):
  """Verifies; returns what it found and the lines about it."""
  verification.check_files(folder)
  found = verification.verify(folder, lambda line: None)
  return found, statement.verified(found.tree)


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


# What each forgery is refused with.
REFUSED = {
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
    'extra_null': r'audited_by is None in .* None here, which has no such',
    'extra_claim_field': r'audited_by is None in .* which has no such field',
    'files': r'files\.the_pile\.jsonl is .* which has no such field',
    'lines_in_text': r"unit is 'word\\nverified: everything' in the cert",
    'unknown_option': 'certificate.audit is not a field',
    'choice_unpaid': r'levels must be one of \(3,\), whose choice is paid',
    'claim_lowered': r'claims\.0\.value is 0\.5 in',
    'claim_null': r'loss has no place in NoneType',
    'heldout_lowered': r'heldout\.documents is 1 in the certificate and 9',
    'search_bits': r'claims\.0\.value is',
    'sample': r'sample must be at most 22,369,621 for 3 .* got 100,000,000,000',
    'alphas': 'differs from the losses here by',
    'width': 'a model of 824,.* parameters takes more than 8 GB',
    'width_of_a_float': 'width must fit into 64 bits',
    'layers': 'a model of 784,.* parameters takes more than 8 GB to verify',
    'vocabulary': 'sizes that fit into 64 bits',
    'length': 'length must be between 1 and 4096, got 1000000000000',
    'units': 'sample must be at most 22,369,621',
    'numbers': r'code\.numbers is 1000000000000 in the certificate and 4',
    'dims': 'must be at most 1,.* for 7 bytes of code, got 1,000,000,000,000',
    'seed': 'losses.npz differs from the losses here',
    'heldout': r'hashes\.data is',
    'data_device': "path must end in .* got '/dev/zero'",
    'data_remote': "data lie at 'gs://bucket/words.txt', says .* not followed",
    'data_secret': "path must end in .* got '/etc/passwd'",
    'data_lines': r"data lie at 'words\\nverified: all.txt'",
    'losses_short': r'losses of shape \(2, 29\), \(2, 30\) here',
    'losses_lower': 'differs from the losses here by 0.0002',
    'code_empty': 'code must have at least 6 bytes, got 0',
    'code_longer': 'code is damaged',
}


def test_each_forgery_is_judged():
  judged = [*REFUSED, *hostile.SHOWN, 'pattern']
  assert sorted(judged) == sorted(hostile.FORGERIES) and len(judged) > 60


@pytest.mark.parametrize('name', REFUSED)
def test_a_forgery_is_refused_in_one_line(forge, name):
  with pytest.raises(
      (ValueError, verification.Mismatch), match=REFUSED[name]
  ) as found:
    verify(forge(name))
  said = str(found.value)
  assert len(said) < 1000 and '\n' not in said and '\x1b' not in said


@pytest.mark.parametrize('name', hostile.SHOWN)
def test_what_nobody_can_tell_is_shown(forge, name):
  _, lines = verify(forge(name))
  assert hostile.SHOWN[name] in ' '.join(lines)
  assert all(line.isprintable() for line in lines)


def test_claims_are_those_of_the_losses_found_here(honest, forge):
  """Lowered within the tolerance, with all that follows from it."""
  exact, (line, _) = verify(honest)
  folder = forge('losses_within_tolerance')
  lowered, found = hostile.read(folder)['claims'], verify(folder)
  for old, new, low in zip(
      exact.claims, found[0].claims, lowered, strict=True
  ):
    assert old == new
    assert low['value'] < old['value'] - 1e-5 or old['unit'] == 'share'
  assert found[1][0] == line
  value = exact.headline['value']
  printed = float(line.partition('at most ')[2].partition(' ')[0])
  assert value <= printed < value + 1e-4


def test_a_vacuous_claim_certifies_nothing(honest):
  found, (line, _) = verify(honest)
  assert found.headline['value'] > found.headline['trivial']
  assert ', which says nothing, except with probability' in line
  (claim,) = (x for x in found.lines() if 'CERTIFIED' in x)
  assert claim.startswith('CERTIFIED NOTHING: bits per token, log_wealth')


def test_a_pattern_that_goes_back_for_ever(forge):
  done = run(
      'certify', f'--verify={forge("pattern")}', '--verify_seconds=4', status=1
  )
  (line,) = done.stderr.strip().splitlines()
  assert 'not verified: it took longer than --verify_seconds=4' in line


def confined(module, function, seconds=60.0, gigabytes=8.0):
  confinement.run(module, function, seconds=seconds, gigabytes=gigabytes)


@pytest.mark.parametrize(
    'arguments, said',
    [
        (('signal', 'pause', 1), 'took longer than --verify_seconds=1'),
        (('signal', 'pause', 9, 1e-3), 'more memory than --verify_gigabytes=0'),
        (('os', 'abort'), 'ended by SIGABRT'),
        (('os', 'fspath'), '^TypeError: fspath'),
    ],
)
def test_limits(arguments, said):
  with pytest.raises(errors.RunFailed, match=said):
    confined(*arguments)


def test_native_code_is_stopped_by_the_kernel(tmp_path, monkeypatch):
  (tmp_path / 'slow.py').write_text(
      'import re\n'
      'from iblm_jax.certification import confinement\n'
      'def main():\n'
      '  confinement.stop_at(1)\n'
      "  re.match('(a|aa)+b', 99 * 'a')\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(errors.RunFailed, match='config alone took longer'):
    confined('slow', 'main')


def test_it_imports_nothing_from_where_one_stands(tmp_path, monkeypatch):
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'trap.py').write_text("def main(): print('caught')")
  monkeypatch.chdir(tmp_path / 'other')
  with pytest.raises(errors.RunFailed, match="No module named 'trap'"):
    confined('trap', 'main')
  monkeypatch.syspath_prepend(tmp_path / 'other')
  confined('trap', 'main')


def test_a_list_of_parts_is_short(honest):
  """Before it is read: each entry takes ten times its size in memory."""
  data = bytearray((honest / 'losses.npz').read_bytes())
  data[-10:-6] = (5000).to_bytes(4, 'little')
  with pytest.raises(ValueError, match='lists its parts in 5,000 bytes'):
    reading.parse_arrays(bytes(data), 'losses.npz', {'losses': 2})


def test_tables_of_strange_certificates_end_in_one_line(forge, tmp_path):
  (tmp_path / 'run').mkdir()
  folder = forge('missing')
  tree = hostile.read(folder)
  del tree['terms']['bits per token, log_wealth']
  (folder / 'certificate.json').write_text(json.dumps(tree))
  folder.rename(tmp_path / 'run' / 'certificate')
  with pytest.raises(ValueError, match="cannot be used: KeyError: 'bits"):
    certified.read_row(epath.Path(tmp_path / 'run'))
