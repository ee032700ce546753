"""The byte-level BPE that a GGUF describes, as a `tokenizers.Tokenizer`."""

from collections.abc import Callable
from typing import Any

# Of `token_type`.
_CONTROL, _USER_DEFINED = 3, 4
# How text is cut before pairs are merged: digits of a number, at most so many
# together, and otherwise alike.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_PATTERNS = {'llama-bpe': _WORDS % r'\p{N}{1,3}', 'qwen2': _WORDS % r'\p{N}'}
PRE_TOKENIZERS = ('smollm', 'gpt-2', *_PATTERNS)


def build(path: str, value: Callable[[str, Any], Any]) -> Any:
  """Builds the tokenizer.

  Args:
    path: Of the file, for messages.
    value: `(key, default) -> value` of the file.

  Raises:
    ValueError: It is no byte-level BPE, its pre-tokenizer is not known, its
      lists do not fit together, or the package tokenizers is not installed.
  """
  try:
    import tokenizers
    from tokenizers import (
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
  except ImportError as error:
    raise ValueError(
        f'the tokenizer of {path!r} needs the package tokenizers: run'
        " `pip install 'iblm-jax[gguf]'`."
    ) from error
  kind = value('tokenizer.ggml.model', None)
  if kind != 'gpt2':
    raise ValueError(
        f"{path}: tokenizer.ggml.model must be 'gpt2', got {kind!r}."
    )
  pre = value('tokenizer.ggml.pre', None)
  if pre not in PRE_TOKENIZERS:
    raise ValueError(
        f'{path}: tokenizer.ggml.pre must be one of {PRE_TOKENIZERS}, got'
        f' {pre!r}.'
    )
  tokens = value('tokenizer.ggml.tokens', [])
  types = value('tokenizer.ggml.token_type', [1] * len(tokens))
  if len(types) != len(tokens):
    raise ValueError(
        f'{path}: tokenizer.ggml.token_type must have {len(tokens)} entries,'
        f' as many as there are tokens, got {len(types)}.'
    )
  merges = [
      tuple(pair.split(' ', 1)) for pair in value('tokenizer.ggml.merges', [])
  ]
  try:
    built = tokenizers.Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            merges,
            ignore_merges=pre == 'llama-bpe',
        )
    )
  except Exception as error:  # the package has no other type for it
    raise ValueError(
        f'{path}: tokens and merges do not fit together: {error}.'
    ) from error
  letters = pre_tokenizers.ByteLevel(
      add_prefix_space=False, use_regex=pre not in _PATTERNS
  )
  first: list[Any] = []
  if pre == 'smollm':
    first.append(pre_tokenizers.Digits(individual_digits=True))
  if pre in _PATTERNS:
    pattern = tokenizers.Regex(_PATTERNS[pre])
    first.append(pre_tokenizers.Split(pattern, 'isolated'))
  built.pre_tokenizer = pre_tokenizers.Sequence([*first, letters])
  if pre == 'qwen2':
    built.normalizer = normalizers.NFC()
  built.decoder = decoders.ByteLevel()
  for of_type in (_CONTROL, _USER_DEFINED):
    built.add_tokens([
        tokenizers.AddedToken(
            token, special=of_type == _CONTROL, normalized=False
        )
        for token, found in zip(tokens, types, strict=True)
        if found == of_type
    ])
  if value('tokenizer.ggml.add_bos_token', False):
    bos = value('tokenizer.ggml.bos_token_id', None)
    if not isinstance(bos, int) or not 0 <= bos < len(tokens):
      raise ValueError(
          f'{path}: tokenizer.ggml.bos_token_id must lie in'
          f' [0, {len(tokens) - 1}], got {bos!r}.'
      )
    built.post_processor = processors.TemplateProcessing(
        f'{tokens[bos]} $A', special_tokens=[(tokens[bos], bos)]
    )
  return built
