"""Kinds of data: one record each, which everything else is found through.

A new kind is one file: a frozen dataclass of options, a source, and a call of
`register`. From then on configs name it, and every program reads it.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from iblm_jax.data import _checks, batches, documents
from iblm_jax.data.text import tokenizers


class MakeSources(Protocol):
  """Makes the sources of some splits from the options of a kind."""

  def __call__(
      self,
      options: Any,
      splits: tuple[str, ...],
      *,
      batch_size: int,
      seed: int,
  ) -> Mapping[str, batches.Source]:
    """Returns a source for each of `splits`, by name."""


def _train_and_heldout(options: Any) -> tuple[str, ...]:
  del options
  return 'train', 'heldout'


@dataclasses.dataclass(frozen=True)
class Kind:
  """What the library knows of a kind of data.

  All functions take the options of the kind first.

  Attributes:
    name: What configs call it; the group of its options has the same name.
    options: A frozen dataclass.
    make_sources: Returns the sources of some splits, see `MakeSources`. May be
      left out where there are documents, of which rows are drawn.
    make_documents: Returns the units that a certificate is about, see
      `documents.Documents`; None where the data have none.
    split_names: Returns the names of the splits: 'train', then the evaluation
      sets. It looks at no file. By default there is one set, 'heldout'.
    row_length: Returns the tokens of a training row. It looks at no file. By
      default they are the option `length`.
    make_tokenizer: Returns the tokenizer between tokens and text; None where
      the tokens are no text.
    default: Options of a config that gives none; None if they must be given.
    identity: Returns what the data are, JSON by name, such as
      `identity.of_files`: a run resumes only on what it began with. None where
      the options alone say it.
    tokenizer_file: Returns what `load_tokenizer` reads the tokenizer from; None
      where it reads no file.

  Raises:
    ValueError: There are neither sources nor documents, or the name is none.
  """

  name: str
  options: type
  make_sources: MakeSources | None = None
  make_documents: Callable[[Any], documents.Documents] | None = None
  split_names: Callable[[Any], tuple[str, ...]] = _train_and_heldout
  row_length: Callable[[Any], int] = operator.attrgetter('length')
  make_tokenizer: Callable[[Any], tokenizers.Tokenizer] | None = None
  default: Any = None
  identity: Callable[[Any], Mapping[str, Any]] | None = None
  tokenizer_file: Callable[[Any], str | None] | None = None

  def __post_init__(self):
    if not isinstance(self.name, str) or not self.name.isidentifier():
      raise ValueError(f'name must be an identifier, got {self.name!r}.')
    if self.make_sources is None and self.make_documents is None:
      raise ValueError(
          'make_sources or make_documents must be given for the kind'
          f' {self.name!r}.'
      )


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
  """Makes a kind known to configs and programs, and returns it.

  Raises:
    ValueError: Another kind has the name.

  >>> from iblm_jax import data
  >>> 'multiplication' in names()
  True
  """
  if _KINDS.setdefault(kind.name, kind) != kind:
    raise ValueError(f'name must be new, but {kind.name!r} is a kind already.')
  return kind


def names(has: str | None = None) -> tuple[str, ...]:
  """Returns the registered names, or those whose record has a given field.

  >>> from iblm_jax import data
  >>> names('make_tokenizer')
  ('multiplication', 'shards', 'text')
  """
  return tuple(
      name for name, kind in _KINDS.items()
      if has is None or getattr(kind, has) is not None
  )


def get(name: str) -> Kind:
  """Returns the record of a kind; ValueError for an unknown name."""
  return _KINDS[_checks.check_choice('kind', name, names())]
