"""Units are read, split, drawn and put together as their definition says."""

import collections
import gzip
import json
import math

import numpy as np
import pytest
from scipy import stats

from iblm_jax.data import documents, hashing
from iblm_jax.data.sources import pages
from iblm_jax.data.sources import words as wordlist

PAGES = {
    'ls.md': ['list', 'liste les fichiers', 'lista'],
    'cp.md': ['copy a file to another'],
    'é.md': ['né', 'x' * 40],
    'mv.md': ['move', 'déplace'],
}


def write_pages(path, pages_by_name=None, extra=''):
  lines = []
  items = list((pages_by_name or PAGES).items())
  # Languages one after the other, as in the real file.
  for language in range(3):
    for name, texts in items:
      if language < len(texts):
        # A page may be under another platform in another language.
        page = f'pages.{language}/{"ab"[language % 2]}/{name}'
        record = {'id': page, 'text': texts[language]}
        lines.append(json.dumps(record))
  data = '\n'.join(lines) + '\n' + extra
  path.write_bytes(gzip.compress(data.encode()))
  return str(path)


def load_pages(tmp_path, **options):
  path = write_pages(tmp_path / 'pages.jsonl.gz')
  options = {'num_train': 3, 'length': 8, 'stride': 3} | options
  return pages.load_pages(pages.PagesConfig(path, **options))


def load_words(tmp_path, words, **options):
  path = tmp_path / 'words.txt'
  path.write_text('\n'.join(words) + '\n')
  return wordlist.load_words(wordlist.WordsConfig(str(path), **options))


WORDS = [a + b for a in 'abcdefghij' for b in ('x', 'yz', 'zzzz', 'q')]


def spelt(batch):
  """Words of a batch, from its targets; the end mark must come last."""
  found = []
  for target, scored in zip(
      batch['targets'], batch['loss_mask'], strict=True
  ):
    assert target[scored][-1] == wordlist.END_ID
    found.append(bytes(target[scored][:-1].astype(np.uint8) + 96).decode())
  return found


def every(source):
  return {
      split: spelt(source.read(source.rows(split, np.arange(count))))
      for split, count in (
          ('train', source.num_train),
          ('heldout', source.num_heldout),
      )
  }


def test_words_are_read_between_end_marks(tmp_path):
  source = load_words(tmp_path, ['ab', 'cde'], num_train=1, length=5)
  both = [source.read(source.rows(split, [0])) for split in documents.SPLITS]
  if not both[0]['mask'][0, 3]:
    both = both[::-1]
  long, short = both
  assert long['tokens'].tolist() == [[0, 3, 4, 5, 0]]
  assert long['targets'].tolist() == [[3, 4, 5, 0, 0]]
  assert long['loss_mask'].tolist() == [[True] * 4 + [False]]
  assert short['tokens'].tolist() == [[0, 1, 2, 0, 0]]
  assert short['positions'].tolist() == [[0, 1, 2, 0, 0]]
  assert short['segment_ids'].tolist() == [[1, 1, 1, 0, 0]]
  assert {x.dtype.name for x in long.values()} == {'int32', 'bool'}


def test_words_are_split_into_two_parts_of_the_list(tmp_path):
  """Blank lines, repeats and line ends of other systems do not count."""
  source = load_words(
      tmp_path, [*WORDS, '', WORDS[3], WORDS[0] + '\r'], num_train=30
  )
  both = every(source)
  assert [len(words) for words in both.values()] == [30, 10]
  assert sorted(both['train'] + both['heldout']) == sorted(WORDS)
  again = every(load_words(tmp_path, WORDS, num_train=30))
  other = every(load_words(tmp_path, WORDS, num_train=30, seed=1))
  assert again == both and set(other['heldout']) != set(both['heldout'])
  # More training words keep those that were there.
  more = every(load_words(tmp_path, WORDS, num_train=35))
  assert more['train'][:30] == both['train']


def test_each_word_is_held_out_as_often(tmp_path):
  held_out = []
  for seed in range(150):
    held_out += every(load_words(tmp_path, WORDS, num_train=30, seed=seed))[
        'heldout'
    ]
  counts = [held_out.count(word) for word in WORDS]
  # Without replacement the counts vary by a quarter less.
  assert stats.chisquare(counts).pvalue > 1e-3


