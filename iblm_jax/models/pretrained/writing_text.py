"""Files of a published model that are about text, not numbers."""

import json
import warnings
from typing import Any, NamedTuple

from iblm_jax.data.text import tokenizer_json, tokenizers
from iblm_jax.models import config as model_config
from iblm_jax.models.pretrained import loading

# What may lie beside the numbers of a published model.
_TAKEN = (
    'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json',
    'added_tokens.json', 'chat_template.jinja', 'generation_config.json',
)


class TextFiles(NamedTuple):
  """What a model's folder says of text.

  Attributes:
    settings: Of `config.json`.
    contents: Of whole files, by name.
  """

  settings: dict[str, Any]
  contents: dict[str, bytes]


def of_tokenizer(
    tokenizer: tokenizers.Tokenizer | None,
    cfg: model_config.DecoderConfig,
    like: loading.Head | None,
) -> TextFiles:
  """Makes the files of a tokenizer.

  Args:
    tokenizer: See `writing.save`.
    cfg: The model.
    like: See `writing.save`.

  Raises:
    ValueError: The tokenizer has ids that the model does not.
  """
  if tokenizer is None:
    return TextFiles({}, {'generation_config.json': _json({})})
  loading.check_ids(tokenizer, cfg)
  says = lambda key: None
  if like is not None and like.folder is None:
    says = lambda key: like.tensors.value(f'tokenizer.{key}', None)
  own, end = tokenizer.eos_id, says('ggml.eos_token_id')
  if not isinstance(end, int) or not 0 <= end < tokenizer.vocab_size:
    end = own
  settings = {'bos_token_id': tokenizer.bos_id, 'eos_token_id': end}
  ends = end if end == own else [end, own]
  generation = settings | {
      'eos_token_id': ends, 'pad_token_id': tokenizer.pad_id
  }
  contents = {'generation_config.json': _json(generation)}
  text = tokenizer_json.to_json(tokenizer)
  if text is None:
    warnings.warn(
        f'a {type(tokenizer).__name__.strip("_")} has no tokenizer.json: the'
        ' tokenizer is not written.',
        stacklevel=3,
    )
  else:
    added = json.loads(text)['added_tokens']
    names = {token['id']: token['content'] for token in added}
    words = {
        # Of any tokenizer.json: ids are those of the file, whatever the model.
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'clean_up_tokenization_spaces': False,
        'bos_token': names[tokenizer.bos_id],
        'eos_token': names.get(end, names[own]),
        'pad_token': names[tokenizer.pad_id],
        'chat_template': says('chat_template'),
    }
    kept = {key: word for key, word in words.items() if word is not None}
    contents |= {
        'tokenizer.json': text.encode(), 'tokenizer_config.json': _json(kept)
    }
  if like is not None and like.folder is not None:
    paths = [like.folder / name for name in _TAKEN]
    contents |= {p.name: p.read_bytes() for p in paths if p.exists()}
  return TextFiles(settings, contents)


def _json(tree: Any) -> bytes:
  return (json.dumps(tree, indent=2) + '\n').encode()
