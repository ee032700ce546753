"""Tiny models in the published layouts, and what they compute, in NumPy.

Written from the definitions of the families on their own names, for comparison
only: nothing of the package is used.
"""

import json
import math

import numpy as np

V, T, D, N, F = 48, 64, 24, 2, 40
_COMMON = dict(
    vocab_size=V, hidden_size=D, num_hidden_layers=N, num_attention_heads=4,
    intermediate_size=F, max_position_embeddings=T, torch_dtype='float32',
)
_RMS = dict(
    _COMMON, num_key_value_heads=2, hidden_act='silu', rms_norm_eps=1e-2,
    rope_theta=500.0,
)
_GEMMA = dict(
    _RMS, hidden_activation='gelu_pytorch_tanh', head_dim=8,
)
SETTINGS = {
    'llama': dict(
        _RMS, model_type='llama', attention_bias=False, mlp_bias=False,
        tie_word_embeddings=True,
        rope_scaling=dict(
            rope_type='llama3', factor=4.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=16,
        ),
    ),
    'llama with biases': dict(
        _RMS, model_type='llama', attention_bias=True, mlp_bias=True,
        rope_scaling=dict(type='linear', factor=2.0),
    ),
    'mistral': dict(_RMS, model_type='mistral', sliding_window=4, head_dim=10),
    'qwen2': dict(
        _RMS, model_type='qwen2', use_sliding_window=False, sliding_window=3,
        max_window_layers=1, tie_word_embeddings=True,
    ),
    'qwen3': dict(
        _RMS, model_type='qwen3', head_dim=8, attention_bias=False,
        layer_types=['full_attention'] * N,
    ),
    'gemma': dict(
        _GEMMA, model_type='gemma', hidden_act='gelu', num_key_value_heads=1,
        hidden_activation=None,
    ),
    'gemma2': dict(
        _GEMMA, model_type='gemma2', sliding_window=4,
        query_pre_attn_scalar=5, attn_logit_softcapping=0.7,
        final_logit_softcapping=2.0, cache_implementation='hybrid',
    ),
    'gemma3_text': dict(
        _GEMMA, model_type='gemma3_text', sliding_window=4,
        query_pre_attn_scalar=5, attn_logit_softcapping=None,
        final_logit_softcapping=None, sliding_window_pattern=2,
        rope_local_base_freq=20.0, attention_bias=True,
        rope_scaling=dict(rope_type='linear', factor=2.0),
    ),
    'gpt_neox': dict(
        _COMMON, model_type='gpt_neox', hidden_act='gelu', rotary_pct=0.34,
        rotary_emb_base=500, layer_norm_eps=1e-2, use_parallel_residual=True,
    ),
    'gpt_neox in sequence': dict(
        _COMMON, model_type='gpt_neox', hidden_act='gelu_new',
        layer_norm_eps=1e-2, use_parallel_residual=False,
        rope_parameters=dict(
            rope_type='default', rope_theta=500.0, partial_rotary_factor=0.34
        ),
    ),
}