def test_shuffled_words_keep_their_letters(tmp_path):
  long = ['abcdefgh' + word for word in WORDS]
  plain = every(load_words(tmp_path, long, num_train=30))
  shuffled = every(load_words(tmp_path, long, num_train=30, shuffle_window=4))
  moved = 0
  for a, b in zip(plain['train'], shuffled['train'], strict=True):
    for i in range(0, len(a), 4):
      assert sorted(a[i : i + 4]) == sorted(b[i : i + 4])
    moved += a != b
  assert moved > 25


def entropy_of_units(units):
  """Bits of the mean over units of the shares of their tokens."""
  shares = collections.Counter()
  for targets in units:
    for target in targets:
      shares[target] += 1 / len(targets) / len(units)
  return -sum(p * math.log2(p) for p in shares.values())


def test_unigram_entropy(tmp_path):
  words = load_words(tmp_path, WORDS, num_train=30)
  expected = entropy_of_units([[*word, 'end'] for word in WORDS])
  assert words.unigram_entropy == pytest.approx(expected, rel=1e-12)
  assert words.population['unigram'] == words.unigram_entropy
  for options, most in (({}, 99), ({'stride': None}, 8)):
    found = load_pages(tmp_path, **options).unigram_entropy
    units = [
        [target for text in page for target in [*text.encode(), 'end'][:most]]
        for page in PAGES.values()
    ]
    assert found == pytest.approx(entropy_of_units(units), rel=1e-12)


def test_population_of_words(tmp_path):
  source = load_words(tmp_path, WORDS, num_train=30)
  population = source.population
  assert population['sampling'] == 'without replacement'
  assert (population['size'], population['num_train']) == (40, 30)
  assert population['num_heldout'] == 10 and population['unit'] == 'word'
  json.dumps(population)
  changed = load_words(tmp_path, ['zx', *WORDS[1:]], num_train=30).population
  assert changed['hash'] != population['hash']
  assert changed['files'] != population['files']
  for options in ({'seed': 1}, {'num_train': 31}, {'shuffle_window': 3}):
    options = {'num_train': 30} | options
    other = load_words(tmp_path, WORDS, **options).population
    assert other['files'] == population['files']
    assert other['hash'] != population['hash']


def test_all_texts_of_a_page_are_one_unit(tmp_path):
  """Every target of every text is scored once, after the tokens before it."""
  source = load_pages(tmp_path)
  texts = {
      tuple(sorted(text.encode() for text in page)) for page in PAGES.values()
  }
  for split, count in (('train', 3), ('heldout', 1)):
    rows = source.rows(split, np.arange(count))
    batch = source.read(rows)
    assert batch['tokens'].shape[1] == source.max_length == 8
    for unit in range(count):
      found = []
      for r in np.flatnonzero(rows.unit == unit):
        scored = batch['targets'][r][batch['loss_mask'][r]].tolist()
        read = batch['tokens'][r][batch['mask'][r]].tolist()
        if rows.first[r] == 0:
          assert read[0] == pages.END_ID
          found.append([])
        else:
          assert read == found[-1][-len(read) + len(scored) - 1 :] + scored[:-1]
          assert len(read) - len(scored) == 8 - 3
        found[-1] += scored
      assert all(text[-1] == pages.END_ID for text in found)
      texts.remove(tuple(sorted(bytes(text[:-1]) for text in found)))
  assert not texts


def test_long_texts_can_be_cut(tmp_path):
  source = load_pages(tmp_path, stride=None)
  rows = source.rows('train', np.arange(3))
  batch = source.read(rows)
  assert (rows.begin == 0).all() and batch['loss_mask'].sum(axis=1).max() == 8
  assert 'first 8 targets' in source.population['loss']
  assert 'all its targets' in load_pages(tmp_path).population['loss']


def test_copies_of_a_text_are_left_out(tmp_path):
  copies = {name: [*texts, texts[0]][-3:] for name, texts in PAGES.items()}
  copies['ls.md'] = ['list', 'list', 'lista']
  path = write_pages(tmp_path / 'copies.jsonl.gz', copies)
  source = pages.load_pages(pages.PagesConfig(path, num_train=3))
  counts = [
      np.unique(source.rows(split, [i]).document).size
      for split, n in (('train', 3), ('heldout', 1))
      for i in range(n)
  ]
  assert sorted(counts) == [1, 2, 2, 2]


