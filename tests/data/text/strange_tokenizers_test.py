"""Tokenizer files of strangers: saved state, special words, what is missing."""

import json

import numpy as np
import pytest

from iblm_jax.data.text import files as text_files
from iblm_jax.data.text import packing, tokenising, tokenizers

package = pytest.importorskip('tokenizers')

SPECIAL = ['<|endoftext|>', '[PAD]']
TEXT = ['the cat sat on the mat', 'the dog ran off the mat'] * 20


def byte_pairs(alphabet=True, **options):
  """Byte pairs of GPT-2's kind, with two special tokens."""
  made = package.Tokenizer(package.models.BPE(**options))
  made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = package.decoders.ByteLevel()
  letters = package.pre_tokenizers.ByteLevel.alphabet() if alphabet else []
  made.train_from_iterator(
      TEXT,
      package.trainers.BpeTrainer(
          vocab_size=300 if alphabet else 40,
          special_tokens=SPECIAL,
          initial_alphabet=letters,
      ),
  )
  return made


def words(vocabulary, special, **options):
  """Whole words between spaces."""
  made = package.Tokenizer(package.models.WordLevel(vocabulary, **options))
  made.pre_tokenizer = package.pre_tokenizers.WhitespaceSplit()
  made.add_special_tokens(special)
  return made


def load(made, tmp_path):
  path = tmp_path / 'tokenizer.json'
  made.save(str(path))
  return tokenizers.load_tokenizer(str(path))


def test_saved_truncation_padding_and_dropout_are_off(tmp_path):
  made = byte_pairs()
  wanted = made.encode(TEXT[0]).ids
  made.enable_truncation(4)
  made.enable_padding(length=64, pad_token='[PAD]', pad_id=1)
  made.model.dropout = 1.0
  assert made.encode(TEXT[0]).ids != wanted
  loaded = load(made, tmp_path)
  assert loaded.encode(TEXT[0]).tolist() == wanted
  assert loaded.decode(loaded.encode(TEXT[0] * 3)) == TEXT[0] * 3


@pytest.mark.parametrize('mark', SPECIAL)
def test_special_tokens_spelled_in_a_text_stay_text(tmp_path, mark):
  loaded = load(byte_pairs(), tmp_path)
  text = f'a page {mark} and {mark}{mark}the rest'
  ids = loaded.encode(text)
  assert loaded.decode(ids) == text
  assert not {loaded.bos_id, loaded.eos_id, loaded.pad_id} & set(ids.tolist())


def test_models_that_know_a_special_token_as_a_word(tmp_path):
  vocabulary = {w: i for i, w in enumerate(['<s>', '</s>', '[UNK]', 'a'])}
  made = words(vocabulary, ['<s>', '</s>', '[UNK]'], unk_token='[UNK]')
  # One for each of its characters; an unknown word is special, and stays.
  loaded = load(made, tmp_path)
  assert loaded.encode('a <s> a b').tolist() == [3, 2, 2, 2, 3, 2]
  pieces = [('<unk>', 0.0), ('<s>', 0.0), ('</s>', 0.0)]
  pieces += [(character, -3.0) for character in 'a</s>']
  made = package.Tokenizer(package.models.Unigram(pieces, unk_id=0))
  made.add_special_tokens(['<unk>', '<s>', '</s>'])
  loaded = load(made, tmp_path)
  assert loaded.decode(loaded.encode('a</s>a')).replace(' ', '') == 'a</s>a'
  assert loaded.encode('b').tolist() == [0]


def test_a_document_is_never_split_by_its_words(tmp_path):
  made = byte_pairs()
  made.save(str(tmp_path / 'own.json'))
  make = tokenising.Tokeniser(
      tokenising.Options(str(tmp_path / 'own.json'), 'line', holdout=0.0)
  )
  data = b'one page <|endoftext|> the same page\nanother page\n'
  tokens, lengths = make(text_files.Chunk('a.txt', data))['train']
  assert lengths.size == 2 and (tokens == 0).sum() == 2
  loaded = tokenizers.load_tokenizer(str(tmp_path / 'own.json'))
  packed = packing.pack_text(
      data.decode().split('\n')[:2], loaded, seq_len=8, batch_size=1
  )
  assert (packed.corpus.tokens == 0).sum() == 4  # A begin and an end of each.


