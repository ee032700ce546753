"""Documents and a loss of one's own, as a certificate needs them."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from iblm_jax import fields
from iblm_jax.bounds import _checks, options
from iblm_jax.certification import scoring

# (float32 vector [d], documents) -> for each document the bits of its tokens.
NllBits = Callable[[np.ndarray, list[Any]], Sequence[npt.ArrayLike]]

@dataclasses.dataclass(frozen=True)
class Population:
  """What a certified risk averages over, declared by whoever certifies.

  A bound is a statement about draws: the training documents must have been
  drawn in the way that is declared here, and no function can check that.

  Attributes:
    sampling: 'iid', for documents drawn independently from one distribution
      (or from a list, with replacement); 'without replacement', for documents
      that are a uniform random part of a list, in random order.
    size: Number of documents of that list, N, training ones included; None for
      'iid'.
    average: What the risk is the mean of, in words; '' says it by `sampling`.
    unit: What one document is, in words.

  Raises:
    ValueError: A value is out of its range, or `size` does not go with
      `sampling`.

  Example:
    >>> Population('without replacement', size=350_000, unit='word').average
    'mean over all 350000 documents of the list, those of training included'
  """

  sampling: Literal['iid', 'without replacement'] = 'iid'
  size: int | None = fields.field(None, low=1)
  average: str = ''
  unit: str = 'document'

  def __post_init__(self):
    fields.check(self)
    finite = self.sampling == 'without replacement'
    if finite != (self.size is not None):
      raise ValueError(
          "size must be the number of documents of the list for sampling='"
          "without replacement' and None for 'iid', got"
          f' size={self.size!r} with sampling={self.sampling!r}.'
      )
    if not self.average:
      said = (
          f'mean over all {self.size} documents of the list, those of training'
          ' included'
          if finite
          else 'expectation over a fresh document of the same distribution'
      )
      object.__setattr__(self, 'average', said)


@dataclasses.dataclass(frozen=True, eq=False)
class VectorSubject:
  """A vector, a loss and documents as a `scoring.Subject`; see `certify`."""

  nll_bits: NllBits
  size: int
  documents: Sequence[Any]
  heldout: Sequence[Any]
  vocab_size: int
  drawn_from: Population
  cfg: options.CertificateConfig
  batch_size: int = 256
  hash_document: Callable[[Any], bytes] | None = None

  seed = 0
  # Azuma's bound is not proved for a number of tokens that depends on the data.
  claims_tokens = False

  def __post_init__(self):
    count, listed = len(self.documents), self.drawn_from.size
    if not count:
      raise ValueError('documents must hold at least one, got none.')
    if listed is not None and count + len(self.heldout) > listed:
      raise ValueError(
          'population.size must be at least the number of documents,'
          f' {count + len(self.heldout)} held-out ones included, got {listed}.'
      )
    _checks.integer('vocab_size', self.vocab_size, 2)
    _checks.integer('batch_size', self.batch_size)

  @functools.cached_property
  def population(self) -> Mapping[str, Any]:
    """What the risk averages over, see `data.documents.Documents`."""
    stated = dataclasses.asdict(self.drawn_from)
    return {
        **stated,
        'num_train': len(self.documents),
        'num_heldout': len(self.heldout),
        'vocab_size': self.vocab_size,
        'loss': 'mean over all its tokens',
        'hash': self._hash(),
        'files': {},
    }

  def scorer(self, w_d: np.ndarray) -> scoring.Measure:
    """The function that scores documents with the vector `w_d`."""

    def measure(split, indices, *, alphas, top_k=(), report=scoring.quiet):
      del top_k, report
      source = self.documents if split == 'train' else self.heldout
      unique_U, place_N = np.unique(indices, return_inverse=True)
      bits = []
      for start in range(0, unique_U.size, self.batch_size):
        part = unique_U[start:start + self.batch_size].tolist()
        found = list(self.nll_bits(w_d.copy(), [source[i] for i in part]))
        if len(found) != len(part):
          raise ValueError(
              f'nll_bits must return an array for each of {len(part)}'
              f' documents, got {len(found)}.'
          )
        bits += found
      found = scoring.losses_of_tokens(bits, alphas, self.vocab_size)
      return found._replace(
          losses=found.losses[:, place_N], errors=found.errors[:, place_N]
      )

    return measure

  def describe(self) -> dict[str, Any]:
    """What `certificate.json` says of the model, as JSON types."""
    return {
        'certificate': dataclasses.asdict(self.cfg), 'parameters': self.size
    }

  def _hash(self) -> str:
    digest = hashlib.sha256()
    encode = self.hash_document or _bytes_of
    for split in (self.documents, self.heldout):
      digest.update(f'{len(split)} documents'.encode())
      for document in split:
        digest.update(hashlib.sha256(encode(document)).digest())
    return digest.hexdigest()


def _bytes_of(document: Any) -> bytes:
  """Bytes that tell a document from others."""
  if isinstance(document, bytes):
    return b'b' + document
  if isinstance(document, str):
    return b's' + document.encode()
  if isinstance(document, Mapping):
    document = list(document.items())
  if isinstance(document, list | tuple) and not _is_numeric(document):
    parts = [hashlib.sha256(_bytes_of(part)).digest() for part in document]
    return b'l' + b''.join(parts)
  array = np.asarray(document)
  if array.dtype.kind not in 'biuf':
    raise ValueError(
        'documents must be made of strings, bytes, numbers and arrays, or'
        ' hash_document must be given, got a document with'
        f' {type(document).__name__}.'
    )
  wide = array.astype('<f8' if array.dtype.kind == 'f' else '<i8')
  return f'a{wide.dtype.str}{wide.shape}'.encode() + wide.tobytes()


def _is_numeric(values: Sequence[Any]) -> bool:
  return bool(values) and all(
      isinstance(x, int | float | np.number) for x in values
  )
