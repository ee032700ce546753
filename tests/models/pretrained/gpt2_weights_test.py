"""Published GPT-2 files, against GPT-2 in float64 NumPy on their own names."""

import builtins
import functools
import json
import math

import jax
import ml_dtypes
import numpy as np
import pytest

from iblm_jax.models import decoder
from iblm_jax.models.pretrained import gpt2_weights

V, T, D, H, N = 13, 12, 16, 4, 3
SETTINGS = {'model_type': 'gpt2', 'n_head': H, 'layer_norm_epsilon': 0.03}
DTYPES = {
    'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16
}
apply = jax.jit(decoder.apply, static_argnames=('cfg', 'collect'))


def weights(dtype=np.float32, layers=N, seed=0):
  """Random arrays under the published names; nothing is zero or one."""
  rng = np.random.default_rng(seed)
  shapes = {'wte.weight': (V, D), 'wpe.weight': (T, D)}
  norms = ['ln_f']
  for n in range(layers):
    norms += [f'h.{n}.ln_1', f'h.{n}.ln_2']
    for name, rows, columns in (
        ('attn.c_attn', D, 3 * D), ('attn.c_proj', D, D),
        ('mlp.c_fc', D, 4 * D), ('mlp.c_proj', 4 * D, D),
    ):
      shapes[f'h.{n}.{name}.weight'] = (rows, columns)
      shapes[f'h.{n}.{name}.bias'] = (columns,)
  for norm in norms:
    shapes |= {f'{norm}.weight': (D,), f'{norm}.bias': (D,)}
  return {
      name: (0.3 * rng.normal(size=shape)).astype(dtype)
      for name, shape in shapes.items()
  }


