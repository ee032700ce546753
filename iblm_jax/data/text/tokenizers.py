"""Text to token ids and back."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from iblm_jax.data.text import gguf_header, gguf_tokenizer, published

# Names of the special tokens in published vocabularies, best first. Files of
# the `tokenizers` package hold them without saying which is which.
_BOS_NAMES = (
    '<s>', '<bos>', '<|begin_of_text|>', '[BOS]', '<|endoftext|>', '[CLS]',
)
_EOS_NAMES = (
    '</s>', '<eos>', '<|end_of_text|>', '[EOS]', '<|endoftext|>', '[SEP]',
)
_PAD_NAMES = ('<pad>', '[PAD]', '<|pad|>', '<|padding|>')
_MOST_IDS = 2**31  # they are int32
BUILT_IN = ('bytes', 'digits')
# A letter of Old Persian: few vocabularies have it, and no normaliser drops it.
_RARE = '\U000103a0'


class Tokenizer(Protocol):
  """What the rest of the package needs of a tokenizer."""

  @property
  def vocab_size(self) -> int:
    """Ids are in 0..vocab_size-1."""

  @property
  def bos_id(self) -> int:
    """Id of the token that begins a document."""

  @property
  def eos_id(self) -> int:
    """Id of the token that ends a document."""

  @property
  def pad_id(self) -> int:
    """Id that fills up rows; masks say where, so it may be the one of eos."""

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of a text, int32 [n], without special tokens."""

  def decode(self, ids: npt.ArrayLike) -> str:
    """Returns the text of ids [n]; special tokens are left out."""


def _checked_ids(ids: npt.ArrayLike, vocab_size: int) -> np.ndarray:
  """`ids` as an int64 array of shape [n], each in 0..vocab_size-1."""
  array = np.asarray(ids)
  if array.size == 0:
    return np.zeros(0, np.int64)
  integers = array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
  if not integers or array.min() < 0 or array.max() >= vocab_size:
    raise ValueError(
        'ids must be a sequence of integers between 0 and'
        f' {vocab_size - 1}, got {ids!r}.'
    )
  return array.astype(np.int64)


class DigitTokenizer:
  """One token per character of `12x3=36`: pad, bos, eos, x, = and ten digits.

  >>> tokenizer = DigitTokenizer()
  >>> tokenizer.encode('12x3=36').tolist()
  [6, 7, 3, 8, 4, 8, 11]
  >>> tokenizer.decode([1, 6, 7, 3, 8, 4, 8, 11, 2, 0])
  '12x3=36'
  """

  pad_id = 0
  bos_id = 1
  eos_id = 2
  times_id = 3
  equals_id = 4
  zero_id = 5  # The digit d has the id zero_id + d.
  vocab_size = 15

  _CHARACTERS = 'x=0123456789'

  def encode(self, text: str) -> np.ndarray:
    """Returns ids; ValueError for a character that is not in `x=0..9`."""
    ids = [self._CHARACTERS.find(character) for character in text]
    if -1 in ids:
      raise ValueError(
          f'text must consist of {self._CHARACTERS!r}, got {text!r}.'
      )
    return np.asarray(ids, np.int32) + np.int32(self.times_id)

  def decode(self, ids: npt.ArrayLike) -> str:
    """Returns the text; ValueError for an id outside of 0..14."""
    ids = _checked_ids(ids, self.vocab_size)
    kept = ids[ids >= self.times_id] - self.times_id
    return ''.join(self._CHARACTERS[i] for i in kept)


class ByteTokenizer:
  """UTF-8 bytes as they are, then bos 256, eos 257, pad 258.

  >>> tokenizer = ByteTokenizer()
  >>> tokenizer.encode('né').tolist()
  [110, 195, 169]
  >>> tokenizer.decode([256, 110, 195, 169, 257])
  'né'
  """

  bos_id = 256
  eos_id = 257
  pad_id = 258
  vocab_size = 259

  def encode(self, text: str) -> np.ndarray:
    """Returns bytes; ValueError for a text that UTF-8 cannot hold."""
    try:
      data = text.encode('utf-8')
    except UnicodeEncodeError as e:
      raise ValueError(
          f'text must be valid Unicode, got {text[e.start]!r} at character'
          f' {e.start}.'
      ) from None
    return np.frombuffer(data, np.uint8).astype(np.int32)

  def decode(self, ids: npt.ArrayLike) -> str:
    """Returns the text; bytes that are not UTF-8 become U+FFFD."""
    return self.decode_bytes(ids).decode('utf-8', errors='replace')

  def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
    """Returns the bytes; ValueError for an id outside of 0..258."""
    ids = _checked_ids(ids, self.vocab_size)
    return ids[ids < 256].astype(np.uint8).tobytes()


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
  try:
    yield
  except Exception as e:  # The packages raise errors of many kinds.
    raise ValueError(f'tokenizer {path!r} cannot be read: {e}.') from e


