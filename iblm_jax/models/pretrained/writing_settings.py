"""A `DecoderConfig` as the `config.json` of a family, or a refusal."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from iblm_jax.models import config as model_config
from iblm_jax.models.pretrained import settings as reading

DecoderConfig = model_config.DecoderConfig
# How a model is computed, measured, begun and masked in training; what it
# computes of one document is the same.
_FREE = frozenset({
    'attention', 'document_mask', 'dtype', 'entropy', 'remat', 'scan_layers',
    'zero_init_outputs',
})
_GELUS = {'gelu': 'gelu_new', 'gelu_exact': 'gelu'}
_GATES = {'swiglu': 'silu', 'geglu': 'gelu_pytorch_tanh'}


def _scaling(cfg: DecoderConfig) -> dict[str, Any]:
  scaling = cfg.rotary_scaling
  if scaling is None:
    return {}
  found = {'rope_type': scaling.kind, 'factor': scaling.factor}
  if scaling.kind == 'llama3':
    found |= {
        'low_freq_factor': scaling.low,
        'high_freq_factor': scaling.high,
        'original_max_position_embeddings': scaling.original_length,
    }
  return {'rope_scaling': found}


def _sizes(cfg: DecoderConfig) -> dict[str, Any]:
  return dict(
      vocab_size=cfg.vocab_size,
      hidden_size=cfg.width,
      num_hidden_layers=cfg.num_layers,
      num_attention_heads=cfg.num_heads,
      intermediate_size=cfg.hidden_width,
      max_position_embeddings=cfg.max_length,
      tie_word_embeddings=cfg.tie_embeddings,
  )


def _rms_blocks(cfg: DecoderConfig) -> dict[str, Any]:
  return _sizes(cfg) | _scaling(cfg) | dict(
      hidden_act=_GATES.get(cfg.activation, 'silu'),
      rms_norm_eps=cfg.norm_epsilon,
      num_key_value_heads=cfg.kv_heads,
      head_dim=cfg.head_width,
      rope_theta=cfg.rotary_base,
  )


def _llama(cfg: DecoderConfig) -> dict[str, Any]:
  plain = _spelt_out(cfg)
  return _rms_blocks(cfg) | dict(
      attention_bias=plain['out_biases'], mlp_bias=plain['mlp_biases']
  )


def _mistral(cfg: DecoderConfig) -> dict[str, Any]:
  return _rms_blocks(cfg) | dict(sliding_window=cfg.window)


def _qwen2(cfg: DecoderConfig) -> dict[str, Any]:
  return _rms_blocks(cfg) | dict(use_sliding_window=False)


def _qwen3(cfg: DecoderConfig) -> dict[str, Any]:
  return _qwen2(cfg) | dict(attention_bias=_spelt_out(cfg)['out_biases'])


def _gemma(cfg: DecoderConfig) -> dict[str, Any]:
  tanh = 'gelu_pytorch_tanh'
  return _rms_blocks(cfg) | dict(
      hidden_act=tanh,
      hidden_activation=tanh,
      attention_bias=_spelt_out(cfg)['out_biases'],
  )


def _gemma2(cfg: DecoderConfig) -> dict[str, Any]:
  width = _spelt_out(cfg)['attention_width']
  every = cfg.full_every or cfg.num_layers + 1
  kinds = ('sliding_attention', 'full_attention')
  found = _gemma(cfg) | dict(
      query_pre_attn_scalar=int(width) if width == int(width) else width,
      attn_logit_softcapping=cfg.attention_softcap,
      final_logit_softcapping=cfg.logit_softcap,
      sliding_window=cfg.window or cfg.max_length,
      layer_types=[
          kinds[n % every == 0] for n in range(1, cfg.num_layers + 1)
      ],
  )
  del found['hidden_act']
  return found


def _gemma3(cfg: DecoderConfig) -> dict[str, Any]:
  return _gemma2(cfg) | dict(rope_local_base_freq=cfg.window_rotary_base)


def _neox(cfg: DecoderConfig) -> dict[str, Any]:
  return _sizes(cfg) | _scaling(cfg) | dict(
      hidden_act=_GELUS.get(cfg.activation, 'gelu'),
      layer_norm_eps=cfg.norm_epsilon,
      rotary_emb_base=cfg.rotary_base,
      rotary_pct=cfg.rotary_share,
      attention_bias=_spelt_out(cfg)['out_biases'],
      use_parallel_residual=cfg.parallel_residual,
  )


def _gpt2(cfg: DecoderConfig) -> dict[str, Any]:
  return dict(
      vocab_size=cfg.vocab_size,
      n_embd=cfg.width,
      n_layer=cfg.num_layers,
      n_head=cfg.num_heads,
      n_inner=cfg.hidden_width,
      n_positions=cfg.max_length,
      activation_function=_GELUS.get(cfg.activation, 'gelu_new'),
      layer_norm_epsilon=cfg.norm_epsilon,
      tie_word_embeddings=cfg.tie_embeddings,
  )


# What of a family can be said; the first that says all of a model is taken.
_WRITERS: dict[str, tuple[str, Callable[[DecoderConfig], dict[str, Any]]]] = {
    'llama': ('LlamaForCausalLM', _llama),
    'qwen2': ('Qwen2ForCausalLM', _qwen2),
    'qwen3': ('Qwen3ForCausalLM', _qwen3),
    'mistral': ('MistralForCausalLM', _mistral),
    'gemma': ('GemmaForCausalLM', _gemma),
    'gemma2': ('Gemma2ForCausalLM', _gemma2),
    'gemma3_text': ('Gemma3ForCausalLM', _gemma3),
    'gpt_neox': ('GPTNeoXForCausalLM', _neox),
    'gpt2': ('GPT2LMHeadModel', _gpt2),
}
FAMILIES = tuple(_WRITERS)


def from_config(
    cfg: DecoderConfig, family: str | None = None
) -> dict[str, Any]:
  """Turns one of our configs into the settings of a published model.

  Args:
    cfg: The model. Its training (`dtype`, `remat`, `document_mask`, how entropy
      is measured, ...) is not part of it.
    family: One of `FAMILIES`; None takes the first that has all switches of the
      model.

  Returns:
    What a `config.json` holds; `settings.to_config` gives the model again.

  Raises:
    ValueError: The family, or every family, lacks a switch of the model; the
      message names those that the nearest lacks.

  Example:
    >>> from_config(model_config.llama(64, window=8))['sliding_window']
    8
  """
  if family is not None and family not in FAMILIES:
    raise ValueError(f'family must be one of {FAMILIES}, got {family!r}.')
  nearest: tuple[str, list[str]] | None = None
  for kind in FAMILIES if family is None else (family,):
    architecture, write = _WRITERS[kind]
    settings = {'model_type': kind, 'architectures': [architecture]}
    settings |= write(cfg)
    differences = _differences(cfg, settings)
    if not differences:
      return settings
    if nearest is None or len(differences) < len(nearest[1]):
      nearest = kind, differences
  assert nearest is not None
  who = f'family {family!r}' if family else f'no family of {FAMILIES}'
  lacks = 'lacks switches' if family else 'has all switches'
  raise ValueError(
      f'{who} {lacks} of this model; {nearest[0]} needs'
      f' {"; ".join(nearest[1])}.'
  )


def _differences(cfg: DecoderConfig, settings: dict[str, Any]) -> list[str]:
  """What the settings of a family do not say of a model."""
  try:
    found = _spelt_out(reading.to_config(settings))
  except ValueError as error:
    return [str(error).rstrip('.')]
  wanted = _spelt_out(cfg)
  return [
      f'{name}={found[name]!r}, got {wanted[name]!r}'
      for name in wanted
      if name not in _FREE and found[name] != wanted[name]
  ]


def _spelt_out(cfg: DecoderConfig) -> Mapping[str, Any]:
  """All fields, with a value where None means one, or nothing is meant."""
  found = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
  found |= dict(
      num_kv_heads=cfg.kv_heads,
      head_dim=cfg.head_width,
      mlp_width=cfg.hidden_width,
      attention_width=cfg.attention_width or cfg.head_width,
  )
  for name in ('qkv_biases', 'out_biases', 'mlp_biases'):
    if found[name] is None:
      found[name] = cfg.biases
  # Without norms that have biases, the three above say all.
  if cfg.norm == 'rms':
    found['biases'] = False
  if cfg.positions != 'rotary':
    for name in ('rotary_base', 'rotary_share', 'rotary_scaling'):
      found[name] = None
  return found