def shapes(settings):
  """Names and shapes of a family's tensors."""
  heads = settings['num_attention_heads']
  width = settings.get('head_dim', D // heads)
  q, kv = heads * width, settings.get('num_key_value_heads', heads) * width
  kind = settings['model_type']
  found = {}

  def linear(name, outputs, inputs, bias):
    found[f'{name}.weight'] = (outputs, inputs)
    if bias:
      found[f'{name}.bias'] = (outputs,)

  if kind == 'gpt_neox':
    found['gpt_neox.embed_in.weight'] = found['embed_out.weight'] = (V, D)
    norms = ['gpt_neox.final_layer_norm']
    for n in range(N):
      layer = f'gpt_neox.layers.{n}'
      norms += [f'{layer}.input_layernorm', f'{layer}.post_attention_layernorm']
      linear(f'{layer}.attention.query_key_value', 3 * D, D, True)
      linear(f'{layer}.attention.dense', D, D, True)
      linear(f'{layer}.mlp.dense_h_to_4h', F, D, True)
      linear(f'{layer}.mlp.dense_4h_to_h', D, F, True)
    for name in norms:
      found |= {f'{name}.weight': (D,), f'{name}.bias': (D,)}
    return found
  found |= {'model.embed_tokens.weight': (V, D), 'model.norm.weight': (D,)}
  if not settings.get('tie_word_embeddings', 'gemma' in kind):
    found['lm_head.weight'] = (V, D)
  bias = settings.get('attention_bias', False)
  for n in range(N):
    layer = f'model.layers.{n}'
    for name, outputs, inputs, has in (
        ('self_attn.q_proj', q, D, bias or kind == 'qwen2'),
        ('self_attn.k_proj', kv, D, bias or kind == 'qwen2'),
        ('self_attn.v_proj', kv, D, bias or kind == 'qwen2'),
        ('self_attn.o_proj', D, q, bias),
        ('mlp.gate_proj', F, D, settings.get('mlp_bias')),
        ('mlp.up_proj', F, D, settings.get('mlp_bias')),
        ('mlp.down_proj', D, F, settings.get('mlp_bias')),
    ):
      linear(f'{layer}.{name}', outputs, inputs, has)
    norms = ['input_layernorm', 'post_attention_layernorm']
    if kind in ('gemma2', 'gemma3_text'):
      norms += ['pre_feedforward_layernorm', 'post_feedforward_layernorm']
    for name in norms:
      found[f'{layer}.{name}.weight'] = (D,)
    if kind in ('qwen3', 'gemma3_text'):
      for name in ('q_norm', 'k_norm'):
        found[f'{layer}.self_attn.{name}.weight'] = (width,)
  return found


def weights(settings, dtype=np.float32, seed=0):
  """Random tensors of a family; nothing is zero or one."""
  rng = np.random.default_rng(seed)
  return {
      name: (0.3 * rng.normal(size=shape)).astype(dtype)
      for name, shape in shapes(settings).items()
  }


def logits(settings, w, tokens):
  """Logits [L, V] in float64, one query after the other."""
  w = {name: np.asarray(array, np.float64) for name, array in w.items()}
  if settings['model_type'] == 'gpt_neox':
    return _neox(settings, w, tokens)
  return _llama(settings, w, tokens)


def save(folder, settings, tensors, shards=1, tokens=V):
  """Writes a folder as it is published, with a tokenizer of so many ids."""
  from safetensors import numpy

  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(settings))
  if shards == 1:
    numpy.save_file(tensors, folder / 'model.safetensors')
  else:
    names = sorted(tensors)
    where = {}
    for i in range(shards):
      file = f'model-{i + 1:05}-of-{shards:05}.safetensors'
      own = names[i::shards]
      numpy.save_file({name: tensors[name] for name in own}, folder / file)
      where |= dict.fromkeys(own, file)
    index = {'metadata': {}, 'weight_map': where}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  save_tokenizer(folder / 'tokenizer.json', tokens)
  return folder


def save_tokenizer(path, tokens):
  import tokenizers

  vocabulary = {f'w{i}': i for i in range(tokens - 1)}
  vocabulary |= {'<|endoftext|>': tokens - 1}
  made = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(vocabulary, unk_token='w0')
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.add_special_tokens(['<|endoftext|>'])
  made.save(str(path))


def _rms(x, weight, eps):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def _frequency(i, rotated, base, scaling):
  frequency = base ** (-2 * i / rotated)
  kind = scaling.get('rope_type', scaling.get('type'))
  if kind == 'linear':
    return frequency / scaling['factor']
  if kind != 'llama3':
    return frequency
  old, wavelength = 16, 2 * math.pi / frequency
  low, high = scaling['low_freq_factor'], scaling['high_freq_factor']
  if wavelength > old / low:
    return frequency / scaling['factor']
  if wavelength < old / high:
    return frequency
  smooth = (old / wavelength - low) / (high - low)
  return (1 - smooth) * frequency / scaling['factor'] + smooth * frequency


def _rotate(x_LxHxK, rotated, base, scaling):
  out = x_LxHxK.copy()
  half = rotated // 2
  for t in range(len(x_LxHxK)):
    for i in range(half):
      angle = t * _frequency(i, rotated, base, scaling)
      a, b = x_LxHxK[t, :, i], x_LxHxK[t, :, i + half]
      out[t, :, i] = a * math.cos(angle) - b * math.sin(angle)
      out[t, :, i + half] = b * math.cos(angle) + a * math.sin(angle)
  return out


