"""Codes: what is written is read back, is short, and damage is a ValueError."""

import math
import sys

import numpy as np
import pytest

from iblm_jax import bounds
from iblm_jax.bounds import range_code


def gaussian_symbols(d, L, spread, seed=0):
  x = np.random.default_rng(seed).normal(size=d) * spread + (L - 1) / 2
  return np.clip(np.round(x), 0, L - 1).astype(np.int32)


def random_cases():
  rng = np.random.default_rng(1)
  yield np.array([0]), 2
  yield np.array([1]), 2
  yield np.array([4095]), 4096
  yield np.zeros(300, np.int32), 2
  yield np.full(300, 6), 7
  yield np.arange(50) % 2, 2
  yield np.repeat(np.arange(9), 40), 9
  for _ in range(80):
    L = int(rng.integers(2, 20))
    share = rng.dirichlet(np.full(L, rng.choice([0.05, 0.5, 5.0])))
    yield rng.choice(L, rng.integers(1, 200), p=share), L


@pytest.mark.parametrize('scheme', bounds.SCHEMES)
def test_symbols_come_back_and_their_length_is_the_ideal_one(scheme):
  for symbols, L in random_cases():
    code = bounds.encode(symbols, L, scheme)
    back = bounds.decode(code, symbols.size, L, scheme)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, symbols)
    ideal = bounds.ideal_bits(symbols, L, scheme)
    field = (
        range_code.field_bytes(symbols.size, L)
        if scheme in ('table', 'enumerative')
        else 0
    )
    # Under one bit of the coder, one to name a point, seven to a whole byte.
    assert 8 * (len(code) - field) <= ideal + 9 + 1e-4 * symbols.size


@pytest.mark.parametrize('scheme', bounds.SCHEMES)
def test_values_come_back_with_their_levels(scheme):
  symbols = gaussian_symbols(100, 7, 1.5)
  codebook = np.linspace(-0.7, 0.9, 7).astype(np.float16)
  code = bounds.encode(symbols, 7, scheme, codebook=codebook)
  values = bounds.decode_values(code, 100, 7, scheme, levels='codebook')
  assert values.dtype == np.float32
  np.testing.assert_array_equal(values, codebook[symbols].astype(np.float32))
  bare = bounds.encode(symbols, 7, scheme)
  assert code == codebook.astype('>f2').tobytes() + bare
  stepped = bounds.encode(symbols, 7, scheme, step=np.float16(0.1))
  assert len(stepped) == len(bare) + 2
  np.testing.assert_array_equal(
      bounds.decode_values(stepped, 100, 7, scheme, levels='step'),
      ((symbols - 3) * np.float64(np.float16(0.1))).astype(np.float32),
  )


def test_fifty_thousand_symbols_take_their_entropy():
  symbols = gaussian_symbols(50_000, 11, 1.6)
  code = bounds.encode(symbols, 11)
  np.testing.assert_array_equal(bounds.decode(code, 50_000, 11), symbols)
  entropy = bounds.ideal_bits(symbols, 11)
  counts = math.comb(50_010, 10).bit_length()
  payload = 8 * len(code) - 8 * math.ceil(counts / 8)
  assert entropy <= payload <= 1.001 * entropy
  assert 8 * len(bounds.encode(symbols, 11, 'kt')) < 8 * len(code)


def test_more_symbols_than_one_chunk_of_an_adaptive_model(monkeypatch):
  symbols = gaussian_symbols(500, 5, 1.0)
  whole = {s: bounds.encode(symbols, 5, s) for s in bounds.SCHEMES}
  monkeypatch.setattr(range_code, '_CHUNK', 64)
  assert whole == {s: bounds.encode(symbols, 5, s) for s in bounds.SCHEMES}


@pytest.mark.parametrize('levels', [None, 'step', 'codebook'])
@pytest.mark.parametrize('scheme', bounds.SCHEMES)
def test_damage_is_a_value_error_or_other_symbols(scheme, levels):
  symbols = gaussian_symbols(40, 5, 1.0)
  values = {
      None: {},
      'step': {'step': 0.5},
      'codebook': {'codebook': np.arange(5.0)},
  }[levels]
  code = bounds.encode(symbols, 5, scheme, **values)
  rng = np.random.default_rng(0)
  damaged = [code[:k] for k in range(len(code))]
  damaged += [code + b'\0', code + b'\1', code[1:], b'', bytes(60)]
  damaged += [bytes([255]) * 60, *(rng.bytes(k) for k in range(1, 60))]
  for bit in range(8 * len(code)):
    flipped = bytearray(code)
    flipped[bit // 8] ^= 1 << bit % 8
    damaged.append(bytes(flipped))
  header = {None: 0, 'step': 2, 'codebook': 10}[levels]
  refused = 0
  for bad in damaged:
    try:
      back = bounds.decode(bad, 40, 5, scheme, levels=levels)
    except ValueError:
      refused += 1
      continue
    assert back.shape == (40,) and set(back.tolist()) <= set(range(5))
    # Two codes never stand for the same values.
    assert bad[:header] != code[:header] or (back != symbols).any()
    again = bounds.encode(back, 5, scheme)
    assert again == bad[header:]
  assert refused > 20


def test_other_settings_than_those_of_the_code_are_noticed():
  symbols = gaussian_symbols(200, 9, 1.5)
  code = bounds.encode(symbols, 9)
  for d, L, scheme in [(199, 9, 'table'), (200, 8, 'table'), (200, 9, 'kt')]:
    with pytest.raises(ValueError, match='code is damaged'):
      bounds.decode(code, d, L, scheme)
  with pytest.raises(ValueError, match='at least 18 bytes, got 3'):
    bounds.decode(code[:3], 200, 9, levels='codebook')
  for bad in (np.nan, np.inf, 0.0, -1.0):
    step = np.array(bad, '>f2').tobytes()
    with pytest.raises(ValueError, match='begins with levels'):
      bounds.decode(step + code, 200, 9, levels='step')


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, 'constriction', None)
  with pytest.raises(ImportError, match=r'iblm_jax\[certify\]'):
    bounds.encode([0, 1], 2)
  with pytest.raises(ImportError, match=r'iblm_jax\[certify\]'):
    bounds.decode(b'00', 2, 2)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(codebook=[0.1, 0.2]), 'codebook must .* float16 holds exactly'),
        (dict(codebook=[0.5]), r'codebook must have shape \(2,\)'),
        (dict(codebook=[0.5, 1e6]), 'codebook must .* finite'),
        (dict(step=0.3), 'step must .* float16 holds exactly'),
        (dict(step=-0.5), 'step must be a finite number'),
        (dict(step=0.5, codebook=[0.0, 1.0]), 'must not both be given'),
        (dict(scheme='zip'), "scheme must be one of 'table'"),
    ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    bounds.encode([0, 1], 2, **arguments)


def test_bad_settings_of_the_decoder():
  with pytest.raises(ValueError, match='levels must be one of'):
    bounds.decode_values(b'0', 1, 2, levels=None)
  with pytest.raises(ValueError, match='d must be an integer >= 1'):
    bounds.decode(b'0', 0, 2)