def gpt2(w, tokens, eps):
  """Logits and streams, written from the definition."""
  w = {name: np.asarray(array, np.float64) for name, array in w.items()}

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * w[f'{name}.weight'] + w[f'{name}.bias']

  def linear(x, name):
    return x @ w[f'{name}.weight'] + w[f'{name}.bias']

  x = w['wte.weight'][tokens] + w['wpe.weight'][: len(tokens)]
  streams = []
  layers = sum(name.endswith('c_attn.bias') for name in w)
  for n in range(layers):
    q, k, v = np.split(
        linear(norm(x, f'h.{n}.ln_1'), f'h.{n}.attn.c_attn'), 3, axis=1
    )
    mixed = np.zeros_like(x)
    for h in range(H):
      own = slice(h * D // H, (h + 1) * D // H)
      for t in range(len(tokens)):
        score = k[: t + 1, own] @ q[t, own] / math.sqrt(D // H)
        weight = np.exp(score - score.max())
        mixed[t, own] = weight @ v[: t + 1, own] / weight.sum()
    x = x + linear(mixed, f'h.{n}.attn.c_proj')
    up = linear(norm(x, f'h.{n}.ln_2'), f'h.{n}.mlp.c_fc')
    inner = math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)
    x = x + linear(0.5 * up * (1 + np.tanh(inner)), f'h.{n}.mlp.c_proj')
    streams.append(x)
  head = w.get('lm_head.weight', w['wte.weight'])
  return norm(x, 'ln_f') @ head.T, np.stack(streams)


def save(folder, tensors, settings=None, prefix=''):
  numpy = pytest.importorskip('safetensors.numpy')
  path = folder / 'model.safetensors'
  numpy.save_file({prefix + k: v for k, v in tensors.items()}, path)
  if settings is not None:
    (folder / 'config.json').write_text(json.dumps(settings))
  return path


@pytest.mark.parametrize('prefix', ['', 'transformer.'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_logits_and_streams_are_those_of_gpt2(tmp_path, dtype, prefix):
  tensors = weights(DTYPES[dtype])
  buffers = {
      'h.0.attn.bias': np.ones((1, 1, T, T), np.float32),
      'h.1.attn.masked_bias': np.array(-1e4, np.float32),
  }
  save(tmp_path, tensors | buffers, SETTINGS, prefix)
  cfg, params = gpt2_weights.load_gpt2(tmp_path)
  tokens = np.random.default_rng(3).integers(V, size=(1, T))
  found = apply(params, tokens, cfg, collect='hidden')
  logits, streams = gpt2(tensors, tokens[0], eps=0.03)
  np.testing.assert_allclose(found.logits_BxLxV[0], logits, atol=2e-5)
  np.testing.assert_allclose(found.hidden[:, 0], streams, atol=2e-5)


def test_the_tree_is_that_of_init(tmp_path):
  cfg, params = gpt2_weights.load_gpt2(save(tmp_path, weights(), SETTINGS))
  expected = jax.eval_shape(
      functools.partial(decoder.init, cfg=cfg), jax.random.key(0)
  )
  shape = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
  assert shape(params) == shape(expected)
  assert (cfg.num_layers, cfg.max_length, cfg.num_heads) == (N, T, H)


def test_a_head_of_its_own_is_kept():
  tensors = weights(layers=1)
  tied = tensors | {'lm_head.weight': tensors['wte.weight'].copy()}
  cfg, params = gpt2_weights.convert_gpt2(tied, SETTINGS)
  assert cfg.tie_embeddings and 'kernel' not in params['head']
  own = tensors | {'lm_head.weight': weights(seed=1)['wte.weight']}
  cfg, params = gpt2_weights.convert_gpt2(own, SETTINGS)
  tokens = np.arange(5)[None]
  found = apply(params, tokens, cfg).logits_BxLxV[0]
  np.testing.assert_allclose(found, gpt2(own, tokens[0], 0.03)[0], atol=2e-5)


def test_without_a_config_the_heads_are_of_64(tmp_path):
  path = save(tmp_path, weights())
  with pytest.raises(ValueError, match='heads of 64 do not divide .* 16'):
    gpt2_weights.load_gpt2(path)
  wide = {
      name: np.zeros([128 // D * n if n % D == 0 else n for n in a.shape])
      for name, a in weights(layers=1).items()
  }
  cfg, _ = gpt2_weights.convert_gpt2(wide, {})
  assert (cfg.num_heads, cfg.norm_epsilon) == (2, 1e-5)


@pytest.mark.parametrize(
    'change, settings, message',
    [
        ({'h.1.ln_2.bias': None}, {}, 'lacks h.1.ln_2.bias and holds nothing'),
        ({'extra': np.ones(2)}, {}, 'lacks nothing and holds extra besides'),
        ({'ln_f.bias': np.ones(3)}, {}, r'ln_f.bias must have shape \(16,\)'),
        (
            {'h.0.mlp.c_proj.weight': np.ones((D, 4 * D))}, {},
            r'c_proj.weight must have shape \(64, 16\), got \(16, 64\)',
        ),
        ({'wte.weight': np.ones(4)}, {}, 'wte.weight must be a matrix'),
        ({}, {'n_head': 5}, 'width must be a multiple of num_heads'),
        ({}, {'activation_function': 'relu'}, "must be one of .* got 'relu'"),
        ({}, {'scale_attn_by_inverse_layer_idx': True}, 'must be False'),
    ],
)
def test_another_architecture_is_refused(change, settings, message):
  tensors = {k: v for k, v in (weights() | change).items() if v is not None}
  with pytest.raises(ValueError, match=message):
    gpt2_weights.convert_gpt2(tensors, SETTINGS | settings)


def test_bad_files_are_refused(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='model.safetensors.* does not exist'):
    gpt2_weights.load_gpt2(tmp_path)
  path = save(tmp_path, {'weight': np.ones(3)})
  with pytest.raises(ValueError, match='is not a GPT-2: it lacks ln_f.bias'):
    gpt2_weights.load_gpt2(path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json is not readable JSON'):
    gpt2_weights.load_gpt2(path)
  path.write_bytes(b'no safetensors at all' * 9)
  with pytest.raises(ValueError, match='is no safetensors file'):
    gpt2_weights.load_gpt2(path)
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name == 'safetensors':
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without)
  with pytest.raises(ValueError, match=r"pip install 'iblm-jax\[hf\]'"):
    gpt2_weights.load_gpt2(path)
