"""GGUF files, against the same model in a folder of safetensors."""

import json
import math
import struct

import jax
import numpy as np
import published_models
import pytest

from iblm_jax.models import config as model_config
from iblm_jax.models import pretrained

gguf = pytest.importorskip('gguf')
tokenizers = pytest.importorskip('tokenizers')
pytest.importorskip('safetensors')

LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ['<|endoftext|>', '<tool>']
MERGES = ['Ġ b', '1 2', 'Ġb c']
# 256 letters, what they merge to, and the special ones.
TOKENS = [*LETTERS, 'Ġb', '12', 'Ġbc', *SPECIAL]
V = len(TOKENS)
_NAMES = {
    'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm',
    'lm_head': 'output', 'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output', 'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
    'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm',
    'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm',
    'model.layers': 'blk',
}


def settings_of(kind, **changes):
  found = {
      **published_models.SETTINGS[kind],
      'vocab_size': V, 'rope_scaling': None, **changes,
  }
  found['hidden_size'], found['intermediate_size'] = 32, 64
  return found


@pytest.fixture
def sizes(monkeypatch):
  """A model as wide as quantised blocks are."""
  for name, value in (('V', V), ('D', 32), ('F', 64)):
    monkeypatch.setattr(published_models, name, value)


def reordered(array, heads):
  """Rows as the converter of llama.cpp has them: halves become pairs."""
  half = array.shape[0] // heads // 2
  apart = array.reshape(heads, 2, half, *array.shape[1:])
  return apart.swapaxes(1, 2).reshape(array.shape)


