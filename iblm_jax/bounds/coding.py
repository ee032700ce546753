"""Symbols to bytes and back, in the code that a certificate is charged for.

A code is [codebook or step][counts][payload], each part whole bytes, big end
first, with nothing between:

* float16 entries of the codebook (2L bytes), or one float16 step (2 bytes), or
  nothing;
* schemes 'table' and 'enumerative': the number of the count vector, in as many
  bytes as the number of count vectors needs;
* the shortest byte string inside the final interval of a range coder
  (`constriction`, 24-bit probabilities), trailing zero bytes cut off.

The schemes are those of `iblm_jax.bounds.code_length`; 'enumerative' codes each
symbol by how many of it are still to come, so that all sequences with the same
counts are equally long. Of the strings that stand for the same symbols only the
one that `encode` writes is accepted. All functions need the extra 'certify' and
raise `ImportError` without it.
"""

from typing import Any, Literal

import numpy as np

from iblm_jax.bounds import _checks, code_length, codebooks, range_code
from iblm_jax.bounds.code_length import Scheme

Levels = Literal['codebook', 'step']


def encode(
    symbols: np.ndarray,
    L: int,
    scheme: Scheme = 'table',
    *,
    codebook: np.ndarray | None = None,
    step: float | np.ndarray | None = None,
) -> bytes:
  """Writes symbols and the values that they stand for.

  Args:
    symbols: [d] integers in 0..L-1.
    L: Number of levels, 2 <= L <= 4096.
    scheme: 'table', 'enumerative', 'kt' or 'laplace'. 'table' is the fast one;
      'kt' the shortest as a rule; 'laplace' and 'enumerative' are within a few
      bits of each other. All but 'table' take some 10 microseconds a symbol to
      decode.
    codebook: [L] values that float16 holds exactly; None for none.
    step: A number > 0 that float16 holds exactly, for the values of
      `step_values`; None for none. Not both.

  Returns:
    The code. Eight times its length is what the model costs.

  Example:
    >>> import numpy as np
    >>> code = encode([0, 1, 1, 2, 1, 0, 1, 1, 2, 1], 3, step=0.5)
    >>> len(code)  # step 2, counts 1, symbols 2
    5
    >>> decode(code, 10, 3, levels='step')
    array([0, 1, 1, 2, 1, 0, 1, 1, 2, 1], dtype=int32)
    >>> decode_values(code, 10, 3, levels='step')[:4]
    array([-0.5,  0. ,  0. ,  0.5], dtype=float32)
  """
  L = _checks.levels(L)
  _checks.choice('scheme', scheme, code_length.SCHEMES)
  symbols = _checks.symbols(symbols, L)
  if codebook is not None and step is not None:
    raise ValueError('codebook and step must not both be given.')
  header = b''
  if codebook is not None:
    header = _float16_bytes('codebook', codebook, (L,))
  elif step is not None:
    _checks.positive('step', step)
    header = _float16_bytes('step', step, ())
  return header + range_code.encode_symbols(symbols, L, scheme)


def decode(
    code: bytes,
    d: int,
    L: int,
    scheme: Scheme = 'table',
    *,
    levels: Levels | None = None,
) -> np.ndarray:
  """Reads the symbols, int32 [d], that `encode` wrote with this L and scheme.

  Args:
    levels: 'codebook' or 'step', what the code begins with; None for nothing.

  Raises:
    ValueError: An argument does not fit, or `encode` cannot have written these
      bytes with these settings. Damaged bytes either raise it or give other
      symbols.
  """
  return _decode(code, d, L, scheme, levels)[1]


def decode_values(
    code: bytes, d: int, L: int, scheme: Scheme = 'table', *, levels: Levels
) -> np.ndarray:
  """Reads the vector, float32 [d], that a code stands for.

  Arguments and errors are those of `decode`.
  """
  _checks.choice('levels', levels, ('codebook', 'step'))
  header, symbols = _decode(code, d, L, scheme, levels)
  if levels == 'step':
    header = codebooks.step_values(header[0], L)
  return header.astype(np.float32)[symbols]


def _decode(code, d, L, scheme, levels):
  d, L = _checks.integer('d', d), _checks.levels(L)
  _checks.choice('scheme', scheme, code_length.SCHEMES)
  _checks.choice('levels', levels, (None, 'codebook', 'step'))
  size = {None: 0, 'codebook': 2 * L, 'step': 2}[levels]
  if len(code) < size:
    raise ValueError(f'code must have at least {size} bytes, got {len(code)}.')
  header = np.frombuffer(code[:size], '>f2').astype(np.float16)
  if not np.isfinite(header).all() or (levels == 'step' and header[0] <= 0):
    raise ValueError(f'code is damaged: it begins with levels {header}.')
  body = bytes(code[size:])
  symbols = range_code.decode_symbols(body, d, L, scheme)
  if range_code.encode_symbols(symbols, L, scheme) != body:
    raise ValueError(
        f'code is damaged, or was not written with {d=}, {L=}, {scheme=},'
        f' {levels=}: these symbols have another code.'
    )
  return header, symbols.astype(np.int32)


def _float16_bytes(name: str, values: Any, shape: tuple[int, ...]) -> bytes:
  x = np.asarray(values)
  with np.errstate(over='ignore'):
    half = x.astype(np.float16)
  exact = np.array_equal(half.astype(np.float64), x.astype(np.float64))
  if x.shape != shape or not np.isfinite(half).all() or not exact:
    raise ValueError(
        f'{name} must have shape {shape} and finite values that float16 holds'
        f' exactly, got {x.dtype} of shape {x.shape}: {values!r}.'
    )
  return half.astype('>f2').tobytes()
