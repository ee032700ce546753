"""The commonest quantisations of GGUF, for which `gguf` takes longer.

A block of 32 numbers has a scale, in some kinds an offset, both of 16 bits, and
integers of 8 or 4 bits; the lower halves of bytes come before the upper ones.
"""

import numpy as np

from iblm_jax.models.pretrained import layout

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
  bytes_BxR = raw.reshape(-1, raw.shape[-1]).T
  if four_bits:  # rows last, where loops are long
    bytes_BxR = np.ascontiguousarray(bytes_BxR)
  rows = bytes_BxR.shape[1]
  blocks_NxWxR = bytes_BxR.reshape(-1, width, rows)
  low, high = blocks_NxWxR[:, 0 : 2 * halves : 2], blocks_NxWxR[:, 1::2]
  scales = low | high[:, :halves].astype(np.uint16) << 8
  scales_NxHxR = scales.view(np.float16).astype(np.float32)
  codes = blocks_NxWxR[:, 2 * halves :]
  parts = [codes & 15, codes >> 4] if four_bits else [codes]
  shape = (len(codes), len(parts), codes.shape[1])
  if four_bits:
    numbers = np.moveaxis(layout.aligned((*shape, rows), np.float32), -1, 0)
  else:
    numbers = layout.aligned((rows, *shape), np.float32)
  for i, part in enumerate(parts):
    signed = part.view(np.int8)
    signed = signed - np.int8(less) if less else signed
    out = np.moveaxis(numbers[:, :, i], 0, -1)
    np.multiply(signed, scales_NxHxR[:, :1], out=out)
    if halves == 2:
      out += scales_NxHxR[:, 1:]
  return numbers.reshape(*raw.shape[:-1], -1)
