"""From a vector of numbers to the bytes that stand for it, and back."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from iblm_jax import bounds
from iblm_jax.bounds import code_length, options
from iblm_jax.certification.scoring import Report, quiet

# (vector [d], values [L]), both float32, to the same after training.
Tune = Callable[
    [np.ndarray, np.ndarray], tuple[npt.ArrayLike, npt.ArrayLike]
]


class Code(NamedTuple):
  """A quantised vector.

  Attributes:
    data: The bytes, in the format of `bounds.coding`.
    levels: Number of quantiser levels, which decoding needs.
  """

  data: bytes
  levels: int


def decode(
    code: bytes, d: int, levels: int, cfg: options.CertificateConfig
) -> np.ndarray:
  """Decodes the float32 vector [d] that bytes stand for.

  Raises:
    ValueError: The bytes are damaged.
  """
  kind = 'step' if cfg.codebook == 'step' else 'codebook'
  return bounds.decode_values(
      code, d, levels, cast(code_length.Scheme, cfg.scheme), levels=kind
  )


def quantise(
    w: npt.ArrayLike,
    cfg: options.CertificateConfig,
    *,
    tune: Tune | None = None,
    report: Report = quiet,
) -> list[Code]:
  """Rounds a vector to few values and codes it, for each number of levels.

  Args:
    w: [d] finite numbers.
    cfg: Levels, kind of codebook and scheme of the code.
    tune: Trains vector and values through the rounding before they are coded.
      With codebook 'step' the values must stay multiples of a step.
    report: Receives a line about each code.

  Returns:
    One code for each of `cfg.levels`.

  Raises:
    ValueError: The vector is not of that form, or float16 cannot hold values
      of its size.

  Example:
    >>> cfg = options.CertificateConfig(levels=(3,), codebook='step')
    >>> (code,) = quantise([-0.52, 0.02, 0.49], cfg)
    >>> len(code.data), decode(code.data, 3, 3, cfg).round(2).tolist()
    (3, [-0.5, 0.0, 0.5])
  """
  w_d = np.asarray(w, np.float32)
  codes = []
  for levels in cfg.levels:
    numbers, values = w_d, _values(w_d, levels, cfg)
    if tune is not None:
      numbers, values = map(np.asarray, tune(numbers, values))
    codes.append(Code(_encode(numbers, values, levels, cfg), levels))
    report(
        f'{levels} levels: {len(codes[-1].data):,} bytes for'
        f' {w_d.size:,} numbers'
    )
  return codes


def _values(w_d, levels, cfg) -> np.ndarray:
  """What each symbol stands for before tuning: float32 [L]."""
  if cfg.codebook == 'step':
    step, _ = bounds.fit_step(w_d, levels)
    return bounds.step_values(step, levels).astype(np.float32)
  codebook, _ = bounds.fit_codebook(w_d, levels, cfg.codebook)
  return codebook.astype(np.float32)


def _encode(w_d, values, levels, cfg) -> bytes:
  if cfg.codebook == 'step':
    # float32 holds few multiples of a float16 exactly.
    stored: dict[str, Any] = {'step': float(values[1] - values[0])}
  else:
    values = values.astype(np.float16)
    stored = {'codebook': values}
  symbols = bounds.nearest_symbols(w_d, values)
  return bounds.encode(symbols, levels, cfg.scheme, **stored)