class _HubTokenizer:
  """A `tokenizer.json` of the `tokenizers` package, without its saved state."""

  def __init__(self, path: str, package: Any, loaded: Any = None):
    self._path = path
    with _reading(path):
      self._tokenizer = loaded or package.Tokenizer.from_file(path)
    # Whoever saved the file may have left these on: they cut documents, fill
    # them up, and give a text other ids each time.
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self._model = self._tokenizer.model
    if getattr(self._model, 'dropout', None):
      self._model.dropout = None
    # The letters of a special token within a text are text.
    self._tokenizer.encode_special_tokens = True
    vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
    # Ids may have gaps, so this can exceed the number of entries.
    self.vocab_size = max(vocabulary.values(), default=-1) + 1
    if self.vocab_size > _MOST_IDS:
      raise ValueError(
          f'tokenizer {path!r} must have ids below {_MOST_IDS}, got'
          f' {self.vocab_size - 1}.'
      )
    added = self._tokenizer.get_added_tokens_decoder()
    special = {t.content: i for i, t in added.items() if t.special}

    def find(names, what):
      for name in names:
        if name in special:
          return special[name]
      raise ValueError(
          f'tokenizer {path!r} must hold {what} token, one of {names}, among'
          f' its special tokens, which are {sorted(special)!r:.200}.'
      )

    self.bos_id = find(_BOS_NAMES, 'a begin-of-document')
    self.eos_id = find(_EOS_NAMES, 'an end-of-document')
    has_pad = any(name in special for name in _PAD_NAMES)
    self.pad_id = find(_PAD_NAMES, 'a padding') if has_pad else self.eos_id
    # Whether the model was made to read that token before a text.
    self.adds_bos = self.bos_id in self._tokenizer.encode('').ids[:1]
    # Models may find special tokens in a text even so: a whole word, a piece.
    unknown = self._pieces(_RARE) or ()
    self._special = {
        i: content for content, i in special.items() if i not in unknown
    }
    # A model of byte pairs without an unknown token leaves characters out.
    self._may_lose = (
        isinstance(self._model, package.models.BPE)
        and self._model.unk_token is None
        and not self._knows_all_bytes(package, vocabulary)
    )
    # What is none of the pieces that the model is given.
    others = [re.escape(t.content) for t in added.values() if not t.special]
    self._others = re.compile('|'.join(others) or r'(?!)')

  def to_json(self) -> str:
    """Returns the contents of a `tokenizer.json`."""
    return self._tokenizer.to_str()

  def encode(self, text: str) -> np.ndarray:
    if self._may_lose:
      self._check_known(text)
    try:
      ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as e:  # The package has no other type for it.
      self._check_known(text)
      raise ValueError(
          f'tokenizer {self._path!r} cannot encode {text!r:.80}: {e}.'
      ) from e
    if not self._special.keys().isdisjoint(ids):
      ids = [known for i in ids for known in self._as_text(i)]
    return np.asarray(ids, np.int32)

  def decode(self, ids: npt.ArrayLike) -> str:
    array = _checked_ids(ids, self.vocab_size)
    return self._tokenizer.decode(array.tolist(), skip_special_tokens=True)

  def _as_text(self, i: int) -> list[int]:
    """The id, or those of the characters of a special token."""
    if i not in self._special:
      return [i]
    found = [self._known(character) for character in self._special[i]]
    return [i for ids in found for i in ids]

  def _known(self, piece: str) -> list[int]:
    ids = self._pieces(piece)
    if ids is None:
      raise ValueError(
          f'tokenizer {self._path!r} has neither a token for all of'
          f' {piece!r:.80} nor an unknown token, which the text needs.'
      )
    return ids

  def _pieces(self, piece: str) -> list[int] | None:
    """What the model makes of a piece of text; None if a part gets lost."""
    try:
      tokens = self._model.tokenize(piece)
    except Exception:  # The package has no other type for it.
      return None
    # Offsets count the bytes of what was kept.
    whole = tokens and tokens[-1].offsets[1] >= len(piece.encode())
    return [token.id for token in tokens] if whole else None

  def _check_known(self, text: str) -> None:
    """Raises ValueError if the model cannot represent a piece of the text."""
    normalizer = self._tokenizer.normalizer
    cut = self._tokenizer.pre_tokenizer
    for part in self._others.split(text):
      part = normalizer.normalize_str(part) if normalizer else part
      pieces = {p for p, _ in cut.pre_tokenize_str(part)} if cut else {part}
      for piece in sorted(pieces - {''}):
        self._known(piece)

  def _knows_all_bytes(self, package: Any, vocabulary: dict[str, int]) -> bool:
    """Whether any text is made of bytes that all have a token."""
    if self._model.byte_fallback:
      return all(f'<0x{byte:02X}>' in vocabulary for byte in range(256))
    letters = package.pre_tokenizers.ByteLevel.alphabet()
    found = self._tokenizer.encode(_RARE, add_special_tokens=False).ids
    return len(found) > 0 and vocabulary.keys() >= set(letters)


