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


def make_subject(
    nll_bits: NllBits,
    size: int,
    documents: Sequence[Any],
    heldout: Sequence[Any],
    *,
    vocab_size: int,
    population: Population,
    cfg: options.CertificateConfig,
    batch_size: int,
    hash_document: Callable[[Any], bytes] | None,
) -> scoring.Subject:
  """Puts vector, loss and documents together; see `vectors.certify`."""
  counts = len(documents), len(heldout)
  if not counts[0]:
    raise ValueError('documents must hold at least one, got none.')
  if population.size is not None and sum(counts) > population.size:
    raise ValueError(
        f'population.size must be at least the number of documents,'
        f' {sum(counts)} held-out ones included, got {population.size}.'
    )
  _checks.integer('vocab_size', vocab_size, 2)
  _checks.integer('batch_size', batch_size)

  checked = False

  def measure(
      w_d, split, indices, *, alphas, betas=(), shortest=1, top_k=(),
      report=scoring.quiet,
  ):
    nonlocal checked
    del top_k, report
    source = documents if split == 'train' else heldout
    unique_U, place_N = np.unique(indices, return_inverse=True)
    bits = []
    for start in range(0, unique_U.size, batch_size):
      part = unique_U[start:start + batch_size].tolist()
      some = [source[i] for i in part]
      found = list(nll_bits(w_d.copy(), some))
      if len(found) != len(part):
        raise ValueError(
            f'nll_bits must return an array for each of {len(part)} documents,'
            f' got {len(found)}.'
        )
      bits += found
      if not checked:
        _check_same(found, list(nll_bits(w_d.copy(), some)))
        checked = True
    losses = scoring.losses_of_tokens(
        bits, alphas, vocab_size, betas, shortest
    )
    return losses._replace(
        losses=losses.losses[:, place_N], errors=losses.errors[:, place_N]
    )

  stated = {
      **dataclasses.asdict(population),
      'num_train': counts[0],
      'num_heldout': counts[1],
      'vocab_size': vocab_size,
      'loss': 'mean over all its tokens',
      'hash': _hash_of(documents, heldout, hash_document or _bytes_of),
      'files': {},
  }
  return scoring.Subject(
      size,
      stated,
      lambda w_d: functools.partial(measure, w_d),
      {'certificate': dataclasses.asdict(cfg), 'parameters': size},
  )


def _check_same(first, second) -> None:
  """ValueError unless a loss says the same twice, as far as verifying needs."""
  for place, both in enumerate(zip(first, second, strict=True)):
    a, b = (np.asarray(bits, np.float64) for bits in both)
    # What is no loss is refused where it is averaged.
    if a.shape != b.shape or not np.allclose(
        a, b, rtol=0, atol=scoring.TOLERANCE, equal_nan=True
    ):
      raise ValueError(
          'nll_bits must be deterministic, but asked twice for the document at'
          f' place {place} of those scored it returned {a} and then {b}.'
      )


def _hash_of(documents, heldout, encode) -> str:
  digest = hashlib.sha256()
  for split in (documents, heldout):
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