def test_evaluation_gives_the_mean_of_each_unit(tmp_path):
  """Any value of each target, through batches, against a loop over texts."""
  source = load_pages(tmp_path)
  index = np.array([2, 0, 1, 2, 2])
  sums, counts, units = [], [], []
  for unit, batch in documents.evaluation_batches(
      source, 'train', index, max_tokens=32, max_shapes=3, row_multiple=2
  ):
    assert batch['mask'].size <= 32 and unit.size % 2 == 0
    assert not batch['loss_mask'][unit < 0].any()
    value = np.where(batch['loss_mask'], batch['targets'] % 17, 0)
    sums.append(np.stack([value.sum(axis=1), 2 * value.sum(axis=1)]))
    counts.append(batch['loss_mask'].sum(axis=1))
    units.append(unit)
  got = documents.unit_means(
      np.concatenate(sums, axis=1),
      np.concatenate(counts),
      np.concatenate(units),
      index.size,
  )
  for place, i in enumerate(index):
    batch = source.read(source.rows('train', [i]))
    wanted = (batch['targets'][batch['loss_mask']] % 17).mean()
    np.testing.assert_allclose(got[:, place], [wanted, 2 * wanted])


def test_unit_without_target_is_refused():
  with pytest.raises(ValueError, match=r'units must name each of 0\.\.2'):
    documents.unit_means([1.0, 1.0], [1, 1], [0, 1], 3)


def test_training_rows_cover_units_and_positions(tmp_path):
  """Units are uniform; windows of long texts reach every position."""
  source = load_pages(tmp_path)
  keys = hashing.fold(3, np.arange(6000))
  rows = source.draw(keys)
  unit_of = {}
  for i in range(3):
    unit_of |= {d: i for d in source.rows('train', [i]).document.tolist()}
  units = [unit_of[d] for d in rows.document.tolist()]
  assert stats.chisquare(np.bincount(units, minlength=3)).pvalue > 1e-3
  scoring = source.rows('train', np.arange(3))
  for document in unit_of:
    length = scoring.end[scoring.document == document].max()
    mine = rows.document == document
    assert (rows.lengths[mine] == min(length, 8)).all()
    assert set(rows.begin[mine].tolist()) == set(range(max(length - 8, 0) + 1))
    if length > 16:  # Both ends come as often.
      ends = [(rows.begin[mine] == b).sum() for b in (0, length - 8)]
      assert stats.chisquare(ends).pvalue > 1e-3
  assert (rows.first == rows.begin).all()
  # Within a unit, a text is drawn as often as it is long.
  for i in range(3):
    mine = source.rows('train', [i])
    length = {d: mine.end[mine.document == d].max() for d in mine.document}
    count = [(rows.document == d).sum() for d in length]
    if len(length) > 1:
      wanted = np.array(list(length.values()), float)
      wanted *= sum(count) / wanted.sum()
      assert stats.chisquare(count, wanted).pvalue > 1e-3


def test_batches_of_training_depend_on_seed_and_number(tmp_path):
  words = load_words(tmp_path, WORDS, num_train=30, length=8)
  small = documents.DocumentSource(words, batch_size=4, seed=5)
  large = documents.DocumentSource(words, batch_size=8, seed=5)
  assert small.num_eval_batches is None and small.length == 8
  for key, values in large.batch(3).items():
    halves = [small.batch(k)[key] for k in (6, 7)]
    np.testing.assert_array_equal(values, np.concatenate(halves))
    np.testing.assert_array_equal(large.batch(3, [5, 2])[key], values[[5, 2]])
  other = documents.DocumentSource(words, batch_size=8, seed=6).batch(3)
  assert (other['tokens'] != large.batch(3)['tokens']).any()
  drawn = [w for k in range(60) for w in spelt(large.batch(k))]
  assert set(drawn) == set(every(words)['train'])


def test_held_out_is_one_pass(tmp_path):
  words = load_words(tmp_path, WORDS, num_train=30, length=8)
  for batch_size, most in ((4, None), (3, 7)):
    source = documents.DocumentSource(
        words, 'heldout', batch_size, seed=batch_size, eval_units=most
    )
    made = [source.batch(k) for k in range(source.num_eval_batches)]
    there = np.concatenate([batch['mask'].any(axis=1) for batch in made])
    found = [
        word
        for batch in made
        for word in spelt(
            {key: x[batch['mask'].any(axis=1)] for key, x in batch.items()}
        )
    ]
    count = 10 if most is None else most
    assert found == every(words)['heldout'][:count]
    assert there.size == source.num_eval_batches * batch_size
    with pytest.raises(ValueError, match='k must be'):
      source.batch(source.num_eval_batches)


