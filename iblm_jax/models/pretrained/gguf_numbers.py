"""The commonest quantisations of GGUF, for which `gguf` takes longer.

A block of 32 numbers has a scale, in some kinds an offset, both of 16 bits, and
integers of 8 or 4 bits; the lower halves of bytes come before the upper ones.
"""

import numpy as np

_BLOCK = 32
# Numbers of 16 bits, whether integers have 4 bits, and what is taken off them.
KINDS = {'Q8_0': (1, False, 0), 'Q4_0': (1, True, 8), 'Q4_1': (2, True, 0)}


def dequantize(raw: np.ndarray, kind: str) -> np.ndarray:
  """Makes numbers of bytes, the same as `gguf.dequantize`.

  Args:
    raw: uint8 [..., bytes of a row].
    kind: One of `KINDS`.

  Returns:
    float32 [..., numbers of a row].

  Example:
    >>> raw = np.array([*np.float16([2]).tobytes(), *range(32)], np.uint8)
    >>> dequantize(raw, 'Q8_0')[:4].tolist()
    [0.0, 2.0, 4.0, 6.0]
  """
  halves, four_bits, less = KINDS[kind]
  width = 2 * halves + (_BLOCK // 2 if four_bits else _BLOCK)
  blocks = raw.reshape(-1, width)
  head = np.ascontiguousarray(blocks[:, : 2 * halves])
  scales = head.view('<f2').astype(np.float32)
  codes = blocks[:, 2 * halves :]
  parts = [codes & 15, codes >> 4] if four_bits else [codes]
  numbers = np.empty([len(blocks), len(parts), codes.shape[1]], np.float32)
  for i, part in enumerate(parts):
    signed = part.view(np.int8)
    signed = signed - np.int8(less) if less else signed
    np.multiply(signed, scales[:, :1], out=numbers[:, i])
  if halves == 2:
    numbers += scales[:, 1:, None]
  return numbers.reshape(*raw.shape[:-1], -1)
