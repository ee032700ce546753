"""Tokenizers as the `tokenizer.json` of the package `tokenizers`."""

import json
from collections.abc import Sequence
from typing import Any

from iblm_jax.data.text import tokenizers

# Bytes that a byte-level model writes as the letter of their number; all others
# are letters from 256 on, in their order.
_AS_THEY_ARE = {*range(33, 127), *range(161, 173), *range(174, 256)}


def to_json(tokenizer: tokenizers.Tokenizer) -> str | None:
  """Returns the contents of a `tokenizer.json` that gives the same ids.

  Args:
    tokenizer: Any; one of one's own says them in a method `to_json`.

  Returns:
    The contents. Letters of a special token are that token there, also within a
    text. None for a tokenizer that has no such form, as SentencePiece.

  >>> json.loads(to_json(tokenizers.ByteTokenizer()))['model']['type']
  'BPE'
  """
  if isinstance(tokenizer, tokenizers.ByteTokenizer):
    others = iter(range(256, 512))
    letters = [
        chr(byte if byte in _AS_THEY_ARE else next(others))
        for byte in range(256)
    ]
    level = {
        'type': 'ByteLevel',
        'add_prefix_space': False,
        'trim_offsets': True,
        'use_regex': False,
    }
    model = {'type': 'BPE', 'merges': []}
    return _written(tokenizer, letters, 0, model, level, level)
  if isinstance(tokenizer, tokenizers.DigitTokenizer):
    ids = range(tokenizer.times_id, tokenizer.vocab_size)
    letters = [tokenizer.decode([i]) for i in ids]
    each = {
        'type': 'Split',
        'pattern': {'Regex': r'[\s\S]'},
        'behavior': 'Isolated',
        'invert': False,
    }
    # There is no such token, so another character is refused.
    model = {'type': 'WordLevel', 'unk_token': '<unk>'}
    return _written(tokenizer, letters, ids[0], model, each, {'type': 'Fuse'})
  own = getattr(tokenizer, 'to_json', None)
  return None if own is None else own()


def _written(
    tokenizer: tokenizers.Tokenizer,
    letters: Sequence[str],
    first_id: int,
    model: dict[str, Any],
    pre_tokenizer: dict[str, Any],
    decoder: dict[str, Any],
) -> str:
  special = {
      '<s>': tokenizer.bos_id,
      '</s>': tokenizer.eos_id,
      '<pad>': tokenizer.pad_id,
  }
  vocabulary = {letter: i for i, letter in enumerate(letters, first_id)}
  added = [
      {
          'id': i,
          'content': content,
          'single_word': False,
          'lstrip': False,
          'rstrip': False,
          'normalized': False,
          'special': True,
      }
      for content, i in special.items()
  ]
  tree = {
      'version': '1.0',
      'truncation': None,
      'padding': None,
      'added_tokens': added,
      'normalizer': None,
      'pre_tokenizer': pre_tokenizer,
      'post_processor': None,
      'decoder': decoder,
      'model': {**model, 'vocab': special | vocabulary},
  }
  return json.dumps(tree, ensure_ascii=False)
