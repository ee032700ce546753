"""The decoder again in plain float64 NumPy, one token at a time where it can.

Written from the definition of the architecture, for comparison only.
"""

import math

import numpy as np


def _norm(x, cfg, params):
  if cfg.norm == 'layer':
    x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg.norm_epsilon)
  x = x * _scale(cfg, params)
  return x + params.get('bias', 0.0)


def _scale(cfg, params):
  if cfg.norm_plus_one and 'scale' in params:
    return 1.0 + params['scale']
  return params.get('scale', 1.0)


def _rms(x, epsilon=1e-6):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


def _head_norm(x, cfg, params):
  if not cfg.qk_norm_scale:
    return _rms(x)
  return _rms(x, cfg.norm_epsilon) * _scale(cfg, params)


def _stretched(frequency, scaling):
  if scaling is None:
    return frequency
  if scaling.kind == 'linear':
    return frequency / scaling.factor
  wavelength = 2 * math.pi / frequency
  if wavelength < scaling.original_length / scaling.high:
    return frequency
  if wavelength > scaling.original_length / scaling.low:
    return frequency / scaling.factor
  smooth = scaling.original_length / wavelength - scaling.low
  smooth = smooth / (scaling.high - scaling.low)
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _rotate(x_HxK, position, cfg, has_window):
  half = int(x_HxK.shape[-1] * cfg.rotary_share) // 2
  out = x_HxK.copy()
  base, scaling = cfg.rotary_base, cfg.rotary_scaling
  if has_window and cfg.window_rotary_base is not None:
    base, scaling = cfg.window_rotary_base, None
  for i in range(half):
    angle = position * _stretched(base ** (-i / half), scaling)
    a, b = x_HxK[:, i], x_HxK[:, i + half]
    out[:, i] = a * math.cos(angle) - b * math.sin(angle)
    out[:, i + half] = b * math.cos(angle) + a * math.sin(angle)
  return out


def _rotate_all(x_LxHxK, positions_L, cfg, has_window):
  pairs = zip(x_LxHxK, positions_L, strict=True)
  return np.stack([_rotate(x, p, cfg, has_window) for x, p in pairs])


def _linear(x, params, num_in=1):
  y = np.tensordot(x, params['kernel'], axes=num_in)
  return y + params.get('bias', 0.0)


def _activate(x, cfg, params):
  up = _linear(x, params['up'])
  if cfg.activation == 'relu2':
    return np.maximum(up, 0) ** 2
  if cfg.activation == 'swiglu':
    gate = _linear(x, params['gate'])
    return gate / (1 + np.exp(-gate)) * up
  if cfg.activation == 'geglu':
    return _gelu(_linear(x, params['gate'])) * up
  if cfg.activation == 'gelu_exact':
    return 0.5 * up * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
  return _gelu(up)


def _gelu(x):
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def forward(params, tokens_L, cfg, segments_L=None, positions_L=None):
  """Logits [L, V] and the residual stream after each block, float64."""
  length = len(tokens_L)
  if positions_L is None:
    positions_L = range(length)
  x = params['embed']['tokens'][tokens_L] * cfg.embedding_scale
  if cfg.positions == 'learned':
    x = x + params['embed']['positions'][list(positions_L)]
  if cfg.embedding_norm:
    x = _rms(x)
  streams, first_v, embedded = [], None, x
  for n in range(cfg.num_layers):
    block = _layer(params['blocks'], n)
    window = cfg.window
    if cfg.full_every is not None and n % cfg.full_every == cfg.full_every - 1:
      window = None
    if cfg.unet_skips and n >= cfg.num_layers // 2:
      mirror = cfg.num_layers - 1 - n
      weight = params['skip_weights'][n - cfg.num_layers // 2]
      x = x + weight * streams[mirror]
    if cfg.embedding_residual:
      a, b = block['stream_mix']
      x = a * x + b * embedded
    attention = block['attention']
    y = _norm(x, cfg, block.get('attention_norm', {}))
    q = _linear(y, attention['query'])
    k = _linear(y, attention['key'])
    v = _linear(y, attention['value'])
    if cfg.value_residual:
      first_v = v if first_v is None else first_v
      mix = attention['value_mix']
      v = (1 - mix) * v + mix * first_v
    if cfg.qk_norm:
      q = _head_norm(q, cfg, attention.get('query_norm'))
      k = _head_norm(k, cfg, attention.get('key_norm'))
    if cfg.positions == 'rotary':
      q = _rotate_all(q, positions_L, cfg, window is not None)
      k = _rotate_all(k, positions_L, cfg, window is not None)
    mixed = np.zeros_like(q)
    for t in range(length):
      seen = [
          s
          for s in range(t + 1)
          if (window is None or t - s < window)
          and (segments_L is None or segments_L[s] == segments_L[t])
      ]
      for h in range(cfg.num_heads):
        g = h * v.shape[1] // cfg.num_heads
        scores = k[seen, g] @ q[t, h]
        scores = scores / math.sqrt(cfg.attention_width or q.shape[-1])
        scores = _capped(scores, cfg.attention_softcap)
        weights = np.exp(scores - scores.max())
        mixed[t, h] = weights @ v[seen, g] / weights.sum()
    out = _linear(mixed, attention['out'], num_in=2)
    if cfg.output_norms:
      out = _norm(out, cfg, block['attention_output_norm'])
    attended = x + out
    y = x if cfg.parallel_residual else attended
    y = _norm(y, cfg, block.get('mlp_norm', {}))
    inner = _activate(y, cfg, block['mlp'])
    out = _linear(inner, block['mlp']['down'])
    if cfg.output_norms:
      out = _norm(out, cfg, block['mlp_output_norm'])
    x = attended + out
    streams.append(x)
  y = _norm(x, cfg, params['head'].get('norm', {}))
  if cfg.tie_embeddings:
    logits = y @ params['embed']['tokens'].T
  else:
    logits = y @ params['head']['kernel']
  return _capped(logits, cfg.logit_softcap), np.stack(streams)


def _capped(x, cap):
  return x if cap is None else cap * np.tanh(x / cap)


def _layer(tree, n):
  if isinstance(tree, dict):
    return {name: _layer(leaf, n) for name, leaf in tree.items()}
  return tree[n]
