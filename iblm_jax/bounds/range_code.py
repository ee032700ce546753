"""Symbols to a range coder's bytes and back, with the models of each scheme."""

import numpy as np

from iblm_jax.bounds import code_length, compositions

# Weights of an adaptive model that are made at a time, 32 MB.
_CHUNK = 1 << 22


def encode_symbols(symbols: np.ndarray, L: int, scheme: str) -> bytes:
  """Writes counts, where the scheme needs them, and payload of symbols [d]."""
  stream = _stream()
  counts = np.bincount(symbols, minlength=L)
  encoder = stream.queue.RangeEncoder()
  narrow = symbols.astype(np.int32)
  if scheme == 'table':
    encoder.encode(narrow, _model(stream, counts))
  else:
    family = stream.model.Categorical(perfect=False)
    weights = _first_weights(counts, scheme)
    change = _change(scheme)
    rows_at_once = _CHUNK // L
    for start in range(0, narrow.size, rows_at_once):
      part = narrow[start:start + rows_at_once]
      steps = np.zeros((part.size + 1, L))
      steps[0] = weights
      steps[np.arange(part.size) + 1, part] = change
      rows = np.cumsum(steps, axis=0)
      encoder.encode(part, family, rows[:-1])
      weights = rows[-1]
  field = b''
  if scheme in ('table', 'enumerative'):
    rank = compositions.rank_of_counts(counts.tolist())
    field = rank.to_bytes(field_bytes(symbols.size, L), 'big')
  return field + _shortest(encoder)


def decode_symbols(body: bytes, d: int, L: int, scheme: str) -> np.ndarray:
  """Reads symbols [d]; ValueError where no symbols have these bytes."""
  stream = _stream()
  counts = None
  if scheme in ('table', 'enumerative'):
    size = field_bytes(d, L)
    rank = int.from_bytes(body[:size], 'big')
    if len(body) < size or rank >= compositions.number_of_counts(d, L):
      raise ValueError('code is damaged: it holds no counts.')
    counts = np.array(compositions.counts_of_rank(rank, d, L))
    body = body[size:]
  words = np.frombuffer(body + bytes(-len(body) % 4), '>u4').astype(np.uint32)
  decoder = stream.queue.RangeDecoder(words)
  try:
    if scheme == 'table':
      return decoder.decode(_model(stream, counts), d).astype(np.int64)
    return _decode_adaptively(stream, decoder, counts, d, L, scheme)
  except AssertionError as error:  # what constriction raises for bad data
    raise ValueError('code is damaged: no symbols have it.') from error


def _decode_adaptively(stream, decoder, counts, d, L, scheme):
  weights = _first_weights(np.zeros(L) if counts is None else counts, scheme)
  change, model = _change(scheme), stream.model.Categorical
  symbols = np.empty(d, np.int64)
  for i in range(d):
    symbol = decoder.decode(model(weights, lazy=True, perfect=False))
    symbols[i] = symbol
    weights[symbol] += change
    if weights[symbol] < 0:
      raise ValueError('code is damaged: a symbol comes too often.')
  return symbols


def _first_weights(counts, scheme):
  """Weights of the first symbol's model; small whole numbers are exact."""
  if scheme == 'enumerative':
    return counts.astype(np.float64)
  return np.ones(len(counts))


def _change(scheme):
  """What a symbol adds to its own weight once it has been coded.

  'kt' counts halves: (c + 1/2) / (i + L/2) is (2c + 1) / (2i + L).
  """
  return {'enumerative': -1.0, 'kt': 2.0, 'laplace': 1.0}[scheme]


def _model(stream, counts):
  return stream.model.Categorical(counts.astype(np.float64), perfect=False)


def field_bytes(d: int, L: int) -> int:
  """Number of bytes that the number of a count vector takes."""
  bits = code_length.ceil_log2(compositions.number_of_counts(d, L))
  return -(-bits // 8)


def _shortest(encoder):
  """Fewest bytes that decode like the words the range coder would write.

  The words name a point of the final interval; any point in it will do, and
  missing bytes are read as zeros.
  """
  words = encoder.get_compressed()
  position, (lower, length) = encoder.pos()
  bits = 32 * position + 64
  point = int.from_bytes(words.astype('>u4').tobytes(), 'big')
  point <<= bits - 32 * len(words)
  # The coder keeps the interval's lower end modulo 2^64.
  low = point - (point - lower) % 2**64
  for size in range(4 * position, bits // 8 + 1):
    shift = bits - 8 * size
    top = -(-low >> shift)
    if top << shift < low + length:
      return top.to_bytes(size, 'big').rstrip(b'\0')
  raise AssertionError('The final interval of the range coder is empty.')


def _stream():
  try:
    # Its submodules are made by native code, which type checkers cannot see.
    from constriction import stream  # pyrefly: ignore
  except ImportError as error:
    raise ImportError(
        'Codes need the extra "certify": pip install "iblm_jax[certify]".'
    ) from error
  return stream
