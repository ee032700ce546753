import importlib.util
import math
import os
import pathlib
import types

import jax
import pytest
from jax.experimental import topologies

from iblm_jax.training.scale import topology

REFUSED = 'INVALID_ARGUMENT: no such slice'


@pytest.mark.parametrize(
    'name, shape',
    [
        ('v5e:8x8', '8x8'),
        ('v6e:16x16', '16x16'),
        ('v5p:4x4x8', '4x4x8'),
        ('v5e-4', '2x2'),
        ('v5e-64', '8x8'),
        ('v6e-256', '16x16'),
        ('v5p-8', '2x2x1'),  # cores, two a chip
        ('v5p-256', '4x4x8'),
        ('v5p-1024', '8x8x8'),
    ],
)
def test_shapes(name, shape):
  assert topology.slice_shape(name) == shape


@pytest.mark.parametrize('kind', ['v5e', 'v6e', 'v5p'])
def test_product_numbers_count_chips_or_cores(kind):
  for chips in (4, 8, 16, 32, 64, 128, 256):
    number = 2 * chips if kind == 'v5p' else chips
    shape = topology.slice_shape(f'{kind}-{number}')
    sides = [int(side) for side in shape.split('x')]
    assert math.prod(sides) == chips
    assert len(sides) == (3 if kind == 'v5p' else 2)
    assert topology.slice_shape(f'{kind}:{shape}') == shape


@pytest.mark.parametrize(
    'name, message',
    [
        ('', "topology must be like v5e:8x8 .* got ''"),
        ('v4:2x2x2', "must be like .* got 'v4:2x2x2'"),
        ('v5e', "must be like .* got 'v5e'"),
        ('v5e8x8', 'must be like'),
        ('v5e:8x', 'must be like'),
        ('v5e:8x8 ', 'must be like'),
        ('V5E:8x8', 'must be like'),
        ('v5e:-8', 'must be like'),
        ('v5e-5', r"v5e-N must have N in \[4, 8, .*, 256\], got 'v5e-5'"),
        ('v6e-512', r'v6e-N must have N in \[4, .*, 256\]'),
        ('v5p-4', r"v5p-N must have N in \[8, 16, .*, 1024\], got 'v5p-4'"),
        ('v5p-9', 'v5p-N must have N in'),
        ('v5e:2x2x2', "v5e must have 2 sides .* v5e:4x4, got 'v5e:2x2x2'"),
        ('v5p:4x4', "v5p must have 3 sides .* v5p:2x2x4, got 'v5p:4x4'"),
        ('v5e:0x4', 'v5e must have 2 sides of at least 1'),
    ],
)
def test_bad_names(name, message, monkeypatch):
  monkeypatch.setattr(topologies, 'get_topology_desc', _forbidden)
  for function in (topology.slice_shape, topology.devices):
    with pytest.raises(ValueError, match=message):
      function(name)


def _forbidden(**kwargs):
  raise AssertionError(f'the TPU library was called with {kwargs}.')


@pytest.fixture
def library(monkeypatch):
  """Stands in for the TPU library; the environment is put back."""
  monkeypatch.setattr(
      importlib.util, 'find_spec', lambda name: types.SimpleNamespace(name=name)
  )
  monkeypatch.setattr(os, 'environ', {'TPU_ACCELERATOR_TYPE': 'mine'})

  def use(function):
    monkeypatch.setattr(topologies, 'get_topology_desc', function)

  return use


def test_missing_library(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(topologies, 'get_topology_desc', _forbidden)
  before = dict(os.environ)
  with pytest.raises(ValueError, match='package libtpu: .*iblm-jax.aot.') as e:
    topology.devices('v5e:8x8')
  assert "topology 'v5e:8x8'" in str(e.value)
  assert dict(os.environ) == before


def test_the_library_is_asked_for_the_shape(library):
  asked = []

  def get_topology_desc(**kwargs):
    asked.append(kwargs)
    return types.SimpleNamespace(devices=('a', 'b'))

  library(get_topology_desc)
  assert topology.devices('v5p-16') == ['a', 'b']
  assert asked == [dict(platform='tpu', topology_name='v5p:2x2x2')]
  # Not to look for a TPU; what the user has set stays.
  assert os.environ['TPU_SKIP_MDS_QUERY'] == '1'
  assert os.environ['TPU_ACCELERATOR_TYPE'] == 'mine'


def test_what_the_library_refuses_is_a_value_error(library):
  def get_topology_desc(**kwargs):
    raise jax.errors.JaxRuntimeError(REFUSED)

  library(get_topology_desc)
  with pytest.raises(ValueError, match=f"topology 'v5e:3x5': {REFUSED}"):
    topology.devices('v5e:3x5')


def test_tests_load_no_tpu_library():
  """It takes seconds and a lock; the real one is for a program of its own."""
  maps = pathlib.Path('/proc/self/maps')
  if not maps.exists():
    pytest.skip('needs /proc.')
  assert 'libtpu.so' not in maps.read_text()