@pytest.mark.parametrize(
    'split,indices,message',
    [
        ('test', [0], "split must be one of .* got 'test'"),
        ('train', [30], 'indices must be .* between 0 and 29'),
        ('heldout', [-1], 'indices must be .* between 0 and 9'),
        ('heldout', [0.5], 'indices must be'),
        ('heldout', [[1]], 'indices must be'),
    ],
)
def test_bad_indices_are_refused(tmp_path, split, indices, message):
  source = load_words(tmp_path, WORDS, num_train=30)
  with pytest.raises(ValueError, match=message):
    source.rows(split, indices)


def test_rows_must_fit(tmp_path):
  source = load_words(tmp_path, WORDS, num_train=30)
  with pytest.raises(ValueError, match='length must be .* got 2'):
    source.read(source.rows('train', np.arange(30)), 2)


@pytest.mark.parametrize(
    'content,options,message',
    [
        ('ab\ncD\n', {}, "must hold words of a-z, got b'cD'"),
        ('ab\nc d\n', {}, "must hold words of a-z, got b'c d'"),
        ('ab\né\n', {}, 'must hold words of a-z'),
        ('ab\nabcde\n', {'length': 5}, "length must be at least 6 for 'abcde'"),
        ('ab\nab\n', {}, r'num_train must be below .*, 1, got 1'),
        ('', {}, 'num_train must be below .*, 0, got 1'),
    ],
)
def test_bad_word_lists_are_refused(tmp_path, content, options, message):
  path = tmp_path / 'words.txt'
  path.write_text(content)
  config = wordlist.WordsConfig(str(path), num_train=1, **options)
  with pytest.raises(ValueError, match=message):
    wordlist.load_words(config)


@pytest.mark.parametrize(
    'line,message',
    [
        ('{"id": 1', r'line 9 is not JSON'),
        ('[1]', r"line 9 must be an object with the strings 'id' and 'text'"),
        ('{"id": "a"}', r'line 9 must be an object'),
        ('{"id": "a", "text": ""}', r'line 9 must be an object'),
        ('{"id": "a", "text": "\\ud83d"}', r'line 9 holds a lone surrogate'),
    ],
)
def test_bad_pages_are_refused(tmp_path, line, message):
  path = write_pages(tmp_path / 'pages.jsonl.gz', extra=line)
  with pytest.raises(ValueError, match=message):
    pages.load_pages(pages.PagesConfig(path, num_train=3))


def test_missing_and_damaged_files_are_refused(tmp_path):
  for load, config in (
      (pages.load_pages, pages.PagesConfig(str(tmp_path / 'no.jsonl.gz'))),
      (wordlist.load_words, wordlist.WordsConfig(str(tmp_path / 'no.txt.gz'))),
  ):
    with pytest.raises(ValueError, match='no.* does not exist'):
      load(config)
    (tmp_path / config.path).write_bytes(gzip.compress(b'abc')[:-4])
    with pytest.raises(ValueError, match='is a damaged gzip'):
      load(config)


@pytest.mark.parametrize('kind', [wordlist.WordsConfig, pages.PagesConfig])
@pytest.mark.parametrize(
    'options,message',
    [
        ({'path': ''}, "path must name a file, got ''"),
        ({'path': 'a.csv'}, "path must end in .* got 'a.csv'"),
        ({'num_train': 0}, 'num_train must be .* got 0'),
        ({'seed': -1}, 'seed must be .* got -1'),
        ({'length': 0}, 'length must be .* got 0'),
        ({'shuffle_window': -1}, 'shuffle_window must be .* got -1'),
    ],
)
def test_bad_options_are_refused(kind, options, message):
  good = 'a.txt' if kind is wordlist.WordsConfig else 'a.jsonl'
  with pytest.raises(ValueError, match=message):
    kind(**({'path': good} | options))


def test_bad_stride_is_refused():
  with pytest.raises(ValueError, match='stride must be .* between 1 and 8'):
    pages.PagesConfig('a.jsonl', length=8, stride=9)


@pytest.mark.parametrize(
    'name,size', [('english_words.txt.gz', 370_099), ('names.txt', 29_494)]
)
def test_real_words(real_text, name, size):
  source = wordlist.load_words(
      wordlist.WordsConfig(f'{real_text}/{name}', num_train=size - 1000)
  )
  assert source.population['size'] == size
  words = spelt(source.read(source.rows('heldout', np.arange(1000))))
  assert len(set(words)) == 1000


def test_real_pages(real_text):
  source = pages.load_pages(
      pages.PagesConfig(f'{real_text}/tldr_en.jsonl.gz', num_train=6500)
  )
  assert source.population['size'] == 7239
  assert source.num_heldout == 739
