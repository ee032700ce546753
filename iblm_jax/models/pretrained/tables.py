"""Names of parameters in the files of every family."""

import re
from collections.abc import Mapping

from iblm_jax.models import config as model_config
from iblm_jax.models.pretrained.layout import Entry, linear, norm

_BLOCK = 'blocks/attention'


def _llama_like(norms: Mapping[str, str]) -> tuple[Entry, ...]:
  """Llama, Mistral, Qwen and Gemma, which name the norms of a block apart."""
  prefix = 'model.layers.{n}'
  own, mlp = f'{prefix}.self_attn', f'{prefix}.mlp'
  return (
      Entry('embed/tokens', 'model.embed_tokens.weight', 'v d -> v d'),
      *(
          entry
          for ours, theirs in norms.items()
          for entry in norm(f'blocks/{ours}', f'{prefix}.{theirs}')
      ),
      *linear(f'{_BLOCK}/query', f'{own}.q_proj', 'd', 'h k'),
      *linear(f'{_BLOCK}/key', f'{own}.k_proj', 'd', 'g k'),
      *linear(f'{_BLOCK}/value', f'{own}.v_proj', 'd', 'g k'),
      *linear(f'{_BLOCK}/out', f'{own}.o_proj', 'h k', 'd'),
      *norm(f'{_BLOCK}/query_norm', f'{own}.q_norm', 'k'),
      *norm(f'{_BLOCK}/key_norm', f'{own}.k_norm', 'k'),
      *linear('blocks/mlp/gate', f'{mlp}.gate_proj', 'd', 'f'),
      *linear('blocks/mlp/up', f'{mlp}.up_proj', 'd', 'f'),
      *linear('blocks/mlp/down', f'{mlp}.down_proj', 'f', 'd'),
      *norm('head/norm', 'model.norm'),
      Entry('head/kernel', 'lm_head.weight', 'v d -> d v'),
  )


def _fused(name: str, weight: str, bias: str) -> tuple[Entry, ...]:
  """Queries, keys and values in one array."""
  parts = (('query', 0), ('key', 1), ('value', 2))
  return tuple(
      entry
      for part, index in parts
      for entry in (
          Entry(f'{_BLOCK}/{part}/kernel', f'{name}.weight', weight, index),
          Entry(f'{_BLOCK}/{part}/bias', f'{name}.bias', bias, index),
      )
  )


def _neox() -> tuple[Entry, ...]:
  layer = 'gpt_neox.layers.{n}'
  return (
      Entry('embed/tokens', 'gpt_neox.embed_in.weight', 'v d -> v d'),
      *norm('blocks/attention_norm', f'{layer}.input_layernorm'),
      *_fused(
          f'{layer}.attention.query_key_value',
          '(h three k) d -> three d h k',
          '(h three k) -> three h k',
      ),
      *linear(f'{_BLOCK}/out', f'{layer}.attention.dense', 'h k', 'd'),
      *norm('blocks/mlp_norm', f'{layer}.post_attention_layernorm'),
      *linear('blocks/mlp/up', f'{layer}.mlp.dense_h_to_4h', 'd', 'f'),
      *linear('blocks/mlp/down', f'{layer}.mlp.dense_4h_to_h', 'f', 'd'),
      *norm('head/norm', 'gpt_neox.final_layer_norm'),
      Entry('head/kernel', 'embed_out.weight', 'v d -> d v'),
  )


def _conv(path: str, name: str, inputs: str, outputs: str):
  """GPT-2's linear maps are stored as [in, out]."""
  weights, biases = linear(path, name, inputs, outputs)
  pattern = f'({inputs}) ({outputs}) -> {inputs} {outputs}'
  return weights._replace(pattern=pattern), biases


