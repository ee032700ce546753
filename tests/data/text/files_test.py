"""Reading documents, the errors of bad files, and the hold-out."""

import gzip
import json

import pytest

from iblm_jax.data.text import files as text


def read(*paths, **options):
  paths = tuple(str(path) for path in paths)
  return text.read_documents(text.TextConfig(paths=paths, **options))


def write(path, content):
  content = content.encode() if isinstance(content, str) else content
  if path.name.endswith('.gz'):
    content = gzip.compress(content)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return path


TEXT = 'one\r\ntwo\x0cstill \u2028 two\n\n \t\nthree\nfour\n'


@pytest.mark.parametrize('suffix', ['.txt', '.txt.gz'])
@pytest.mark.parametrize(
    'documents,wanted',
    [
        ('file', [TEXT]),
        ('line', ['one', 'two\x0cstill \u2028 two', 'three', 'four']),
        (
            'paragraph',
            ['one\r\ntwo\x0cstill \u2028 two', 'three\nfour'],
        ),
    ],
)
def test_documents_of_a_text_file(tmp_path, suffix, documents, wanted):
  path = write(tmp_path / f'a{suffix}', TEXT)
  assert read(path, documents=documents) == wanted


@pytest.mark.parametrize('suffix', ['.jsonl', '.jsonl.gz'])
def test_documents_of_json_lines(tmp_path, suffix):
  content = (
      '{"text": "a\\nb", "id": 1}\n'
      '\n'
      '{"id": 2, "text": "é \u2028 \\ud83d\\ude00"}\r\n'
      '{"text": ""}'
  )
  path = write(tmp_path / f'a{suffix}', content)
  assert read(path) == ['a\nb', 'é \u2028 \U0001f600']


def test_text_field(tmp_path):
  path = write(tmp_path / 'a.jsonl', '{"body": "yes", "text": "no"}')
  assert read(path, text_field='body') == ['yes']


def test_byte_order_mark_is_left_out(tmp_path):
  path = write(tmp_path / 'a.jsonl', '\ufeff{"text": "x"}')
  assert read(path) == ['x']


def test_folder_is_read_sorted_with_subfolders(tmp_path):
  write(tmp_path / 'b.txt', 'b')
  write(tmp_path / 'a' / 'z.txt', 'a/z')
  write(tmp_path / 'a' / 'b.jsonl', '{"text": "a/b"}')
  write(tmp_path / 'c.txt.gz', 'c')
  write(tmp_path / 'README.md', 'not text')
  assert read(tmp_path) == ['a/b', 'a/z', 'b', 'c']
  assert read(tmp_path / 'c.txt.gz', tmp_path / 'a') == ['c', 'a/b', 'a/z']


@pytest.mark.parametrize(
    'name,content,message',
    [
        ('a.txt', '', 'holds no document'),
        ('a.txt', ' \n\n', 'holds no document'),
        ('a.jsonl', '\n', 'holds no document'),
        ('a.txt', b'ab\ncd\xff', 'is not UTF-8: byte 0xff at offset 5, line 2'),
        ('a.jsonl', '{"text": "a"}\n{"text":', 'line 2 is not JSON'),
        ('a.jsonl', '[' * 100_000, 'line 1 is not JSON'),
        ('a.jsonl', '\n{"id": 1}', "line 2 must be an object with a field 'te"),
        ('a.jsonl', '["text"]', "line 1 must be an object with a field 'text'"),
        ('a.jsonl', '{"text": 3}', "line 1: field 'text' must be a str.*got 3"),
        ('a.jsonl', r'{"text": "a\ud800"}', 'lone surrogate at character 1'),
        ('a.md', 'x', 'must end in one of'),
        ('a.gz', 'x', 'must end in one of'),
    ],
)
def test_bad_file_is_refused(tmp_path, name, content, message):
  path = write(tmp_path / name, content)
  with pytest.raises(ValueError, match=message) as error:
    read(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize('damage', ['cut', 'flip', 'plain', 'tail', 'block'])
def test_damaged_gzip_is_refused(tmp_path, damage):
  data = gzip.compress(b'a long enough text ' * 100)
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 0xFF
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(
      {
          'cut': data[:-10],
          'flip': bytes(flipped),
          'plain': b'not compressed',
          'tail': data + b'more',
          # The deflate stream begins with a block of no valid type.
          'block': data[:10] + b'\xff' + data[11:],
      }[damage]
  )
  with pytest.raises(ValueError, match=r'a\.txt\.gz.* is a damaged gzip'):
    read(path)


def test_missing_file_and_empty_folder_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"nothing\.txt' does not exist"):
    read(tmp_path / 'nothing.txt')
  with pytest.raises(ValueError, match='folder .* must hold a file'):
    read(tmp_path)


