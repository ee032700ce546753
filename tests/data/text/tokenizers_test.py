"""Round trips, special tokens, and errors of the tokenizers."""

import builtins
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iblm_jax.data.text import tokenizers

# Any character but surrogates; st.text() would first build its tables.
CHARACTERS = st.integers(0, 0xD7FF) | st.integers(0xE000, 0x10FFFF)


@given(st.lists(CHARACTERS.map(chr)).map(''.join))
@settings(deadline=None, max_examples=200)
def test_bytes_round_trip_text(text):
  tokenizer = tokenizers.ByteTokenizer()
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32
  assert ids.tolist() == list(text.encode('utf-8'))
  assert tokenizer.decode(ids) == text


@given(st.binary())
@settings(deadline=None, max_examples=200)
def test_bytes_round_trip_any_bytes(data):
  tokenizer = tokenizers.ByteTokenizer()
  ids = np.concatenate([[256], list(data), [257, 258]]).astype(np.int32)
  assert tokenizer.decode_bytes(ids) == data
  assert tokenizer.decode(ids) == data.decode('utf-8', errors='replace')


def test_bytes_cover_the_vocabulary():
  tokenizer = tokenizers.ByteTokenizer()
  special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
  assert special | set(range(256)) == set(range(tokenizer.vocab_size))
  assert tokenizer.decode_bytes(range(256)) == bytes(range(256))


@given(st.text(alphabet='x=0123456789'))
@settings(deadline=None, max_examples=50)
def test_digits_round_trip(text):
  tokenizer = tokenizers.DigitTokenizer()
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32 and ids.size == len(text)
  assert tokenizer.decode(ids) == text


def test_digits_are_the_fifteen_symbols():
  tokenizer = tokenizers.DigitTokenizer()
  assert tokenizer.decode(range(tokenizer.vocab_size)) == 'x=0123456789'
  assert tokenizer.vocab_size == 15
  assert tokenizer.encode('x')[0] == tokenizer.times_id
  assert tokenizer.encode('=')[0] == tokenizer.equals_id
  assert tokenizer.encode('09').tolist() == [
      tokenizer.zero_id,
      tokenizer.zero_id + 9,
  ]


@pytest.mark.parametrize('name', ['bytes', 'digits'])
@pytest.mark.parametrize('ids', [[-1], [1000], [1.5], [[1]], ['a']])
def test_bad_ids_are_refused(name, ids):
  tokenizer = tokenizers.load_tokenizer(name)
  with pytest.raises(ValueError, match='ids must be .* between 0 and'):
    tokenizer.decode(ids)


def test_bad_text_is_refused():
  with pytest.raises(ValueError, match="text must consist of .* got '1 2'"):
    tokenizers.DigitTokenizer().encode('1 2')
  with pytest.raises(ValueError, match='valid Unicode.*at character 1'):
    tokenizers.ByteTokenizer().encode('a\ud800')


@pytest.mark.parametrize('spec', ['gpt2', 'model.bin', '', None, 3])
def test_unknown_spec_is_refused(spec):
  with pytest.raises(ValueError, match="tokenizer must be 'bytes', 'digits'"):
    tokenizers.load_tokenizer(spec)


def test_missing_and_damaged_files_are_refused(tmp_path):
  path = tmp_path / 'tokenizer.json'
  with pytest.raises(ValueError, match='must be an existing file'):
    tokenizers.load_tokenizer(str(path))
  pytest.importorskip('tokenizers')
  path.write_text('{"not": "a tokenizer"}')
  with pytest.raises(ValueError, match='tokenizer.json.* cannot be read'):
    tokenizers.load_tokenizer(str(path))