@pytest.mark.parametrize('is_special', [True, False])
def test_marks_are_special_tokens_only(tmp_path, is_special):
  vocabulary = {w: i for i, w in enumerate(['<s>', '</s>', '[UNK]', 'a'])}
  special = ['<s>', '</s>'] if is_special else ['<s>']
  made = words(vocabulary, special, unk_token='[UNK]')
  if is_special:
    assert load(made, tmp_path).eos_id == 1
    return
  with pytest.raises(ValueError, match=r"an end-of-document .*\['<s>'\]") as e:
    load(made, tmp_path)
  assert '\n' not in str(e.value) and 'tokenizer.json' in str(e.value)


def test_special_mark_is_preferred_to_a_word_of_a_better_name(tmp_path):
  names = ['<s>', '[UNK]', 'a', '[BOS]', '[EOS]']
  vocabulary = {w: i for i, w in enumerate(names)}
  made = words(vocabulary, ['[BOS]', '[EOS]'], unk_token='[UNK]')
  loaded = load(made, tmp_path)
  assert (loaded.bos_id, loaded.eos_id) == (3, 4)
  assert loaded.encode('a <s> a').tolist() == [2, 0, 2]


def test_text_that_needs_an_unknown_token_is_refused(tmp_path):
  vocabulary = {'<s>': 0, '</s>': 1, 'the': 2, 'cat': 3}
  loaded = load(words(vocabulary, ['<s>', '</s>']), tmp_path)
  assert loaded.encode('the cat').tolist() == [2, 3]
  for text, what in (('the dog', 'dog'), ('the </s>', '<')):
    with pytest.raises(ValueError, match=f"token for all of '{what}'") as e:
      loaded.encode(text)
    assert 'tokenizer.json' in str(e.value) and '\n' not in str(e.value)


def test_ids_past_32_bits_are_refused(tmp_path):
  made = words({'<s>': 0, '</s>': 1, 'the': 2**31}, ['<s>', '</s>'])
  with pytest.raises(ValueError, match='json.* below 2147483648, got 21474836'):
    load(made, tmp_path)


@pytest.mark.parametrize('text', ['the zebra', 'ζ', 'the c\tat', 'matζ cat'])
def test_byte_pairs_that_would_leave_characters_out_are_refused(
    tmp_path, text
):
  loaded = load(byte_pairs(alphabet=False), tmp_path)
  assert loaded.decode(loaded.encode(TEXT[0])) == TEXT[0]
  with pytest.raises(ValueError, match='nor an unknown token'):
    loaded.encode(text)


def test_byte_pairs_of_other_kinds_are_refused(tmp_path):
  made = package.Tokenizer(package.models.BPE())
  made.pre_tokenizer = package.pre_tokenizers.Whitespace()
  made.train_from_iterator(
      ['hug pug pun bun hugs'] * 9,
      package.trainers.BpeTrainer(
          vocab_size=30, special_tokens=['<s>', '</s>']
      ),
  )
  made.add_tokens(['ζζ'])  # A word of its own, which no model has to know.
  loaded = load(made, tmp_path)
  assert loaded.encode('hug ζζ bun').size == 3
  with pytest.raises(ValueError, match="all of 'mug' nor an unknown"):
    loaded.encode('hug mug')
  # With an unknown token nothing is lost.
  made.model.unk_token = '<s>'
  assert load(made, tmp_path).encode('hug mug').size == 3


def test_all_bytes_need_no_unknown_token(tmp_path):
  loaded = load(byte_pairs(), tmp_path)
  assert not loaded._may_lose
  text = 'ζ \U0001f600 \x00\t\n'
  assert loaded.decode(loaded.encode(text)) == text
  all_bytes = {f'<0x{b:02X}>': b + 2 for b in range(256)}
  vocabulary = {'<s>': 0, '</s>': 1} | all_bytes
  made = package.Tokenizer(
      package.models.BPE(vocabulary, [], byte_fallback=True)
  )
  made.decoder = package.decoders.ByteFallback()
  made.add_special_tokens(['<s>', '</s>'])
  loaded = load(made, tmp_path)
  assert not loaded._may_lose and loaded.decode(loaded.encode('aζ')) == 'aζ'
  assert np.array_equal(loaded.encode('<s>'), [62, 117, 64])


def test_damaged_files_are_refused_or_harmless(tmp_path):
  path = tmp_path / 'tokenizer.json'
  byte_pairs().save(str(path))
  whole = json.loads(path.read_text())
  for name in whole:
    for value in (None, [], {}, 3, 'x', {'type': 'x'}, [[[]]]):
      path.write_text(json.dumps({**whole, name: value}))
      try:
        tokenizers.load_tokenizer(str(path)).encode('the cat <|endoftext|>')
      except ValueError as e:
        assert 'tokenizer.json' in str(e)