@pytest.mark.parametrize(
    'options,message',
    [
        ({'paths': ()}, 'paths must name .* got \\(\\)'),
        ({'paths': ('',)}, 'paths must name'),
        ({'paths': 3}, 'paths must name .* got 3'),
        ({'documents': 'word'}, "documents must be one of .* got 'word'"),
        ({'text_field': ''}, "text_field must be .* got ''"),
        ({'holdout': 1.0}, 'holdout must be .* 0.0 and 0.9, got 1.0'),
        ({'seq_len': 0}, 'seq_len must be .* got 0'),
        ({'eval_rows': 0}, 'eval_rows must be .* got 0'),
    ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    text.TextConfig(**{'paths': ('a.txt',), **options})


def test_whole_documents_are_held_out():
  documents = [f'document {i % 300}' for i in range(1000)]
  train, validation = text.split_documents(documents, 0.1)
  assert not set(train) & set(validation)
  assert sorted(train + validation) == sorted(documents)
  assert len(set(validation)) == 30
  # Order kept, and the side of a document is a matter of its text.
  assert train == [d for d in documents if d in set(train)]
  again = text.split_documents(documents[::-1], 0.1)
  assert again == (train[::-1], validation[::-1])


def test_larger_holdout_contains_the_smaller():
  documents = [f'document {i}' for i in range(100)]
  small, large = (text.split_documents(documents, h)[1] for h in (0.1, 0.3))
  assert set(small) < set(large)


def test_split_is_not_by_position():
  documents = [f'document {i}' for i in range(1000)]
  _, validation = text.split_documents(documents, 0.5)
  numbers = [int(d.split()[1]) for d in validation]
  # Mean of 500 out of 1000 numbers: 499.5 with standard deviation 9.1.
  assert abs(sum(numbers) / len(numbers) - 499.5) < 4 * 9.2


def test_tails_of_few_documents_are_held_out():
  documents = ['0123456789' * 10, 'ab', 'c']
  train, validation = text.split_documents(documents, 0.3)
  assert train == [documents[0][:70], 'a', 'c']
  assert validation == [documents[0][70:], 'b']


@pytest.mark.parametrize('n', [1, 19, 20, 21])
def test_a_holdout_always_has_two_sides(n):
  documents = [f'document {i}' for i in range(n)]
  train, validation = text.split_documents(documents, 0.01 if n > 19 else 0.1)
  assert train and validation


def test_no_holdout():
  assert text.split_documents(['a', 'b'], 0.0) == (['a', 'b'], [])


def test_held_out_stays_held_out_when_documents_are_added():
  documents = [f'document {k}' for k in range(200)]
  more = documents + [f'another {k}' for k in range(200)]
  train, validation = text.split_documents(documents, 0.3, 'hash')
  assert 40 <= len(validation) <= 80
  grown_train, grown_validation = text.split_documents(more, 0.3, 'hash')
  assert set(train) <= set(grown_train)
  assert set(validation) <= set(grown_validation)
  # By rank the share is exact instead, and one of them changes sides.
  _, exact = text.split_documents(documents, 0.3)
  _, grown_exact = text.split_documents(more, 0.3)
  assert (len(exact), len(grown_exact)) == (60, 120)
  assert not set(exact) <= set(grown_exact)


@pytest.mark.parametrize('documents', [['same'] * 30, ['x'], ['a', 'b']])
def test_hold_out_of_too_little_is_refused(documents):
  with pytest.raises(ValueError, match='holdout must leave .* got holdout=0.1'):
    text.split_documents(documents, 0.1)


def test_real_text(real_text):
  words = read(f'{real_text}/english_words.txt.gz', documents='line')
  assert len(words) == 370_099
  pages = read(f'{real_text}/tldr_en.jsonl.gz')
  with gzip.open(f'{real_text}/tldr_en.jsonl.gz', 'rt') as f:
    assert pages == [json.loads(line)['text'] for line in f]
  train, validation = text.split_documents(pages, 0.1)
  assert len(train) + len(validation) == len(pages)
  assert abs(len(validation) / len(pages) - 0.1) < 0.005