def _gpt2() -> tuple[Entry, ...]:
  return (
      Entry('embed/tokens', 'wte.weight', 'v d -> v d'),
      Entry('embed/positions', 'wpe.weight', 't d -> t d'),
      *norm('blocks/attention_norm', 'h.{n}.ln_1'),
      *_fused(
          'h.{n}.attn.c_attn',
          'd (three h k) -> three d h k',
          '(three h k) -> three h k',
      ),
      *_conv(f'{_BLOCK}/out', 'h.{n}.attn.c_proj', 'h k', 'd'),
      *norm('blocks/mlp_norm', 'h.{n}.ln_2'),
      *_conv('blocks/mlp/up', 'h.{n}.mlp.c_fc', 'd', 'f'),
      *_conv('blocks/mlp/down', 'h.{n}.mlp.c_proj', 'f', 'd'),
      *norm('head/norm', 'ln_f'),
      Entry('head/kernel', 'lm_head.weight', 'v d -> d v'),
  )


def _gguf(reorders: bool) -> tuple[Entry, ...]:
  """A GGUF; the rows of queries and keys of a Llama alternate between halves.

  Its converter writes the two halves of every head, which are rotated together,
  as pairs of neighbours.
  """
  heads, shared = ('h half two', 'g half two') if reorders else (None, None)
  split = '(two half)' if reorders else 'k'
  return (
      Entry('embed/tokens', 'token_embd.weight', 'v d -> v d'),
      *norm('blocks/attention_norm', 'blk.{n}.attn_norm'),
      *linear(f'{_BLOCK}/query', 'blk.{n}.attn_q', 'd', f'h {split}', heads),
      *linear(f'{_BLOCK}/key', 'blk.{n}.attn_k', 'd', f'g {split}', shared),
      *linear(f'{_BLOCK}/value', 'blk.{n}.attn_v', 'd', 'g k'),
      *linear(f'{_BLOCK}/out', 'blk.{n}.attn_output', 'h k', 'd'),
      *norm(f'{_BLOCK}/query_norm', 'blk.{n}.attn_q_norm', 'k'),
      *norm(f'{_BLOCK}/key_norm', 'blk.{n}.attn_k_norm', 'k'),
      *norm('blocks/mlp_norm', 'blk.{n}.ffn_norm'),
      *linear('blocks/mlp/gate', 'blk.{n}.ffn_gate', 'd', 'f'),
      *linear('blocks/mlp/up', 'blk.{n}.ffn_up', 'd', 'f'),
      *linear('blocks/mlp/down', 'blk.{n}.ffn_down', 'f', 'd'),
      *norm('head/norm', 'output_norm'),
      Entry('head/kernel', 'output.weight', 'v d -> d v'),
  )


_LLAMA = _llama_like({
    'attention_norm': 'input_layernorm',
    'mlp_norm': 'post_attention_layernorm',
})
_GEMMA = _llama_like({
    'attention_norm': 'input_layernorm',
    'attention_output_norm': 'post_attention_layernorm',
    'mlp_norm': 'pre_feedforward_layernorm',
    'mlp_output_norm': 'post_feedforward_layernorm',
})
# By `model_type` of a config.json.
SAFETENSORS = {
    'gpt2': _gpt2(),
    'llama': _LLAMA,
    'mistral': _LLAMA,
    'qwen2': _LLAMA,
    'qwen3': _LLAMA,
    'gpt_neox': _neox(),
    'gemma': _LLAMA,
    'gemma2': _GEMMA,
    'gemma3_text': _GEMMA,
}
# By `general.architecture` of a GGUF.
GGUF = {
    'llama': _gguf(reorders=True),
    'qwen2': _gguf(reorders=False),
    'qwen3': _gguf(reorders=False),
}
# Not a weight, but what the config is made of.
ROPE_FACTORS = 'rope_freqs.weight'

# Buffers of older files, not weights: masks and rotary frequencies.
BUFFERS = re.compile(
    r'h\.\d+\.attn\.(bias|masked_bias)'
    r'|gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias)'
    r'|.*\.rotary_emb\.inv_freq'
    f'|{ROPE_FACTORS}'
)
# Heads, which are not read where the embeddings are used in their place.
_TIED = r'|lm_head\.weight|embed_out\.weight|output\.weight'


def ignored(cfg: model_config.DecoderConfig) -> re.Pattern[str]:
  """Gives the names of tensors that a file may hold and nobody reads."""
  return re.compile(BUFFERS.pattern + (_TIED if cfg.tie_embeddings else ''))