def _attend(q, k, v, window=None, scalar=None, cap=None):
  """Flat [L, H K]; a head of keys serves the heads of queries beside it."""
  length, heads, width = q.shape
  shared = heads // k.shape[1]
  mixed = np.zeros_like(q)
  for t in range(length):
    first = 0 if window is None else max(0, t - window + 1)
    for h in range(heads):
      scores = k[first : t + 1, h // shared] @ q[t, h]
      scores = _capped(scores / math.sqrt(scalar or width), cap)
      weight = np.exp(scores - scores.max())
      mixed[t, h] = weight @ v[first : t + 1, h // shared] / weight.sum()
  return mixed.reshape(length, -1)


def _capped(x, cap):
  return cap * np.tanh(x / cap) if cap else x


def _gelu(x):
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def _llama(settings, w, tokens):
  heads = settings['num_attention_heads']
  shared = settings['num_key_value_heads']
  width = settings.get('head_dim', D // heads)
  eps, kind = settings['rms_norm_eps'], settings['model_type']
  windowed = kind in ('mistral', 'gemma2', 'gemma3_text')
  alternate, gemma = kind in ('gemma2', 'gemma3_text'), 'gemma' in kind
  if gemma:
    w = {n: a + n.endswith('norm.weight') for n, a in w.items()}

  def linear(x, name):
    return x @ w[f'{name}.weight'].T + w.get(f'{name}.bias', 0.0)

  x = w['model.embed_tokens.weight'][tokens]
  if gemma:
    x = x * math.sqrt(D)
  for n in range(N):
    layer = f'model.layers.{n}'
    own = f'{layer}.self_attn'
    window = settings['sliding_window'] if windowed else None
    base, scaling = settings['rope_theta'], settings.get('rope_scaling', {})
    if alternate and n == 1:
      window = None
    elif kind == 'gemma3_text':
      base, scaling = settings['rope_local_base_freq'], {}
    y = _rms(x, w[f'{layer}.input_layernorm.weight'], eps)
    q = linear(y, f'{own}.q_proj').reshape(-1, heads, width)
    k = linear(y, f'{own}.k_proj').reshape(-1, shared, width)
    v = linear(y, f'{own}.v_proj').reshape(-1, shared, width)
    if f'{own}.q_norm.weight' in w:
      q = _rms(q, w[f'{own}.q_norm.weight'], eps)
      k = _rms(k, w[f'{own}.k_norm.weight'], eps)
    q, k = (_rotate(a, width, base, scaling) for a in (q, k))
    scalar = settings.get('query_pre_attn_scalar')
    cap = settings.get('attn_logit_softcapping')
    y = linear(_attend(q, k, v, window, scalar, cap), f'{own}.o_proj')
    after = w[f'{layer}.post_attention_layernorm.weight']
    if alternate:
      y = _rms(y, after, eps)
      after = w[f'{layer}.pre_feedforward_layernorm.weight']
    x = x + y
    y = _rms(x, after, eps)
    gate = linear(y, f'{layer}.mlp.gate_proj')
    gate = _gelu(gate) if gemma else gate / (1 + np.exp(-gate))
    up = linear(y, f'{layer}.mlp.up_proj')
    y = linear(gate * up, f'{layer}.mlp.down_proj')
    if alternate:
      y = _rms(y, w[f'{layer}.post_feedforward_layernorm.weight'], eps)
    x = x + y
  y = _rms(x, w['model.norm.weight'], eps)
  y = y @ w.get('lm_head.weight', w['model.embed_tokens.weight']).T
  return _capped(y, settings.get('final_logit_softcapping'))


def _neox(settings, w, tokens):
  heads, width = 4, D // 4
  exact = settings['hidden_act'] == 'gelu'
  erf = np.vectorize(math.erf)

  def linear(x, name):
    return x @ w[f'{name}.weight'].T + w[f'{name}.bias']

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + settings['layer_norm_eps'])
    return x * w[f'{name}.weight'] + w[f'{name}.bias']

  def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2))) if exact else _gelu(x)

  x = w['gpt_neox.embed_in.weight'][tokens]
  for n in range(N):
    layer = f'gpt_neox.layers.{n}'
    fused = linear(
        norm(x, f'{layer}.input_layernorm'),
        f'{layer}.attention.query_key_value',
    ).reshape(-1, heads, 3 * width)
    q, k, v = (fused[..., i * width : (i + 1) * width] for i in range(3))
    q, k = (_rotate(a, int(0.34 * width), 500.0, {}) for a in (q, k))
    attended = linear(_attend(q, k, v), f'{layer}.attention.dense')
    y = x if settings['use_parallel_residual'] else x + attended
    y = norm(y, f'{layer}.post_attention_layernorm')
    y = gelu(linear(y, f'{layer}.mlp.dense_h_to_4h'))
    x = x + attended + linear(y, f'{layer}.mlp.dense_4h_to_h')
  return norm(x, 'gpt_neox.final_layer_norm') @ w['embed_out.weight'].T