class _PieceTokenizer:
  """A SentencePiece `.model`."""

  def __init__(self, path: str, package: Any):
    with _reading(path):
      self._processor = package.SentencePieceProcessor(model_file=path)
    self.vocab_size = self._processor.vocab_size()
    self.bos_id = self._processor.bos_id()
    self.eos_id = self._processor.eos_id()
    if self.bos_id < 0 or self.eos_id < 0:
      raise ValueError(
          f'tokenizer {path!r} must have bos and eos tokens, got ids'
          f' {self.bos_id} and {self.eos_id}.'
      )
    pad_id = self._processor.pad_id()
    self.pad_id = pad_id if pad_id >= 0 else self.eos_id
    self._special = (self.bos_id, self.eos_id, self.pad_id)

  def encode(self, text: str) -> np.ndarray:
    ids = self._processor.encode(text, add_bos=False, add_eos=False)
    return np.asarray(ids, np.int32)

  def decode(self, ids: npt.ArrayLike) -> str:
    array = _checked_ids(ids, self.vocab_size)
    kept = array[~np.isin(array, self._special)]
    return self._processor.decode(kept.tolist())


def of_object(tokenizer: Any, path: str) -> Tokenizer:
  """Wraps a `tokenizers.Tokenizer` as `load_tokenizer` does one of a file.

  Args:
    tokenizer: The object of the package; its settings are changed.
    path: Where it comes from, for messages.

  Raises:
    ValueError: It has no begin or end of a document.
  """
  import tokenizers

  return _HubTokenizer(path, tokenizers, tokenizer)


def load_tokenizer(spec: str) -> Tokenizer:
  """Returns a tokenizer by its name or from a file.

  Args:
    spec: 'bytes', 'digits', the path of a `tokenizer.json` (package
      `tokenizers`), of a folder with one, of a SentencePiece `.model` or of a
      `.gguf`, or 'package:NAME' as in `published.located`; files need the extra
      `iblm-jax[hf]`. Begin, end and padding of a `tokenizer.json` are those of
      its special tokens with the usual names; without one for padding, eos is
      used for it. Its saved truncation, padding and dropout are switched off,
      and special tokens that a text spells out stay text.

  Raises:
    ValueError: `spec` is none of these, the file is missing or damaged or
      lacks bos or eos, or the package that reads it is not installed. Encoding
      raises it for a text that the vocabulary cannot represent.

  >>> load_tokenizer('bytes').vocab_size
  259
  """
  if spec == 'bytes':
    return ByteTokenizer()
  if spec == 'digits':
    return DigitTokenizer()
  path = published.tokenizer_file(spec) if isinstance(spec, str) else ''
  suffix = os.path.splitext(path)[1]
  if os.path.isabs(path) and not os.path.exists(path):
    raise ValueError(f'tokenizer must be an existing file, got {path!r}.')
  if suffix not in ('.json', '.model', '.gguf'):
    raise ValueError(
        "tokenizer must be 'bytes', 'digits', the path of a .json, .model or"
        ' .gguf file or of a folder with tokenizer.json, or package:NAME, got'
        f' {spec!r}.'
    )
  if not os.path.isfile(path):
    raise ValueError(f'tokenizer must be an existing file, got {path!r}.')
  try:
    if suffix == '.gguf':
      _, values, _ = gguf_header.of_file(path)
      return of_object(gguf_tokenizer.build(path, values.get), path)
    if suffix == '.json':
      import tokenizers

      return _HubTokenizer(path, tokenizers)
    import sentencepiece

    return _PieceTokenizer(path, sentencepiece)
  except ImportError as e:
    raise ValueError(
        f'tokenizer {spec!r} needs a package that is not installed: run'
        f" `pip install 'iblm-jax[hf]'` ({e})."
    ) from e


def saved(spec: str, loaded: Tokenizer) -> tuple[str, bytes] | None:
  """Returns the file from which a tokenizer can be loaded anywhere.

  Args:
    spec: As in `load_tokenizer`. That in a GGUF becomes a `tokenizer.json`.
    loaded: What `load_tokenizer` returned for it.

  Returns:
    A name, 'tokenizer.json' or 'tokenizer.model', and contents; None for the
    tokenizers that need no file.

  >>> saved('bytes', ByteTokenizer()) is None
  True
  """
  if spec in BUILT_IN:
    return None
  path = published.tokenizer_file(spec)
  suffix = os.path.splitext(path)[1]
  if suffix != '.gguf':
    with open(path, 'rb') as file:
      return f'tokenizer{suffix}', file.read()
  assert isinstance(loaded, _HubTokenizer)
  return 'tokenizer.json', loaded.to_json().encode()
