"""A certificate that version 0.1 made, down to its hashes, holds here."""

import pathlib

import pytest
from etils import epath

from iblm_jax.certification import verification

# The words of `pipeline_test`.
WORDS = [a + b + c for a in 'abcdefgh' for b in 'xyz' for c in ('', 'no', 'a')]
FOLDER = epath.Path(pathlib.Path(__file__).parent / 'made_by_0_1')


def test_it_is_verified(tmp_path):
  path = tmp_path / 'words.txt'
  path.write_text('\n'.join(WORDS) + '\n')
  verification.verify(FOLDER, lambda line: None, str(path))
  path.write_text('\n'.join(WORDS[1:]) + '\n')
  with pytest.raises(verification.Mismatch, match=r'hashes\.data'):
    verification.verify(FOLDER, lambda line: None, str(path))