def word_level(path, special):
  """Writes a tokenizer that cuts at spaces and has these special tokens."""
  words = ['to', 'be', 'or', 'not', '[UNK]']
  vocabulary = {word: i for i, word in enumerate(words + special)}
  added = [
      {
          'id': vocabulary[name],
          'content': name,
          'single_word': False,
          'lstrip': False,
          'rstrip': False,
          'normalized': False,
          'special': True,
      }
      for name in special
  ]
  path.write_text(
      json.dumps({
          'version': '1.0',
          'truncation': None,
          'padding': None,
          'added_tokens': added,
          'normalizer': None,
          'pre_tokenizer': {'type': 'WhitespaceSplit'},
          # As most published files: puts a special token before each text.
          'post_processor': {
              'type': 'TemplateProcessing',
              'single': [
                  {'SpecialToken': {'id': special[0], 'type_id': 0}},
                  {'Sequence': {'id': 'A', 'type_id': 0}},
              ],
              'pair': [
                  {'Sequence': {'id': 'A', 'type_id': 0}},
                  {'Sequence': {'id': 'B', 'type_id': 0}},
              ],
              'special_tokens': {
                  special[0]: {
                      'id': special[0],
                      'ids': [vocabulary[special[0]]],
                      'tokens': [special[0]],
                  }
              },
          },
          'decoder': None,
          'model': {
              'type': 'WordLevel',
              'vocab': vocabulary,
              'unk_token': '[UNK]',
          },
      })
  )
  return str(path)


@pytest.mark.parametrize(
    'special,ids',
    [
        (['<s>', '</s>', '<pad>'], (5, 6, 7)),
        (['<|endoftext|>'], (5, 5, 5)),
        (['</s>', '<s>'], (6, 5, 5)),
    ],
)
def test_tokenizer_file(tmp_path, special, ids):
  pytest.importorskip('tokenizers')
  spec = word_level(tmp_path / 'tokenizer.json', special)
  tokenizer = tokenizers.load_tokenizer(spec)
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == ids
  assert tokenizer.vocab_size == 5 + len(special)
  encoded = tokenizer.encode('to be or not')
  assert encoded.dtype == np.int32 and encoded.tolist() == [0, 1, 2, 3]
  # The first special token, which the file puts before each text.
  assert tokenizer.adds_bos == (ids[0] == 5)
  decoded = tokenizer.decode([ids[0], 0, 1, 2, 3, ids[1]])
  assert decoded == 'to be or not'


def test_tokenizer_file_without_bos_is_refused(tmp_path):
  pytest.importorskip('tokenizers')
  spec = word_level(tmp_path / 'tokenizer.json', ['</s>'])
  with pytest.raises(ValueError, match='must hold a begin-of-document token'):
    tokenizers.load_tokenizer(spec)


def test_sentence_piece_model(tmp_path):
  with warnings.catch_warnings():
    # Its SWIG types lack a __module__, which newer Pythons warn of.
    warnings.simplefilter('ignore', DeprecationWarning)
    sentencepiece = pytest.importorskip('sentencepiece')
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be that is the question\n' * 50)
  sentencepiece.SentencePieceTrainer.train(
      input=str(text),
      model_prefix=str(tmp_path / 'small'),
      vocab_size=30,
      hard_vocab_limit=False,
      minloglevel=2,
  )
  tokenizer = tokenizers.load_tokenizer(str(tmp_path / 'small.model'))
  ids = tokenizer.encode('to be or not')
  assert ids.dtype == np.int32
  assert not set(ids.tolist()) & {tokenizer.bos_id, tokenizer.eos_id}
  framed = [tokenizer.bos_id, *ids.tolist(), tokenizer.eos_id]
  assert tokenizer.decode(framed) == 'to be or not'
  broken = tmp_path / 'broken.model'
  broken.write_bytes(b'nothing')
  with pytest.raises(ValueError, match='broken.model.* cannot be read'):
    tokenizers.load_tokenizer(str(broken))


@pytest.mark.parametrize('suffix', ['.json', '.model'])
def test_missing_package_says_what_to_install(tmp_path, monkeypatch, suffix):
  path = tmp_path / f'tokenizer{suffix}'
  path.write_text('')
  real_import = builtins.__import__

  def without_packages(name, *args, **kwargs):
    if name in ('tokenizers', 'sentencepiece'):
      raise ImportError(f'No module named {name!r}')
    return real_import(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without_packages)
  with pytest.raises(ValueError, match=r"pip install 'iblm-jax\[hf\]'"):
    tokenizers.load_tokenizer(str(path))
