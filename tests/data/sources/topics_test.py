"""The topic source draws what it says, and its entropies are exact."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from iblm_jax.data import documents
from iblm_jax.data.sources import topics


def make(**options):
  return topics.TopicDocuments(topics.TopicsConfig(**options))


@pytest.fixture(scope='module')
def source():
  return make()


def words_of(source):
  """Text of each word, from the text of its documents alone."""
  found = set()
  for line in source.text(source.characters(np.arange(4000))):
    found |= set(line.split(' ')[:-1])
  return found - {''}


def test_lexicon_and_characters(source):
  words = words_of(source)
  assert len(words) == 200
  for word in words:
    assert len(word) in (2, 4, 6)
    assert all(c not in 'aeiou' for c in word[::2])
    assert all(c in 'aeiou' for c in word[1::2])
  characters = source.characters(np.arange(50))
  assert characters.shape == (50, 64) and characters.max() < 27


def test_a_document_is_a_function_of_seed_and_number(source):
  whole = source.characters(np.arange(5000))
  some = np.array([4999, 3, 3, 2048])
  np.testing.assert_array_equal(source.characters(some), whole[some])
  # More of a document does not change its beginning.
  longer = make(length=200).characters(some)
  np.testing.assert_array_equal(longer[:, :64], whole[some])
  other = make(seed=1).characters(some)
  assert (other != whole[some]).mean() > 0.5


def test_splits_follow_each_other():
  source = make(num_train=30, num_heldout=20)
  train = source.read(source.rows('train', np.arange(30)))
  held_out = source.read(source.rows('heldout', np.arange(20)))
  targets = np.concatenate([train['targets'], held_out['targets']])
  np.testing.assert_array_equal(targets, source.characters(np.arange(50)))
  # A document is read after a space, and all characters are scored.
  np.testing.assert_array_equal(train['tokens'][:, 1:], targets[:30, :-1])
  assert not train['tokens'][:, 0].any() and train['loss_mask'].all()


def test_words_follow_zipf_in_four_topics(source):
  """Counts of first words: a mixture of four orders of 1 / r."""
  word, _ = source._words(np.arange(200_000))
  first, second = word[:, 0], word[:, 1]
  probability = source._probability_ZxW
  np.testing.assert_allclose(probability.sum(axis=1), 1)
  zipf = 1 / np.arange(1, 201) / np.sum(1 / np.arange(1, 201))
  for row in probability:
    np.testing.assert_allclose(np.sort(row)[::-1], zipf, atol=2**-16)
  counts = np.bincount(first, minlength=200)
  wanted = probability.mean(axis=0) * first.size
  assert stats.chisquare(counts, wanted).pvalue > 1e-3
  # Words are independent given the topic, and the topic is one for all.
  top = np.argmax(probability, axis=1)
  pairs = np.array([
      [((first == a) & (second == b)).mean() for b in top] for a in top
  ])
  joint = np.einsum('za,zb->ab', probability[:, top], probability[:, top]) / 4
  deviation = np.sqrt(joint * (1 - joint) / first.size)
  assert (np.abs(pairs - joint) < 5 * deviation).all()


def test_unigram_entropy_is_that_of_many_documents(source):
  count = np.bincount(source.characters(np.arange(60_000)).ravel())
  share = count / count.sum()
  estimate = -(share * np.log2(np.maximum(share, 1e-300))).sum()
  assert abs(estimate - source.unigram_entropy()) < 2e-3


def test_unigram_entropy_of_short_documents_by_enumeration():
  """Four characters: all pairs of words."""
  source = make(length=4)
  frequency = np.zeros(27)
  letters, size = source._letters_Wx7, source._size_W
  lines = np.array([
      [*letters[a, : size[a]], *letters[b, : size[b]]][:4]
      for a, b in itertools.product(range(200), repeat=2)
  ])
  for row in source._probability_ZxW:
    both = np.multiply.outer(row, row).ravel()
    np.add.at(frequency, lines, both[:, None])
  share = frequency[frequency > 0] / frequency.sum()
  wanted = -(share * np.log2(share)).sum()
  np.testing.assert_allclose(source.unigram_entropy(), wanted, rtol=1e-12)


def test_information_is_the_logarithm_of_the_frequency():
  """Documents of 5 characters: frequencies against exact probabilities."""
  source = make(length=5)
  numbers = np.arange(200_000)
  lines = source.characters(numbers) @ 27 ** np.arange(5)
  _, place, count = np.unique(lines, return_index=True, return_counts=True)
  probability = 2.0 ** -source.information(place)
  assert probability.sum() <= 1 + 1e-12
  common = count > 50
  assert common.sum() > 100
  z = (count - probability * numbers.size)[common] / np.sqrt(
      probability * numbers.size
  )[common]
  assert np.abs(z).max() < 5 and abs(z.std() - 1) < 0.2


def test_information_by_hand(source):
  """Sum over topics of the product over words; the cut leaves a prefix."""
  letters, size = source._letters_Wx7, source._size_W
  words = [bytes(row[:n]) for row, n in zip(letters, size, strict=True)]
  for number in range(20):
    rest = bytes(source.characters([number])[0])
    chosen = []
    while 0 in rest:
      cut = rest.index(0) + 1
      chosen.append(words.index(rest[:cut]))
      rest = rest[cut:]
    total = 0.0
    for row in source._probability_ZxW:
      begun = sum(
          p for p, w in zip(row, words, strict=True) if w.startswith(rest)
      )
      total += begun * math.prod(row[w] for w in chosen) / 4
    got = source.information([number])[0]
    np.testing.assert_allclose(got, -math.log2(total), rtol=1e-9)


def test_controls():
  uniform = make(kind='uniform')
  assert uniform.unigram_entropy() == math.log2(27)
  assert uniform.information([3])[0] == 64 * math.log2(27)
  characters = uniform.characters(np.arange(5000))
  assert stats.chisquare(np.bincount(characters.ravel())).pvalue > 1e-3
  plain, shuffled = make(), make(shuffle_window=8)
  a, b = plain.characters([7, 2, 9]), shuffled.characters([7, 2, 9])
  np.testing.assert_array_equal(
      np.sort(a.reshape(3, 8, 8)), np.sort(b.reshape(3, 8, 8))
  )
  assert (a != b).mean() > 0.5
  np.testing.assert_array_equal(shuffled.characters([2])[0], b[1])
  assert shuffled.unigram_entropy() == plain.unigram_entropy()
  with pytest.raises(ValueError, match='shuffle_window must be 0 .* got 8'):
    shuffled.information([0])


def test_population():
  population = make(num_train=40).population
  assert population['sampling'] == 'iid' and population['size'] is None
  assert (population['num_train'], population['vocab_size']) == (40, 27)
  hashes = {
      make(num_train=40, **options).population['hash']
      for options in ({}, {'seed': 1}, {'kind': 'uniform'}, {'length': 63})
  }
  assert len(hashes) == 4 and population['hash'] in hashes


def test_training_rows_are_uniform(source):
  small = make(num_train=50)
  drawn = small.draw(np.arange(20_000, dtype=np.uint64)).document
  assert stats.chisquare(np.bincount(drawn, minlength=50)).pvalue > 1e-3
  made = documents.DocumentSource(source, batch_size=4).batch(0)
  assert made['tokens'].shape == (4, 64)


@pytest.mark.parametrize(
    'options,message',
    [
        ({'num_train': 0}, 'num_train must be .* got 0'),
        ({'num_heldout': -1}, 'num_heldout must be .* got -1'),
        ({'length': 0}, 'length must be .* got 0'),
        ({'seed': -1}, 'seed must be .* got -1'),
        ({'kind': 'text'}, "kind must be one of .* got 'text'"),
        ({'shuffle_window': -1}, 'shuffle_window must be .* got -1'),
    ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)
