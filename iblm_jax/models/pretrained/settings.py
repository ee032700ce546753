"""A `config.json` of another library as a `DecoderConfig`, or a refusal."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from iblm_jax.models import config as model_config

DecoderConfig = model_config.DecoderConfig
_MISSING = object()
# Settings that no logit depends on: of training, of generation, of the file.
_IGNORED = frozenset({
    '_attn_implementation', '_name_or_path', 'architectures',
    'attention_dropout', 'attn_pdrop', 'auto_map', 'bos_token_id',
    'cache_implementation',
    'classifier_dropout', 'dtype', 'embd_pdrop', 'eos_token_id',
    'finetuning_task', 'gradient_checkpointing', 'hidden_dropout', 'id2label',
    'initializer_range', 'is_decoder', 'is_llama_config',
    'keys_to_ignore_at_inference', 'label2id', 'max_window_layers',
    'model_type', 'n_ctx', 'output_attentions', 'output_hidden_states',
    'pad_token_id', 'pretraining_tp', 'problem_type', 'resid_pdrop',
    'return_dict', 'summary_activation', 'summary_first_dropout',
    'summary_proj_to_labels', 'summary_type', 'summary_use_proj',
    'task_specific_params', 'tokenizer_class', 'torch_dtype',
    'transformers.js_config', 'transformers_version', 'use_cache',
})
# Theirs -> ours; several of theirs are the same function.
_GELUS = {
    'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'gelu_fast': 'gelu',
    'gelu': 'gelu_exact',
}
_GATES = {'silu': 'swiglu', 'swish': 'swiglu', 'gelu_pytorch_tanh': 'geglu'}


class Settings:
  """Settings by name, of which none may be overlooked."""

  def __init__(self, given: Mapping[str, Any]):
    self._given = dict(given)
    self._used = set(_IGNORED)

  def take(self, name: str, default: Any = _MISSING) -> Any:
    """Gives a setting; null is as if it were not there."""
    self._used.add(name)
    value = self._given.get(name)
    if value is None:
      if default is _MISSING:
        raise ValueError(f'{name} must be given.')
      return default
    return value

  def nullable(self, name: str, default: Any) -> Any:
    """Gives a setting of which null says something of its own."""
    return self.take(name, None if name in self._given else default)

  def positive(self, name: str, default: Any = _MISSING) -> float:
    """Gives a setting that is a finite number above 0."""
    value = self.take(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1e30:
      raise ValueError(
          f'{name} must be a number above 0 and below 1e30, got {value!r:.60}.'
      )
    return float(value)

  def group(self, name: str) -> 'Settings | None':
    """Gives a group of settings; None where there is none."""
    value = self.take(name, {})
    if not isinstance(value, Mapping):
      raise ValueError(f'{name} must hold settings, got {value!r:.60}.')
    return Settings(value) if value else None

  def fixed(self, **values: Any) -> None:
    """Refuses settings that differ from the only values that are built."""
    for name, value in values.items():
      found = self.take(name, value)
      if found != value:
        raise ValueError(f'{name} must be {value}, got {found!r}.')

  def choice(self, name: str, default: str, ours: Mapping[str, str]) -> str:
    """Translates a name."""
    found = self.take(name, default)
    if not isinstance(found, str) or found not in ours:
      raise ValueError(
          f'{name} must be one of {tuple(ours)}, got {found!r}.'
      )
    return ours[found]

  def finish(self) -> None:
    """Refuses what has not been asked for: it may change the computation."""
    rest = sorted(self._given.keys() - self._used)
    if rest:
      values = ', '.join(f'{name}={self._given[name]!r:.60}' for name in rest)
      raise ValueError(
          f'unknown settings, which may change the computation: {values}.'
      )


def _rotary(
    settings: Settings,
    theta: str,
    share: str | None,
    nested: Mapping[str, Any] | None = None,
    default: float = 10_000.0,
) -> dict[str, Any]:
  """Base, share and scaling, from where old and new files have them."""
  groups = [settings.group(n) for n in ('rope_parameters', 'rope_scaling')]
  own = Settings(nested) if nested else groups[0] or groups[1] or Settings({})
  base = settings.positive(theta, default)
  base = own.positive('rope_theta', settings.positive('rope_theta', base))
  found: dict[str, Any] = {'rotary_base': base}
  if share is None:
    own.fixed(partial_rotary_factor=1.0)
    settings.fixed(partial_rotary_factor=1.0)
  else:
    part = settings.take('partial_rotary_factor', settings.take(share, 0.25))
    found['rotary_share'] = own.take('partial_rotary_factor', part)
  kind = own.take('rope_type', own.take('type', 'default'))
  own.take('type', None)
  if kind == 'linear':
    found['rotary_scaling'] = model_config.RotaryScaling(
        'linear', factor=own.positive('factor')
    )
  elif kind == 'llama3':
    found['rotary_scaling'] = model_config.RotaryScaling(
        'llama3',
        factor=own.positive('factor'),
        low=own.positive('low_freq_factor'),
        high=own.positive('high_freq_factor'),
        original_length=own.take('original_max_position_embeddings'),
    )
  elif kind != 'default':
    raise ValueError(
        "rope_type must be one of ('default', 'linear', 'llama3'), got"
        f' {kind!r}.'
    )
  own.finish()
  return found


def _sizes(settings: Settings) -> dict[str, Any]:
  return dict(
      vocab_size=settings.take('vocab_size'),
      num_layers=settings.take('num_hidden_layers'),
      width=settings.take('hidden_size'),
      num_heads=settings.take('num_attention_heads'),
      mlp_width=settings.take('intermediate_size'),
      max_length=settings.take('max_position_embeddings', 2048),
      tie_embeddings=settings.take('tie_word_embeddings', False),
      document_mask=False,
  )


def _rms_blocks(settings: Settings, kv_heads: int | None) -> dict[str, Any]:
  """What Llama, Mistral and Qwen have in common."""
  return (
      _rms_sizes(settings, kv_heads) | _rotary(settings, 'rope_theta', None)
  ) | dict(activation=settings.choice('hidden_act', 'silu', _GATES))


def _rms_sizes(settings: Settings, kv_heads: int | None) -> dict[str, Any]:
  sizes = _sizes(settings)
  default = kv_heads or sizes['num_heads']
  return sizes | dict(
      norm='rms',
      norm_epsilon=settings.take('rms_norm_eps', 1e-6),
      num_kv_heads=settings.take('num_key_value_heads', default),
      head_dim=settings.take('head_dim', None),
  )


def _no_windows(settings: Settings) -> None:
  """Qwen can let some layers look back a shorter way; so far none does."""
  settings.fixed(use_sliding_window=False)
  settings.take('sliding_window', None)
  kinds = settings.take('layer_types', [])
  if set(kinds) - {'full_attention'}:
    raise ValueError(f"layer_types must all be 'full_attention', got {kinds}.")


def _llama(settings: Settings) -> dict[str, Any]:
  settings.fixed(rope_interleaved=False)
  everywhere = settings.take('attention_bias', False)
  return _rms_blocks(settings, None) | dict(
      qkv_biases=everywhere,
      out_biases=everywhere,
      mlp_biases=settings.take('mlp_bias', False),
  )


def _mistral(settings: Settings) -> dict[str, Any]:
  settings.fixed(attention_bias=False)
  window = settings.nullable('sliding_window', 4096)
  return _rms_blocks(settings, 8) | dict(window=window)


def _qwen2(settings: Settings) -> dict[str, Any]:
  _no_windows(settings)
  return _rms_blocks(settings, 32) | dict(qkv_biases=True)


def _qwen3(settings: Settings) -> dict[str, Any]:
  _no_windows(settings)
  everywhere = settings.take('attention_bias', False)
  common = _rms_blocks(settings, 32)
  return common | dict(
      head_dim=common['head_dim'] or 128,
      qk_norm=True,
      qk_norm_scale=True,
      qkv_biases=everywhere,
      out_biases=everywhere,
  )


def _gemma_blocks(
    settings: Settings, kv_heads: int, act: str, gates: Mapping[str, str]
) -> dict[str, Any]:
  """What the generations of Gemma have in common."""
  settings.fixed(use_bidirectional_attention=False)
  everywhere = settings.take('attention_bias', False)
  common = _rms_sizes(settings, kv_heads)
  return common | dict(
      norm_plus_one=True,
      head_dim=common['head_dim'] or 256,
      activation=settings.choice(act, 'gelu_pytorch_tanh', gates),
      embedding_scale=math.sqrt(common['width']),
      tie_embeddings=settings.take('tie_word_embeddings', True),
      qkv_biases=everywhere,
      out_biases=everywhere,
  )


def _gemma(settings: Settings) -> dict[str, Any]:
  # Its makers always meant the tanh, whatever the file calls it.
  gates = {'gelu': 'geglu', 'gelu_pytorch_tanh': 'geglu'}
  settings.choice('hidden_activation', 'gelu', gates)
  return _gemma_blocks(settings, 16, 'hidden_act', gates) | _rotary(
      settings, 'rope_theta', None
  )


def _windowed_gemma(settings: Settings, every: int) -> dict[str, Any]:
  """Of the second and third generation, in which most layers have a window."""
  gates = {'gelu_pytorch_tanh': 'geglu'}
  settings.take('hidden_act', None)  # in older files, and never read
  common = _gemma_blocks(settings, 4, 'hidden_activation', gates)
  for name in ('sliding_window_pattern', '_sliding_window_pattern'):
    every = settings.take(name, every)
  kinds = settings.take('layer_types', None)
  if kinds is not None:
    every = _period(kinds, common['num_layers'])
  return common | dict(
      output_norms=True,
      attention_width=settings.take('query_pre_attn_scalar', 256),
      window=settings.take('sliding_window'),
      full_every=every,
  )


def _period(kinds: Any, num_layers: int) -> int:
  """Says that every so manieth layer has no window."""
  names = ('sliding_attention', 'full_attention')
  if isinstance(kinds, list) and len(kinds) == num_layers:
    every = [*kinds, names[1]].index(names[1]) + 1
    if kinds == [names[n % every == 0] for n in range(1, num_layers + 1)]:
      return every
  raise ValueError(
      f'layer_types must be {num_layers} times {names[0]!r}, but {names[1]!r}'
      f' every so many, got {kinds!r:.80}.'
  )


def _gemma2(settings: Settings) -> dict[str, Any]:
  common = _windowed_gemma(settings, 2) | _rotary(settings, 'rope_theta', None)
  return common | dict(
      attention_softcap=settings.nullable('attn_logit_softcapping', 50.0),
      logit_softcap=settings.nullable('final_logit_softcapping', 30.0),
  )


def _gemma3(settings: Settings) -> dict[str, Any]:
  settings.fixed(attn_logit_softcapping=None)
  both = Settings(settings.take('rope_parameters', {}))
  near = Settings(both.take('sliding_attention', {}))
  near.fixed(rope_type='default')
  base = settings.take('rope_local_base_freq', 10_000.0)
  base = near.take('rope_theta', base)
  far = both.take('full_attention', None)
  for part in (both, near):
    part.finish()
  rotary = _rotary(settings, 'rope_theta', None, far, 1_000_000.0)
  return _windowed_gemma(settings, 6) | rotary | dict(
      window_rotary_base=float(base),
      qk_norm=True,
      qk_norm_scale=True,
      logit_softcap=settings.nullable('final_logit_softcapping', None),
  )


def _neox(settings: Settings) -> dict[str, Any]:
  attends = settings.take('attention_bias', True)
  return (
      _sizes(settings) | _rotary(settings, 'rotary_emb_base', 'rotary_pct')
  ) | dict(
      norm='layer',
      norm_epsilon=settings.take('layer_norm_eps', 1e-5),
      activation=settings.choice('hidden_act', 'gelu', _GELUS),
      biases=True,
      qkv_biases=attends,
      out_biases=attends,
      parallel_residual=settings.take('use_parallel_residual', True),
  )


def _gpt2(settings: Settings) -> dict[str, Any]:
  settings.fixed(
      scale_attn_weights=True,
      scale_attn_by_inverse_layer_idx=False,
      reorder_and_upcast_attn=False,
      add_cross_attention=False,
  )
  width = settings.take('n_embd')
  return dict(
      vocab_size=settings.take('vocab_size'),
      num_layers=settings.take('n_layer'),
      width=width,
      num_heads=settings.take('n_head'),
      mlp_width=settings.take('n_inner', 4 * width),
      max_length=settings.take('n_positions'),
      norm='layer',
      norm_epsilon=settings.take('layer_norm_epsilon', 1e-5),
      positions='learned',
      activation=settings.choice('activation_function', 'gelu_new', _GELUS),
      tie_embeddings=settings.take('tie_word_embeddings', True),
      biases=True,
      document_mask=False,
  )


_READERS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    'gpt2': _gpt2,
    'llama': _llama,
    'mistral': _mistral,
    'qwen2': _qwen2,
    'qwen3': _qwen3,
    'gpt_neox': _neox,
    'gemma': _gemma,
    'gemma2': _gemma2,
    'gemma3_text': _gemma3,
}


def to_config(given: Mapping[str, Any]) -> DecoderConfig:
  """Turns the settings of a published model into ours.

  Args:
    given: From its `config.json`, with a `model_type` that is known.

  Raises:
    ValueError: The family is none of these, a size is missing, or a setting is
      unknown or has a value that is not built.

  Example:
    >>> cfg = to_config(dict(
    ...     model_type='llama', vocab_size=64, num_hidden_layers=2,
    ...     hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
    ...     intermediate_size=48, rms_norm_eps=1e-5))
    >>> cfg.kv_heads, cfg.activation
    (2, 'swiglu')
  """
  kind = given.get('model_type')
  if not isinstance(kind, str) or kind not in _READERS:
    raise ValueError(
        f'model_type must be one of {tuple(_READERS)}, got {kind!r}.'
    )
  settings = Settings(given)
  try:
    options = _READERS[kind](settings)
    settings.finish()
    return DecoderConfig(**_plain(options))
  except TypeError as error:
    raise ValueError(f'a setting has a wrong type: {error}.') from error


def _plain(options: dict[str, Any]) -> dict[str, Any]:
  """Leaves out what says the same as nothing."""
  heads, width = options['num_heads'], options['width']
  if options.get('num_kv_heads') == heads:
    del options['num_kv_heads']
  if options.get('head_dim') and options['head_dim'] * heads == width:
    del options['head_dim']
  if not options.get('biases'):
    for name in ('qkv_biases', 'out_biases', 'mlp_biases'):
      if options.get(name) is False:
        del options[name]
  return options
