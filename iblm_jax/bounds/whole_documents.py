"""Mixing the predictions of whole documents, which bounds their losses.

`smoothing` mixes the prediction of each token with the uniform distribution.
The same for a document as a whole,

  p'(x) = (1-β) p(x) + β q(x),

costs a fraction of a bit for all of its tokens together, where q is

* uniform, V^-n for a document of n tokens (its end among them), which sums to 1
  over all of one length, and to at most 1 over those that end with a mark; or
* any reference that was fixed before the data were seen, such as the model that
  a fine-tune began with. What is bounded then is the excess over it, of which
  only the upper end is known, and that is near: `excess_limit`.

All of it is host data, in float64.
"""

import math

import numpy as np
import numpy.typing as npt

from iblm_jax.bounds import _checks
from iblm_jax.bounds.smoothing import SmoothRange


def document_range(beta: float, V: int, shortest: int) -> SmoothRange:
  """Computes the smallest and largest loss of a document after smoothing.

  Args:
    beta: Weight of the uniform distribution, in (0, 1).
    V: Size of the vocabulary, at least 2.
    shortest: Tokens of the shortest document that there can be, declared before
      the data are seen.

  Returns:
    (lo, hi, delta) in bits per token: 0, log2 V + log2(1/β)/shortest, and their
    difference.

  Raises:
    ValueError: An argument is outside its range.

  Example:
    >>> [round(x, 4) for x in document_range(0.1, 256, 64)]
    [0.0, 8.0519, 8.0519]
  """
  V = _checks.integer('V', V, 2)
  hi = math.log2(V) + excess_limit(beta, shortest)
  return SmoothRange(0.0, hi, hi)


def smoothed_documents(
    nll_bits_N: npt.ArrayLike, num_tokens_N: npt.ArrayLike, beta: float, V: int
) -> np.ndarray:
  """Computes the losses of documents, mixed as a whole with the uniform.

  Args:
    nll_bits_N: -log2 p of each document, the sum over its tokens; inf is
      allowed.
    num_tokens_N: Tokens of each, at least 1.
    beta: Weight of the uniform distribution, in (0, 1).
    V: Size of the vocabulary, at least 2.

  Returns:
    [N] bits per token, in `document_range` for the shortest of them.

  Raises:
    ValueError: An argument is outside its range.

  Example:
    >>> smoothed_documents([2.0, np.inf], [2, 4], 0.5, 4).round(4)
    array([1.339, 2.25 ])
  """
  counts_N = _counts(num_tokens_N)
  uniform_N = counts_N * math.log2(_checks.integer('V', V, 2))
  excess_N = excess_of_documents(nll_bits_N, uniform_N, counts_N, beta)
  return uniform_N / counts_N + excess_N


def excess_limit(beta: float, shortest: int) -> float:
  """Computes the largest excess over a reference, log2(1/β)/shortest.

  Args:
    beta: Weight of the reference, in (0, 1).
    shortest: See `document_range`.

  Returns:
    Bits per token.

  Raises:
    ValueError: An argument is outside its range.

  Example:
    >>> excess_limit(0.25, 64)
    0.03125
  """
  beta = _checks.probability('beta', beta)
  return -math.log2(beta) / _checks.integer('shortest', shortest)


def excess_of_documents(
    nll_bits_N: npt.ArrayLike,
    reference_bits_N: npt.ArrayLike,
    num_tokens_N: npt.ArrayLike,
    beta: float,
) -> np.ndarray:
  """Computes by how much documents cost more than under a reference.

  The model is mixed with the reference; a negative excess is an improvement.
  `occam_logwealth(excess, limit - 1, 1.0, ..., bounded_below=False)` bounds
  its mean, with the limit of `excess_limit`.

  Args:
    nll_bits_N: -log2 p of each document, the sum over its tokens; inf is
      allowed.
    reference_bits_N: -log2 q of each, finite.
    num_tokens_N: Tokens of each, at least 1.
    beta: Weight of the reference, in (0, 1).

  Returns:
    [N] bits per token, (log2 q - log2 p') / n.

  Raises:
    ValueError: An argument is outside its range.

  Example:
    >>> excess_of_documents([100.0, np.inf], [120.0, 80.0], [20, 16], 0.25)
    array([-0.97924815,  0.125     ])
  """
  counts_N = _counts(num_tokens_N)
  nll_N = np.asarray(nll_bits_N, np.float64)
  reference_N = np.asarray(reference_bits_N, np.float64)
  beta = _checks.probability('beta', beta)
  for name, bits_N in (('nll_bits', nll_N), ('reference_bits', reference_N)):
    known = bits_N >= 0 if name == 'nll_bits' else np.isfinite(bits_N)
    if bits_N.shape != counts_N.shape or not known.all():
      raise ValueError(
          f'{name} must be {counts_N.shape[0]} numbers, one a document'
          f'{", and finite" if name == "reference_bits" else " and >= 0"}, got'
          f' {bits_N!r:.200}.'
      )
  gain_N = np.logaddexp2(
      math.log1p(-beta) / math.log(2) + reference_N - nll_N, math.log2(beta)
  )
  return -gain_N / counts_N


def _counts(num_tokens_N: npt.ArrayLike) -> np.ndarray:
  counts_N = np.asarray(num_tokens_N)
  is_whole = np.issubdtype(counts_N.dtype, np.integer)
  if counts_N.ndim != 1 or not is_whole or not (counts_N >= 1).all():
    raise ValueError(
        f'num_tokens must be integers >= 1, one a document, got {counts_N!r}.'
    )
  return counts_N
