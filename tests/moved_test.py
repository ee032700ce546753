"""Modules of 0.1 can be imported under their old names."""

import importlib
import sys

import pytest

from iblm_jax import _moved


@pytest.mark.parametrize('old', sorted(_moved.MOVED))
def test_the_old_name_is_the_new_module(old):
  new = importlib.import_module(f'iblm_jax.{_moved.MOVED[old]}')
  spec = new.__spec__
  sys.modules.pop(f'iblm_jax.{old}', None)
  with pytest.warns(DeprecationWarning, match=f'is now {new.__name__};'):
    assert importlib.import_module(f'iblm_jax.{old}') is new
  assert new.__spec__ is spec


def test_other_names_are_still_missing():
  with pytest.raises(ModuleNotFoundError, match='iblm_jax.models.nothing'):
    importlib.import_module('iblm_jax.models.nothing')
