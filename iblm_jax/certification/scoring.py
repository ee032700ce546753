"""Losses of documents, and what it takes to be certified."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from iblm_jax import bounds

Report = Callable[[str], None]

# Bits by which losses may differ between two machines.
TOLERANCE = 1e-4


def quiet(line: str) -> None:
  """Tells nobody."""
  del line


class DocumentLosses(NamedTuple):
  """Losses of documents; each document is a column.

  Attributes:
    losses: float64 [A, N], bits per token of the smoothed predictions, in the
      rows of `bounds.claims.make_claims`.
    errors: float64 [K, N], share of tokens outside the k most likely ones.
    tokens: Number of tokens scored, each document counted once.
    token_losses: float64 [A], mean over these tokens of the bits per token, for
      each weight of the uniform distribution over tokens.
  """

  losses: np.ndarray
  errors: np.ndarray
  tokens: int
  token_losses: np.ndarray


class Measure(Protocol):
  """Scores documents with one fixed vector."""

  def __call__(
      self,
      split: str,
      indices: npt.ArrayLike,
      *,
      alphas: Sequence[float],
      betas: Sequence[float] = (),
      shortest: int = 1,
      top_k: Sequence[int] = (),
      report: Report = quiet,
  ) -> DocumentLosses:
    """Losses of the documents `indices` of 'train' or 'heldout', in order."""
    ...


class Subject(NamedTuple):
  """Everything about a model and its documents that a certificate needs.

  Attributes:
    size: Numbers of the vector, d.
    population: What the risk averages over, see `data.documents.Documents`.
    scorer: Maps a vector, float32 [d], to the function that scores documents
      with it.
    model: What certificate.json says of the model, as JSON types.
    seed: Decides which documents help to choose among several codes.
    has_base: Whether losses are compared with those of a base too.
    claims_tokens: Whether to claim something about the tokens in their
      contexts, which needs a number of tokens that was fixed beforehand.
  """

  size: int
  population: Mapping[str, Any]
  scorer: Callable[[np.ndarray], Measure]
  model: Mapping[str, Any]
  seed: int = 0
  has_base: bool = False
  claims_tokens: bool = False


def whole_rows(
    nll_bits_N: np.ndarray,
    num_tokens_N: np.ndarray,
    betas: Sequence[float],
    shortest: int,
    vocab_size: int,
    reference_bits_N: np.ndarray | None = None,
) -> np.ndarray:
  """Losses of documents that were smoothed as a whole, and over a reference.

  Args:
    nll_bits_N: The bits of each document, the sum over its tokens.
    num_tokens_N: Tokens of each.
    betas: Weights of what is mixed in.
    shortest: Documents of fewer tokens get the largest loss.
    vocab_size: V.
    reference_bits_N: The bits of each document under a reference.

  Returns:
    float64 [B, N] or, with a reference, [2 B, N]; see `bounds.claims`.

  Example:
    >>> whole_rows(np.array([8.0]), np.array([4]), [0.5], 1, 4).round(3)
    array([[2.]])
  """
  short_N = num_tokens_N < shortest
  rows = [
      np.where(
          short_N,
          bounds.document_range(beta, vocab_size, shortest).hi,
          bounds.smoothed_documents(
              nll_bits_N, num_tokens_N, beta, vocab_size
          ),
      )
      for beta in betas
  ]
  if reference_bits_N is not None:
    rows += [
        np.where(
            short_N,
            bounds.excess_limit(beta, shortest),
            bounds.excess_of_documents(
                nll_bits_N, reference_bits_N, num_tokens_N, beta
            ),
        )
        for beta in betas
    ]
  return np.reshape(rows, (len(rows), num_tokens_N.size))


def losses_of_tokens(
    nll_bits: Sequence[npt.ArrayLike],
    alphas: Sequence[float],
    vocab_size: int,
    betas: Sequence[float] = (),
    shortest: int = 1,
) -> DocumentLosses:
  """Mixes predictions with the uniform distribution and averages documents.

  Args:
    nll_bits: For each document the bits -log2 p of its tokens, [T] and T >= 1;
      0 or more, inf allowed. Documents may have different lengths.
    alphas: Weights of the uniform distribution, each in (0, 1).
    vocab_size: Tokens that there are, V.
    betas: Weights of the uniform distribution over whole documents.
    shortest: Documents of fewer tokens get the largest loss of a whole one.

  Returns:
    The mean loss of each document, in bits per token, and no errors.

  Raises:
    ValueError: The bits of a document are not of that form.

  Example:
    >>> found = losses_of_tokens([[1.0, 3.0], [2.0]], [1e-9], 4)
    >>> found.losses.round(6), found.tokens
    (array([[2., 2.]]), 3)
  """
  rows = [np.asarray(row, np.float64) for row in nll_bits]
  for number, row in enumerate(rows):
    # Probabilities in float32 may exceed 1 by rounding.
    if row.ndim != 1 or not row.size or not (row >= -1e-5).all():
      raise ValueError(
          'nll_bits must give each document the bits of its tokens, a vector'
          f' of at least one number >= 0, got {row!r} for the document at place'
          f' {number} of those scored.'
      )
  counts_N = np.array([row.size for row in rows])
  starts_N = np.cumsum(counts_N) - counts_N
  logp = -np.concatenate(rows).clip(0.0) * np.log(2)
  sums_AxN = np.stack([
      np.add.reduceat(bounds.smoothed_nll_bits(logp, alpha, vocab_size),
                      starts_N)
      for alpha in alphas
  ])
  tokens = int(counts_N.sum())
  whole_BxN = whole_rows(
      np.add.reduceat(-logp, starts_N) / np.log(2),
      counts_N, betas, shortest, vocab_size,
  )
  return DocumentLosses(
      np.concatenate([sums_AxN / counts_N, whole_BxN]),
      np.zeros((0, len(rows))),
      tokens,
      sums_AxN.sum(axis=1) / tokens,
  )