def write(
    path, kind, tensors, *, keys=None, quantise=None, head_dim=8, base=500.0
):
  writer = gguf.GGUFWriter(path, kind)
  said = dict(
      block_count=2, embedding_length=32, feed_forward_length=64,
      context_length=64,
  ) | {
      'attention.head_count': 4, 'attention.head_count_kv': 2,
      'rope.dimension_count': head_dim,
  }
  for key, value in said.items():
    writer.add_uint32(f'{kind}.{key}', value)
  writer.add_float32(f'{kind}.attention.layer_norm_rms_epsilon', 0.01)
  writer.add_float32(f'{kind}.rope.freq_base', base)
  words = {
      'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'smollm',
      **(keys or {}),
  }
  for key, value in words.items():
    (writer.add_string if isinstance(value, str) else writer.add_uint32)(
        key, value
    )
  writer.add_token_list(TOKENS)
  writer.add_token_types([1] * (V - 2) + [3, 4])
  writer.add_token_merges(MERGES)
  for name, array in tensors.items():
    if kind == 'llama' and ('q_proj' in name or 'k_proj' in name):
      array = reordered(array, 4 if 'q_proj' in name else 2)
    for theirs, own in _NAMES.items():
      name = name.replace(theirs, own)
    if quantise is not None and array.ndim == 2:
      raw = gguf.quantize(array, quantise)
      writer.add_tensor(name, raw, raw_dtype=quantise)
    else:
      writer.add_tensor(name, array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.mark.parametrize(
    'kind, changes',
    [
        ('llama', {'attention_bias': True}),
        ('qwen2', {'tie_word_embeddings': False}),
        ('qwen3', {'tie_word_embeddings': True}),
    ],
)
def test_a_gguf_is_the_model_of_the_folder(tmp_path, sizes, kind, changes):
  settings = settings_of(kind, **changes)
  tensors = published_models.weights(settings)
  if kind == 'llama':  # the file cannot say that there are biases
    settings['attention_bias'] = False
    tensors = {k: v for k, v in tensors.items() if 'bias' not in k}
  folder = published_models.save(tmp_path / 'it', settings, tensors, tokens=V)
  expected, their_cfg, _ = pretrained.load(folder)
  path = write(tmp_path / 'it.gguf', kind, tensors)
  params, cfg, tokenizer = pretrained.load(path)
  assert cfg.norm_epsilon == pytest.approx(their_cfg.norm_epsilon)
  same = (
      'num_kv_heads', 'qkv_biases', 'tie_embeddings', 'rotary_base',
      'qk_norm_scale',
  )
  for name in same:
    assert getattr(cfg, name) == getattr(their_cfg, name)
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  assert tokenizer.vocab_size == V
  # Digits are never merged by this tokenizer, though there is a merge.
  pieces = ['a', 'Ġbc', '1', '2']
  ids = [TOKENS.index(piece) for piece in pieces]
  assert tokenizer.encode('a bc12').tolist() == ids
  assert tokenizer.encode('<tool>').tolist() == [TOKENS.index('<tool>')]
  assert tokenizer.decode([*ids, TOKENS.index(SPECIAL[0])]) == 'a bc12'
  assert tokenizer.eos_id == TOKENS.index(SPECIAL[0])


def llama3_factors(width, base, factor):
  """What a converter writes of Llama 3: how much longer each wave gets."""
  found = []
  for i in range(width // 2):
    wave = 2 * math.pi * base ** (2 * i / width)
    if wave < 8192 / 4:
      found.append(1.0)
    elif wave > 8192 / 1:
      found.append(factor)
    else:
      smooth = (8192 / wave - 1) / (4 - 1)
      found.append(1 / ((1 - smooth) / factor + smooth))
  return np.asarray(found, np.float32)


def test_the_waves_of_llama_3_are_known_by_their_factors(tmp_path, sizes):
  settings = settings_of('llama', head_dim=16, rope_theta=5e5)
  tensors = published_models.weights(settings)
  wide = {'llama.attention.key_length': 16, 'llama.attention.value_length': 16}

  def load(factors, **more):
    path = write(
        tmp_path / 'it.gguf', 'llama', tensors | {'rope_freqs.weight': factors},
        keys=wide | more, head_dim=16, base=5e5,
    )
    return pretrained.load(path).cfg

  factors = llama3_factors(16, 5e5, 32.0)
  assert len(set(factors)) > 2  # one that is stretched in part
  assert load(factors).rotary_scaling == model_config.RotaryScaling(
      'llama3', factor=32.0, low=1.0, high=4.0, original_length=8192
  )
  factors[4] *= 1.001
  for odd in (factors, np.full(8, np.nan, np.float32)):
    with pytest.raises(ValueError, match='rope_freqs.weight must be how'):
      load(odd)
  with pytest.raises(ValueError, match=r'must have shape \(8,\), got \(7,\)'):
    load(factors[1:])
  linear = {'llama.rope.scaling.type': 'linear', 'llama.rope.scaling.factor': 2}
  with pytest.raises(ValueError, match="must be 'none' with rope_freqs.weight"):
    load(factors, **linear)


def test_quantised_tensors_are_close(tmp_path, sizes):
  tensors = published_models.weights(settings_of('qwen2'))
  exact = pretrained.load(write(tmp_path / 'a.gguf', 'qwen2', tensors)).params
  found = pretrained.load(
      write(
          tmp_path / 'b.gguf', 'qwen2', tensors,
          quantise=gguf.GGMLQuantizationType.Q8_0,
      ),
      dtype='bfloat16',
  ).params
  close = lambda a, b: np.testing.assert_allclose(
      np.asarray(a, np.float32), b, atol=0.02
  )
  jax.tree.map(close, found, exact)
  up = found['blocks']['mlp']['up']['kernel']
  assert np.abs(np.asarray(up, np.float32) - exact['blocks']['mlp']['up'][
      'kernel'
  ]).max() > 1e-4


@pytest.mark.parametrize(
    'pre, expected',
    [
        ('gpt-2', ['a', 'Ġbc', '12']),
        ('llama-bpe', ['a', 'Ġbc', '12']),
        ('qwen2', ['a', 'Ġbc', '1', '2']),
    ],
)
def test_pre_tokenizers_cut_as_their_makers_do(tmp_path, sizes, pre, expected):
  tensors = published_models.weights(settings_of('qwen2'))
  path = write(
      tmp_path / 'it.gguf', 'qwen2', tensors, keys={'tokenizer.ggml.pre': pre}
  )
  found = pretrained.load(path).tokenizer.encode('a bc12')
  assert [TOKENS[i] for i in found] == expected


def test_whether_texts_begin_with_a_token(tmp_path, sizes):
  tensors = published_models.weights(settings_of('qwen2'))
  for adds in (0, 1):
    keys = {
        'tokenizer.ggml.add_bos_token': adds,
        'tokenizer.ggml.bos_token_id': V - 2,
    }
    path = write(tmp_path / f'{adds}.gguf', 'qwen2', tensors, keys=keys)
    tokenizer = pretrained.load(path).tokenizer
    assert tokenizer.adds_bos == adds and tokenizer.bos_id == V - 2
    assert [TOKENS[i] for i in tokenizer.encode('a')] == ['a']
  keys['tokenizer.ggml.bos_token_id'] = V
  path = write(tmp_path / 'it.gguf', 'qwen2', tensors, keys=keys)
  with pytest.raises(ValueError, match=rf'bos_token_id must lie .* got {V}'):
    pretrained.load(path)


@pytest.mark.parametrize(
    'keys, message',
    [
        ({'tokenizer.ggml.pre': 'odd'}, "pre must be one of .* got 'odd'"),
        ({'tokenizer.ggml.model': 'llama'}, "must be 'gpt2', got 'llama'"),
        ({'qwen2.expert_count': 4}, 'computation: qwen2.expert_count'),
        ({'qwen2.attention.value_length': 4}, 'value_length must be 8, got 4'),
        ({'qwen2.rope.scaling.type': 'yarn'}, "type must be .* got 'yarn'"),
        ({'qwen2.rope.scaling.factor': 'two'}, "one number above 0, got 'two'"),
        ({'qwen2.attention.key_length': 0}, 'key_length must be one number'),
    ],
)
def test_unknown_keys_are_named(tmp_path, sizes, keys, message):
  tensors = published_models.weights(settings_of('qwen2'))
  path = write(tmp_path / 'it.gguf', 'qwen2', tensors, keys=keys)
  with pytest.raises(ValueError, match=message) as caught:
    pretrained.load(path)
  assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_other_files_are_refused(tmp_path, sizes):
  tensors = published_models.weights(settings_of('qwen2'))
  path = write(tmp_path / 'it.gguf', 'bert', tensors)
  with pytest.raises(ValueError, match="architecture must be one .* 'bert'"):
    pretrained.load(path)
  norm = 'model.layers.0.input_layernorm.weight'
  whole = tensors | {norm: np.ones(32, np.int32)}
  path = write(tmp_path / 'int.gguf', 'qwen2', whole)
  with pytest.raises(ValueError, match='attn_norm.* unknown quantisation I32'):
    pretrained.load(path)
  path = write(tmp_path / 'nan.gguf', 'qwen2', tensors | {norm: np.full(
      32, np.nan, np.float32
  )})
  with pytest.raises(ValueError, match='attn_norm.weight must be finite'):
    pretrained.load(path)
  path = write(tmp_path / 'cut.gguf', 'qwen2', {
      name: array for name, array in tensors.items() if name != norm
  })
  with pytest.raises(ValueError, match='lacks blk.0.attn_norm.weight'):
    pretrained.load(path)
  whole = path.read_bytes()
  for damaged, message in (
      (whole[:500], 'it.gguf.* no GGUF, or damaged: it ends before its head'),
      (b'GGML' + whole[4:], 'does not begin with GGUF'),
      (whole[:4] + b'\x09' + whole[5:], 'version must be 2 or 3, got 9'),
      (b'', 'no GGUF, or damaged'),
  ):
    path = tmp_path / 'it.gguf'
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=message) as caught:
      pretrained.load(path)
    assert '\n' not in str(caught.value)
  path = write(tmp_path / 'short.gguf', 'qwen2', tensors)
  path.write_bytes(path.read_bytes()[:-64])
  with pytest.raises(ValueError, match='needs .* bytes .* the file has'):
    pretrained.load(path)


def test_a_gguf_is_written_as_a_folder(tmp_path, sizes):
  end = TOKENS.index('<tool>')
  keys = {'tokenizer.ggml.eos_token_id': end, 'tokenizer.chat_template': 'hi'}
  tensors = published_models.weights(settings_of('qwen2'))
  path = write(tmp_path / 'it.gguf', 'qwen2', tensors, keys=keys)
  params, cfg, tokenizer = pretrained.load(path)
  head = pretrained.read_head(path)
  assert head.family == 'qwen2' and head.folder is None
  out = tmp_path / 'out'
  assert pretrained.save(params, cfg, tokenizer, out, like=head) == 'qwen2'
  again = pretrained.load(out)
  assert again.cfg == cfg
  jax.tree.map(np.testing.assert_array_equal, again.params, params)
  for text in ('a bc12', 'x<tool>y'):
    np.testing.assert_array_equal(
        again.tokenizer.encode(text), tokenizer.encode(text)
    )
  read = lambda name: json.loads((out / name).read_text())
  words = read('tokenizer_config.json')
  assert (words['chat_template'], words['eos_token']) == ('hi', '<tool>')
  assert read('config.json')['eos_token_id'] == end
  assert read('generation_config.json')['eos_token_id'] == [end, end - 1]


def test_arrays_of_arrays_are_not_followed(tmp_path):
  path = tmp_path / 'deep.gguf'
  deep = struct.pack('<IQ', 9, 1) * 50_000  # each holds one more
  head = struct.pack('<IQQQ', 3, 0, 1, 1) + b'a' + struct.pack('<I', 9)
  path.write_bytes(b'GGUF' + head + deep)
  with pytest.raises(ValueError, match='damaged: it has an array of arrays'):
    pretrained.load(path)
