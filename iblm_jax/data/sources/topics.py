"""Documents of a known distribution, made when they are read: topics and words.

A lexicon of 200 distinct words of 1 to 3 syllables, each a consonant and a
vowel; four topics, each its own order of the words. A document draws a topic,
then words, the word of rank r with probability proportional to 1 / r, and is
cut after 64 characters (a-z and the space after each word). Document i is a
function of the seed and of i, so the documents are i.i.d. for what a model can
tell, there may be any number of them, and the entropy is known.

Tokens are 0 for the space and 1..26 for a-z. A document is read after a space.
It has no end mark: all are of one length.
"""

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from iblm_jax import fields
from iblm_jax.data import batches, documents, hashing, kinds, windows

NUM_WORDS = 200
NUM_TOPICS = 4
VOCAB_SIZE = 27
SPACE_ID = 0

# All but the letters with no sound of their own: c, q, x and y.
_CONSONANTS = np.frombuffer(b'bdfghjklmnprstvwz', np.uint8) - 96
_VOWELS = np.frombuffer(b'aeiou', np.uint8) - 96
_MAX_SYLLABLES = 3
# Probabilities are multiples of 2**-16, so that a quarter of a 64-bit draw
# gives a word, and they are known exactly.
_RESOLUTION = 2**16
# Separate the draws of one seed.
_LEXICON, _ORDER, _DOCUMENT, _SHUFFLE = 0x70, 0x71, 0x72, 0x73
# Documents made at once, few enough for the arrays to stay in the cache.
_CHUNK = 2048


@dataclasses.dataclass(frozen=True)
class TopicsConfig:
  """Options of the source.

  Attributes:
    num_train: Documents of the training set, m, 1..2**40.
    num_heldout: Documents held out, those after the training set, 0..2**40.
    length: Characters of a document, 1..4096.
    seed: Seed of lexicon, topics and documents, 0..2**63-1.
    kind: 'topics', or 'uniform' for i.i.d. uniform characters, a control that
      nothing can be learnt from.
    shuffle_window: Characters are permuted within windows of so many, anew in
      each document and always alike, as a control; 0 leaves them as they are.

  Raises:
    ValueError: An option is out of its range.

  >>> TopicsConfig().num_train
  1000000
  """

  num_train: int = fields.field(1_000_000, low=1, high=2**40)
  num_heldout: int = fields.field(100_000, low=0, high=2**40)
  length: int = fields.field(64, low=1, high=4096)
  seed: int = fields.field(0, low=0, high=2**63 - 1)
  kind: str = fields.field('topics', choices=('topics', 'uniform'))
  shuffle_window: int = fields.field(0, low=0)

  def __post_init__(self):
    fields.check(self)


