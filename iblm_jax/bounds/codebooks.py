"""Codebooks of few float16 values, fitted on the host in float64."""

from typing import Literal

import numpy as np

from iblm_jax.bounds import _checks

_SMALLEST = float(np.finfo(np.float16).smallest_normal)
_LARGEST = float(np.finfo(np.float16).max)
# Of the largest weight; keeps that weight inside the last bin.
_MARGIN = 1e-6
_KMEANS_ITERS = 100


def fit_codebook(
    w: np.ndarray,
    L: int,
    init: Literal['uniform', 'kmeans'] = 'uniform',
    iters: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Fits a codebook to a vector and assigns a symbol to each number.

  'uniform': L bins of equal width over ±max|w|; a bin's value is the mean of
  its members, or its left edge where it has none. 'kmeans': the better of
  Lloyd's iterations from those bins and from L quantiles.

  Args:
    w: [d] finite numbers; the largest magnitude is 0 or in [6.1e-5, 65504],
      where float16 has its full precision.
    L: Number of levels, 2 <= L <= 4096; odd keeps 0 at the middle of a bin.
    init: Where Lloyd's iterations start.
    iters: Most iterations; None for 0 ('uniform') or 100 ('kmeans').

  Returns:
    (codebook [L] float16, symbols [d] int32). With iterations, each symbol is
    the nearest value after rounding to float16; without, the bin.

  Example:
    >>> w = [-1, -.9, -.2, 0, .05, .1, .3, .31, .95, 1]
    >>> codebook, symbols = fit_codebook(w, 5)
    >>> codebook.astype(float).round(4).tolist()
    [-0.9502, -0.6001, -0.0125, 0.3049, 0.9751]
    >>> symbols.tolist()
    [0, 0, 2, 2, 2, 2, 3, 3, 4, 4]
  """
  w, L = _weights(w), _checks.levels(L)
  _checks.choice('init', init, ('uniform', 'kmeans'))
  if iters is None:
    iters = _KMEANS_ITERS if init == 'kmeans' else 0
  iters = _checks.integer('iters', iters, 0)
  largest = np.abs(w).max() * (1 + _MARGIN)
  edges = np.linspace(-largest, largest, L + 1)
  # Rounding must not push the largest weight into a bin of its own.
  bins = np.clip(np.searchsorted(edges, w, side='right') - 1, 0, L - 1)
  counts = np.bincount(bins, minlength=L)
  sums = np.bincount(bins, weights=w, minlength=L)
  uniform = np.where(counts > 0, sums / np.maximum(counts, 1), edges[:-1])
  if init == 'uniform' and iters == 0:
    return uniform.astype(np.float16), bins.astype(np.int32)
  starts = [uniform]
  if init == 'kmeans':
    starts.append(np.quantile(w, (np.arange(L) + 0.5) / L))
  ordered = np.sort(w)
  fits = [_lloyd(ordered, start, iters) for start in starts]
  codebooks = [fit.astype(np.float16) for fit in fits]
  errors = [np.sum((w - decoded(w, c)) ** 2) for c in codebooks]
  codebook = codebooks[int(np.argmin(errors))]
  return codebook, nearest_symbols(w, codebook)


def fit_step(
    w: np.ndarray, L: int, iters: int = 20
) -> tuple[np.float16, np.ndarray]:
  """Fits the step of a uniform grid: one number instead of a codebook.

  Symbols and step are fitted by least squares in turns, from several starts
  between the grid that just holds the largest weight and a quarter of it; the
  best fit is kept.

  Args:
    w: [d] finite numbers, not all 0.
    L: Number of levels, 2 <= L <= 4096.
    iters: Rounds of least squares for each start, at least 0.

  Returns:
    (step, symbols): a positive float16 for `step_values`, and int32 [d].

  Example:
    >>> step, symbols = fit_step([-1.0, 0.02, 0.5, 0.97], 5)
    >>> round(float(step), 3), symbols.tolist()
    (0.493, [0, 2, 3, 4])
  """
  w, L = _weights(w), _checks.levels(L)
  iters = _checks.integer('iters', iters, 0)
  if not w.any():
    raise ValueError('w must not be all 0, got a vector of zeros.')
  widest = 2 * np.abs(w).max() / (L - 1)
  best, least = np.float16(widest), np.inf
  for start in widest * np.linspace(1, 0.25, 7):
    step = float(start)
    for _ in range(iters):
      places = np.rint(w / step + (L - 1) / 2).clip(0, L - 1)
      k = places - (L - 1) / 2
      step = max(float(w @ k) / max(float(k @ k), 1e-300), 1e-3 * widest)
    half = np.float16(step)
    error = np.sum((w - decoded(w, step_values(half, L))) ** 2)
    if half >= _SMALLEST and error < least:
      best, least = half, error
  if not _SMALLEST <= best <= _LARGEST:
    raise ValueError(
        f'w must have a step in [{_SMALLEST:.1e}, {_LARGEST:g}], as float16'
        f' holds it, got {widest:g}.'
    )
  return best, nearest_symbols(w, step_values(best, L))


def step_values(step: float | np.floating, L: int) -> np.ndarray:
  """Computes the values [L] float64 of a grid: step times (j - (L-1)/2).

  Example:
    >>> step_values(0.5, 3), step_values(0.5, 2)
    (array([-0.5,  0. ,  0.5]), array([-0.25,  0.25]))
  """
  return float(step) * (np.arange(L) - (L - 1) / 2)


def nearest_symbols(w: np.ndarray, codebook: np.ndarray) -> np.ndarray:
  """Finds the index [d] int32 of each number's nearest value.

  Of two equally near values the lower one is taken, and of equal values the one
  with the smallest index. The codebook need not be sorted.
  """
  ordered, index = np.unique(
      np.asarray(codebook, np.float64), return_index=True
  )
  middles = (ordered[1:] + ordered[:-1]) / 2
  return index[np.searchsorted(middles, w)].astype(np.int32)


def decoded(w: np.ndarray, codebook: np.ndarray) -> np.ndarray:
  """`w` with each number replaced by the nearest value, [d] float64."""
  return np.asarray(codebook, np.float64)[nearest_symbols(w, codebook)]


def _lloyd(ordered, centres, iters):
  """Lloyd's iterations on sorted numbers: a bin is a slice, a mean two sums."""
  sums = np.concatenate([[0.0], np.cumsum(ordered)])
  for _ in range(iters):
    middles = (centres[1:] + centres[:-1]) / 2
    ends = np.searchsorted(ordered, middles, side='right')
    edges = np.concatenate([[0], ends, [ordered.size]])
    counts = np.diff(edges)
    means = np.diff(sums[edges]) / np.maximum(counts, 1)
    moved = np.where(counts > 0, means, centres)
    # An empty bin that stays behind could end up out of order.
    moved = np.sort(moved)
    if np.array_equal(moved, centres):
      break
    centres = moved
  return centres


def _weights(w):
  w = _checks.vector('w', w).astype(np.float64)
  largest = float(np.abs(w).max())
  if largest and not _SMALLEST <= largest <= _LARGEST:
    raise ValueError(
        f'w must have a largest magnitude of 0 or in [{_SMALLEST:.1e},'
        f' {_LARGEST:g}], where float16 has its full precision, got'
        f' {largest:g}.'
    )
  return w
