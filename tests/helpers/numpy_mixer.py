"""The masked mixer again in plain float64 NumPy loops, from its definition.

y[b, f, h] = bias[f] + sum over t <= f and p < k of W[f, t, p] x[b, t, h + p -
(k - 1) // 2], x being zero beyond its features (arXiv 2409.01482, 2602.13466).
"""

import math

import numpy as np


def convolve(weights_FxTxK, bias_F, x_TxD, seen):
  """One sequence; `seen(f, t)` says what the mask leaves."""
  rows, columns, kernel = weights_FxTxK.shape
  width = x_TxD.shape[1]
  y_FxD = np.zeros([rows, width])
  for f in range(rows):
    for h in range(width):
      total = bias_F[f]
      for t in range(columns):
        if not seen(f, t):
          continue
        for p in range(kernel):
          source = h + p - (kernel - 1) // 2
          if 0 <= source < width:
            total += weights_FxTxK[f, t, p] * x_TxD[t, source]
      y_FxD[f, h] = total
  return y_FxD


def gelu(x):
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mixing(params, x_LxD, mixer):
  """The map between positions of one block, for one sequence."""
  length = len(x_LxD)
  if mixer.num_heads == 1:
    heads = [x_LxD]
  else:
    project = params['project']
    heads = [
        x_LxD @ project['kernel'][:, h] + project['bias'][h]
        for h in range(mixer.num_heads)
    ]
  mixed = []
  for h, x_LxK in enumerate(heads):
    e = mixer.expansion or 1
    weights = params['mix'][h][: length * e, :length]
    bias = params['mix_bias'][h][: length * e]
    y = convolve(weights, bias, x_LxK, lambda f, t, e=e: t <= f // e)
    if mixer.expansion is not None:
      weights = params['mix_out'][h][:length, : length * e]
      bias = params['mix_out_bias'][h][:length]
      y = convolve(weights, bias, gelu(y), lambda f, t, e=e: t // e <= f)
    mixed.append(y)
  if mixer.num_heads == 1:
    return mixed[0]
  total = params['out']['bias']
  for y, kernel_KxD in zip(mixed, params['out']['kernel'], strict=True):
    total = total + y @ kernel_KxD
  return total


def _norm(x, params, epsilon):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
  return x * params['scale'] + params['bias']


def forward(params, tokens_L, cfg):
  """Logits [L, V] and the residual stream after each block, of one sequence."""
  x = params['embed']['tokens'][tokens_L]
  streams = []
  for n in range(cfg.num_layers):
    block = _layer(params['blocks'], n)
    y = _norm(x, block['mixer_norm'], cfg.norm_epsilon)
    x = x + mixing(block['mixer'], y, cfg.mixer)
    y = _norm(x, block['mlp_norm'], cfg.norm_epsilon)
    up, down = block['mlp']['up'], block['mlp']['down']
    hidden = gelu(y @ up['kernel'] + up['bias'])
    x = x + hidden @ down['kernel'] + down['bias']
    streams.append(x)
  y = _norm(x, params['head']['norm'], cfg.norm_epsilon)
  return y @ params['head']['kernel'], np.stack(streams)


def _layer(tree, n):
  if isinstance(tree, dict):
    return {name: _layer(leaf, n) for name, leaf in tree.items()}
  return tree[n]