class TopicDocuments:
  """Documents of topics and words; see `documents.Documents`.

  >>> source = TopicDocuments(TopicsConfig(length=24))
  >>> source.text(source.characters([0]))
  ['mo kava raso we raso kav']
  """

  vocab_size = VOCAB_SIZE

  def __init__(self, config: TopicsConfig | None = None):
    self.config = config = config or TopicsConfig()
    self.num_train = config.num_train
    self.num_heldout = config.num_heldout
    self.max_length = config.length
    self._letters_Wx7 = _lexicon(hashing.fold(config.seed, _LEXICON))
    # The space after a word belongs to it; 255 fills up.
    self._size_W = (self._letters_Wx7 < VOCAB_SIZE).sum(axis=1)
    order_key = hashing.fold(config.seed, _ORDER)
    order_ZxW = np.stack([
        hashing.permutation(hashing.fold(order_key, z), NUM_WORDS)
        for z in range(NUM_TOPICS)
    ])
    count_W = _zipf_counts()
    self._word_ZxN = np.repeat(order_ZxW, count_W, axis=1)
    probability_ZxW = np.zeros(order_ZxW.shape)
    np.put_along_axis(
        probability_ZxW, order_ZxW, count_W[None] / _RESOLUTION, axis=1
    )
    self._probability_ZxW = probability_ZxW

  @functools.cached_property
  def population(self) -> dict[str, Any]:
    """See `documents.Documents`."""
    options = dataclasses.asdict(self.config)
    found = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    # All documents cannot be hashed; these tell one generator from another.
    sample = min(1000, self.num_train)
    found.update(self.characters(np.arange(sample)).astype('<u2').tobytes())
    return {
        'average': 'expectation over a fresh document of the source',
        'unit': f'document of {self.max_length} characters',
        'sampling': 'iid',
        'size': None,
        'num_train': self.num_train,
        'num_heldout': self.num_heldout,
        'vocab_size': self.vocab_size,
        'loss': 'mean over all its characters',
        'unigram': self.unigram_entropy(),
        'hash': found.hexdigest(),
        'files': {},
    }

  def rows(self, split: str, indices: npt.ArrayLike) -> documents.Rows:
    """See `documents.Documents`; ValueError for an index out of range."""
    index_n = documents.check_indices(self, split, indices)
    offset = 0 if split == 'train' else self.num_train
    return self._whole(offset + index_n)

  def draw(self, keys: np.ndarray) -> documents.Rows:
    """See `documents.Documents`."""
    return self._whole(hashing.below(hashing.fold(keys, 0), self.num_train))

  def read(
      self, rows: documents.Rows, length: int | None = None
  ) -> batches.Batch:
    """See `documents.Documents`; ValueError if a row is longer."""

    def lookup(document_R, position_RxL):
      # Position 0 is the space before the document.
      sequence_RxL = np.full(
          (document_R.size, self.max_length + 1), SPACE_ID, np.uint8
      )
      sequence_RxL[:, 1:] = self.characters(document_R)
      return np.take_along_axis(sequence_RxL, position_RxL, axis=1)

    length = self.max_length if length is None else length
    return documents.read_rows(rows, length, lookup, SPACE_ID)

  def characters(self, numbers: npt.ArrayLike) -> np.ndarray:
    """Makes the characters of documents, tokens as uint8 [n, length].

    The `numbers` [n], at least 0, of those held out follow those of the
    training set.
    """
    number_n = np.asarray(numbers, np.int64)
    found = np.zeros((number_n.size, self.max_length), np.uint8)
    for begin in range(0, number_n.size, _CHUNK):
      part = slice(begin, begin + _CHUNK)
      found[part] = self._make(number_n[part])
    return found

  def text(self, characters: np.ndarray) -> list[str]:
    """Returns documents as strings, from their tokens [n, length]."""
    letters = np.where(characters == SPACE_ID, ord(' '), characters + 96)
    return [bytes(row).decode() for row in letters.astype(np.uint8)]

  def unigram_entropy(self) -> float:
    """Returns the exact entropy of a character at a random place, in bits.

    No model that ignores the context has a smaller expected loss.
    """
    if self.config.kind == 'uniform':
      return math.log2(VOCAB_SIZE)
    length, longest = self.max_length, self._letters_Wx7.shape[1]
    frequency_V = np.zeros(VOCAB_SIZE)
    for probability_W in self._probability_ZxW:
      # Probability that a word begins at t, from those it can follow.
      size_S = np.bincount(self._size_W, probability_W, longest + 1)
      begins_t = np.zeros(length)
      for t in range(length):
        begins_t[t] = (t == 0) + sum(
            begins_t[t - s] * size_S[s] for s in range(1, min(t, longest) + 1)
        )
      for j in range(longest):
        there_W = j < self._size_W
        frequency_V += begins_t[: max(length - j, 0)].sum() * np.bincount(
            self._letters_Wx7[there_W, j], probability_W[there_W], VOCAB_SIZE
        )
    share_V = frequency_V / frequency_V.sum()
    share_V = share_V[share_V > 0]
    return float(-(share_V * np.log2(share_V)).sum())

  def information(self, numbers: npt.ArrayLike) -> np.ndarray:
    """Returns the exact -log2 of the probability of documents, float64 [n].

    Its mean over documents, divided by the length, estimates the entropy of the
    source in bits a character: no model has a smaller expected loss.

    Raises:
      ValueError: The characters are shuffled, so that it is not known.
    """
    number_n = np.asarray(numbers, np.int64)
    if self.config.kind == 'uniform':
      return np.full(number_n.size, self.max_length * math.log2(VOCAB_SIZE))
    if self.config.shuffle_window:
      raise ValueError(
          'shuffle_window must be 0 for the information to be known, got'
          f' {self.config.shuffle_window}.'
      )
    # Sum of the probabilities of all words with the same first f characters:
    # what the cut of a document leaves of its last word is such a prefix.
    letters_Wx7 = self._letters_Wx7
    log_prefix = np.zeros((letters_Wx7.shape[1] + 1, NUM_WORDS, NUM_TOPICS))
    alike_WxW = np.ones((NUM_WORDS, NUM_WORDS), bool)
    for f, letter_W in enumerate(letters_Wx7.T, 1):
      alike_WxW = alike_WxW & (letter_W[:, None] == letter_W)
      log_prefix[f] = np.log2(alike_WxW @ self._probability_ZxW.T)
    found = np.zeros(number_n.size)
    for begin in range(0, number_n.size, _CHUNK):
      part = slice(begin, begin + _CHUNK)
      word_nxK, begin_nxK = self._words(number_n[part])
      seen_nxK = np.clip(
          self.max_length - begin_nxK, 0, self._size_W[word_nxK]
      )
      log_nxZ = log_prefix[seen_nxK, word_nxK].sum(axis=1)
      found[part] = np.log2(NUM_TOPICS) - np.logaddexp2.reduce(log_nxZ, axis=1)
    return found

  def _whole(self, number_R: np.ndarray) -> documents.Rows:
    """One row for each document."""
    zero_R = np.zeros_like(number_R)
    return documents.Rows(
        np.arange(number_R.size),
        number_R,
        zero_R,
        zero_R,
        np.full_like(number_R, self.max_length),
    )

  def _make(self, number_n: np.ndarray) -> np.ndarray:
    length, seed = self.max_length, self.config.seed
    if self.config.kind == 'uniform':
      key_n = hashing.fold(hashing.fold(seed, _DOCUMENT), number_n)
      key_nxL = hashing.fold(key_n[:, None], np.arange(length))
      return hashing.below(key_nxL, VOCAB_SIZE).astype(np.uint8)
    word_nxK, begin_nxK = self._words(number_n)
    # The words of a document, one after the other, are at least `length` long.
    kept_nxK = np.clip(length - begin_nxK, 0, self._size_W[word_nxK])
    # Where the letters of a word are, less where they go to.
    shift_nxK = word_nxK * self._letters_Wx7.shape[1] - begin_nxK
    shift_nxL = np.repeat(shift_nxK.ravel(), kept_nxK.ravel()).reshape(
        -1, length
    )
    made = self._letters_Wx7.ravel()[shift_nxL + np.arange(length)]
    if self.config.shuffle_window:
      made = windows.shuffle_in_windows(
          made.ravel(),
          np.repeat(number_n, length),
          np.tile(np.arange(length), number_n.size),
          self.config.shuffle_window,
          hashing.fold(seed, _SHUFFLE),
      ).reshape(made.shape)
    return made

  def _words(self, number_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words of documents and where each begins, of shape [n, K]."""
    most = -(-self.max_length // int(self._size_W.min()))
    key_n = hashing.fold(
        hashing.fold(self.config.seed, _DOCUMENT), number_n
    )
    drawn_nxH = hashing.fold(key_n[:, None], np.arange(-(-(most + 1) // 4)))
    # Four draws from each hash: one for the topic, one for each word.
    draw_nxD = drawn_nxH.astype('<u8').view('<u2')
    topic_n = draw_nxD[:, 0] % NUM_TOPICS
    word_nxK = self._word_ZxN[topic_n[:, None], draw_nxD[:, 1 : most + 1]]
    size_nxK = self._size_W[word_nxK]
    return word_nxK, np.cumsum(size_nxK, axis=1) - size_nxK


def _zipf_counts() -> np.ndarray:
  """Probabilities 1 / r of the ranks, as counts that sum to _RESOLUTION."""
  share_W = 1 / np.arange(1, NUM_WORDS + 1)
  edge_W = np.rint(_RESOLUTION * np.cumsum(share_W) / share_W.sum())
  return np.diff(edge_W, prepend=0).astype(np.int64)


def _lexicon(key: np.ndarray) -> np.ndarray:
  """Distinct words with a space after each, uint8 [W, 7], filled up by 255."""
  words: dict[bytes, None] = {}
  attempt = 0
  while len(words) < NUM_WORDS:
    draw = hashing.fold(
        hashing.fold(key, attempt), np.arange(1 + 2 * _MAX_SYLLABLES)
    )
    count = 1 + int(hashing.below(draw[0], _MAX_SYLLABLES))
    letters = []
    for syllable in range(count):
      consonant, vowel = draw[1 + 2 * syllable :][:2]
      letters += [
          _CONSONANTS[hashing.below(consonant, _CONSONANTS.size)],
          _VOWELS[hashing.below(vowel, _VOWELS.size)],
      ]
    words[bytes([*map(int, letters), SPACE_ID])] = None
    attempt += 1
  found = np.full((NUM_WORDS, 2 * _MAX_SYLLABLES + 1), 255, np.uint8)
  for row, word in zip(found, words, strict=True):
    row[: len(word)] = list(word)
  return found


kinds.register(
    kinds.Kind(
        'topics',
        TopicsConfig,
        make_documents=TopicDocuments,
        split_names=lambda options: documents.SPLITS[
            : 2 if options.num_heldout else 1
        ],
    )
)
