"""The package `tokenizers` gives our ids from what we write."""

import json

import numpy as np
import pytest

from iblm_jax.data.text import tokenizer_json
from iblm_jax.data.text import tokenizers as ours

package = pytest.importorskip('tokenizers')

TEXT = 'Zürich\r\n 12×3 =\t漢字\x00 ~\u00ad👍 <tag> don\'t  stop\x7f\u0080'


def test_bytes(tmp_path):
  mine = ours.ByteTokenizer()
  path = tmp_path / 'tokenizer.json'
  path.write_text(tokenizer_json.to_json(mine))
  theirs = package.Tokenizer.from_file(str(path))
  every = ''.join(map(chr, range(0x800)))  # all bytes but those of longer ones
  for text in (TEXT, every):
    ids = mine.encode(text).tolist()
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text
  again = ours.load_tokenizer(str(path))
  for name in ('vocab_size', 'bos_id', 'eos_id', 'pad_id'):
    assert getattr(again, name) == getattr(mine, name)
  # Read by us, the letters of a mark are text, as they are for bytes.
  np.testing.assert_array_equal(again.encode('a<s>b'), mine.encode('a<s>b'))
  assert theirs.encode('a<s>b').ids == [97, 256, 98]
  assert theirs.decode([256, 97, 257]) == 'a'


def test_digits(tmp_path):
  mine = ours.DigitTokenizer()
  path = tmp_path / 'tokenizer.json'
  path.write_text(tokenizer_json.to_json(mine))
  again = ours.load_tokenizer(str(path))
  text = '12x3=7890456'
  np.testing.assert_array_equal(again.encode(text), mine.encode(text))
  assert again.decode(again.encode(text)) == text
  for name in ('vocab_size', 'bos_id', 'eos_id', 'pad_id'):
    assert getattr(again, name) == getattr(mine, name)
  with pytest.raises(ValueError, match="neither a token for all of 'y'"):
    again.encode('1y')


def test_a_file_is_what_it_was(tmp_path):
  path = tmp_path / 'tokenizer.json'
  built = package.Tokenizer(
      package.models.WordLevel({'a': 0, '<|endoftext|>': 1}, 'a')
  )
  built.add_special_tokens(['<|endoftext|>'])
  built.post_processor = package.processors.TemplateProcessing(
      '$A <|endoftext|>', special_tokens=[('<|endoftext|>', 1)]
  )
  built.save(str(path))
  loaded = ours.of_object(package.Tokenizer.from_file(str(path)), 'it')
  assert json.loads(tokenizer_json.to_json(loaded)) == json.loads(
      path.read_text()
  )


def test_others_have_none_or_say_it():
  class Own:
    def to_json(self):
      return 'mine'

  assert tokenizer_json.to_json(Own()) == 'mine'
  assert tokenizer_json.to_json(object()) is None
