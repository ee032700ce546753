"""A list of words as a finite population of tiny documents.

The words of a list are distinct, so they are no i.i.d. draws: a bound is about
the mean over the whole list, and the training set is a uniform random subset of
it, without replacement.

Tokens are 0 for the end mark, which stands before and after each word, and
1..26 for a-z.
"""

import dataclasses

import numpy as np

from iblm_jax import fields
from iblm_jax.data import _checks, identity, kinds, stored
from iblm_jax.data.text import files as text
from iblm_jax.data.text import folders

VOCAB_SIZE = 27
END_ID = 0

_NEWLINE = ord('\n')


@dataclasses.dataclass(frozen=True)
class WordsConfig:
  """Options of a list of words.

  Attributes:
    path: A `.txt` or `.txt.gz` with one word of a-z a line. Blank lines and
      repeated words are left out.
    num_train: Words of the training set, m, at least 1 and fewer than there
      are.
    seed: Seed of the choice of the training set, 0..2**63-1.
    length: Tokens of a row, at least the longest word and its end mark,
      1..4096.
    shuffle_window: Letters are permuted within windows of so many, anew in
      each word and always alike, as a control; 0 leaves them as they are.

  Raises:
    ValueError: An option is out of its range.

  >>> WordsConfig('words.txt').num_train
  350000
  """

  path: str
  num_train: int = fields.field(350_000, low=1)
  seed: int = fields.field(0, low=0, high=2**63 - 1)
  length: int = fields.field(32, low=1, high=4096)
  shuffle_window: int = fields.field(0, low=0)

  def __post_init__(self):
    _checks.check_path('path', self.path, ('.txt', '.txt.gz'))
    fields.check(self)


def load_words(config: WordsConfig) -> stored.StoredDocuments:
  """Reads a list of words; see `documents.Documents`.

  Raises:
    ValueError: The file is missing or damaged, has a line with another
      character or a word that is too long, or holds too few words.
  """
  path = folders.find_file(config.path)
  data = b''.join(chunk.data for chunk in text.read_chunks(path, 'line'))
  words = list(dict.fromkeys(data.replace(b'\r\n', b'\n').split(b'\n')))
  words = [word for word in words if word]
  if config.num_train >= len(words):
    raise ValueError(
        f'num_train must be below the number of words in {config.path!r},'
        f' {len(words)}, got {config.num_train}.'
    )
  byte_N = np.frombuffer(b'\n'.join([b'', *words, b'']), np.uint8)
  wrong = (byte_N != _NEWLINE) & ((byte_N < ord('a')) | (byte_N > ord('z')))
  lengths = np.diff(np.flatnonzero(byte_N == _NEWLINE))
  if wrong.any():
    number = int((byte_N[: np.argmax(wrong)] == _NEWLINE).sum()) - 1
    raise ValueError(
        f'file {config.path!r} must hold words of a-z, got {words[number]!r}.'
    )
  if lengths.max() > config.length:
    longest = words[int(lengths.argmax())].decode()
    raise ValueError(
        f'length must be at least {lengths.max()} for {longest!r} and its end'
        f' mark, got {config.length}.'
    )
  return stored.StoredDocuments(
      np.where(byte_N == _NEWLINE, END_ID, byte_N - 96).astype(np.uint16),
      lengths,
      np.ones_like(lengths),
      vocab_size=VOCAB_SIZE,
      end_id=END_ID,
      num_train=config.num_train,
      seed=config.seed,
      context=config.length,
      shuffle_window=config.shuffle_window,
      unit='word',
      files={path.name: text.file_hash(path)},
  )


kinds.register(
    kinds.Kind(
        'words',
        WordsConfig,
        make_documents=load_words,
        identity=lambda options: identity.of_files([options.path]),
    )
)
