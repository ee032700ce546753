"""Windows within documents: those that are scored, and those that are shuffled.

Everything here is a function of the lengths of the documents.
"""

import numpy as np
import numpy.typing as npt

from iblm_jax.data import _checks, hashing


def numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Numbers the members of groups of the sizes `counts`, int64 [G].

  Returns:
    The group of each member, and its number within the group, int64 [N].

  >>> [x.tolist() for x in numbered(np.array([2, 0, 1]))]
  [[0, 0, 2], [0, 1, 0]]
  """
  group_N = np.repeat(np.arange(counts.size), counts)
  begin_G = np.cumsum(counts) - counts
  return group_N, np.arange(group_N.size) - begin_G[group_N]


def scoring_windows(
    lengths: npt.ArrayLike, context: int, stride: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Cuts documents into rows that score every target once.

  The first window scores up to `context` targets; each further one is moved by
  `stride`, scores only its last `stride` targets, the last one what is left,
  and reads `context - stride` tokens before them. What is read before a target
  depends on its position alone, never on how the document goes on.

  Args:
    lengths: Targets of each document, whole numbers of at least 1, [D].
    context: Most tokens of a row, at least 1.
    stride: Targets that each further window scores, 1..context; None leaves out
      the targets beyond the first `context`.

  Returns:
    Four int64 arrays [W], sorted by document: the document, the first position
    read, the first target scored, and the end of both. Target t is read after
    the tokens at the positions up to t.

  Raises:
    ValueError: An argument is out of its range.

  Source: evaluation in arXiv 2312.17173, with context 1024 and stride 100.

  >>> [x.tolist() for x in scoring_windows([5, 3], context=4, stride=2)]
  [[0, 0, 1], [0, 2, 0], [0, 4, 0], [4, 5, 3]]
  """
  context = _checks.check_int('context', context, 1)
  if stride is not None:
    stride = _checks.check_int('stride', stride, 1, context)
  length_D = np.asarray(lengths, np.int64)
  if length_D.ndim != 1 or (length_D < 1).any():
    raise ValueError(
        'lengths must be a sequence of numbers of at least 1, got'
        f' {lengths!r}.'
    )
  step = stride or context
  beyond_D = np.maximum(length_D - context, 0) if stride else 0 * length_D
  document_W, ordinal_W = numbered(1 + -(-beyond_D // step))
  begin_W = ordinal_W * step
  end_W = np.minimum(begin_W + context, length_D[document_W])
  first_W = np.where(ordinal_W > 0, begin_W + context - step, 0)
  return document_W, begin_W, first_W, end_W


def shuffle_in_windows(
    tokens: np.ndarray,
    document: np.ndarray,
    position: np.ndarray,
    window: int,
    key: npt.ArrayLike,
) -> np.ndarray:
  """Permutes the tokens inside windows of every document, for controls.

  Args:
    tokens: Array [N].
    document: Number of the document of each token, [N], ascending.
    position: Place of each token in its document, [N], ascending within it.
    window: Tokens of a window, at least 1; those of a document begin at the
      positions 0, window, 2 * window, ...
    key: Key of the permutations, a scalar. That of a window depends on the key,
      the number of the document and the positions, not on other documents.

  >>> shuffle_in_windows(np.arange(6), np.zeros(6, int), np.arange(6), 3, 1)
  array([2, 1, 0, 3, 5, 4])
  """
  window = _checks.check_int('window', window, 1)
  number_N = position // window
  begins_N = np.ones(tokens.size, bool)
  begins_N[1:] = np.diff(number_N).astype(bool) | np.diff(document).astype(bool)
  draw_N = hashing.fold(hashing.fold(key, document), position)
  # One sort, and of what is nearly in order: by window, then by the draw.
  window_N = np.cumsum(begins_N).astype(np.uint64)
  half = np.uint64(32)
  order_N = np.argsort(window_N << half | draw_N >> half, kind='stable')
  return tokens[order_N]
