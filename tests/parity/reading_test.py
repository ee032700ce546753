"""Folders that `transformers` writes give its own logits."""

import jax
import numpy as np
import pytest

from iblm_jax.models import decoder, pretrained
from iblm_jax.models.generation import decoding

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

apply = jax.jit(decoder.apply, static_argnames='cfg')

V = 260  # bytes and the marks of the byte tokenizer, and one more
SIZES = dict(
    vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=64,
)
SHARED = dict(SIZES, num_key_value_heads=2, rms_norm_eps=1e-2)
LINEAR = dict(rope_type='linear', rope_theta=500.0, factor=2.0)
LLAMA3 = dict(
    rope_type='llama3', rope_theta=500.0, factor=4.0, low_freq_factor=1.0,
    high_freq_factor=4.0, original_max_position_embeddings=16,
)
GEMMA = dict(SHARED, head_dim=12, sliding_window=5, query_pre_attn_scalar=7)
MODELS = {
    'gpt2': ('gpt2', dict(
        vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64,
    )),
    'gpt2 of its own head': ('gpt2', dict(
        vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64,
        n_inner=48, activation_function='gelu', tie_word_embeddings=False,
    )),
    'llama': ('llama', SHARED),
    'llama linear': ('llama', dict(
        SHARED, rope_parameters=LINEAR, attention_bias=True, mlp_bias=True,
    )),
    'llama llama3': ('llama', dict(
        SHARED, rope_parameters=LLAMA3, head_dim=10, tie_word_embeddings=True,
    )),
    'mistral': ('mistral', dict(SHARED, sliding_window=5, head_dim=16)),
    'mistral without a window': ('mistral', dict(SHARED, sliding_window=None)),
    'qwen2': ('qwen2', dict(SHARED, tie_word_embeddings=True)),
    'qwen3': ('qwen3', dict(SHARED, head_dim=12)),
    'qwen3 with biases': ('qwen3', dict(SHARED, attention_bias=True)),
    'gemma': ('gemma', dict(SHARED, head_dim=10, num_key_value_heads=1)),
    'gemma2': ('gemma2', dict(
        GEMMA, layer_types=['sliding_attention', 'full_attention'],
        attn_logit_softcapping=1.5, final_logit_softcapping=20.0,
        tie_word_embeddings=False,
    )),
    'gemma2 with full layers first': ('gemma2', dict(
        GEMMA, layer_types=['full_attention'] * 2, attention_bias=True,
        attn_logit_softcapping=None, final_logit_softcapping=None,
    )),
    'gemma3_text': ('gemma3_text', dict(
        GEMMA, num_hidden_layers=7, final_logit_softcapping=10.0,
        rope_parameters=dict(
            sliding_attention=dict(rope_type='default', rope_theta=50.0),
            full_attention=LINEAR,
        ),
    )),
    'gpt_neox': ('gpt_neox', SIZES),
    'gpt_neox in sequence': ('gpt_neox', dict(
        SIZES, use_parallel_residual=False, hidden_act='gelu_new',
        rope_parameters=dict(
            rope_type='default', rope_theta=500.0, partial_rotary_factor=0.5,
        ),
    )),
}


def made(name):
  """A random model of which no parameter is zero or one."""
  family, options = MODELS[name]
  config = transformers.AutoConfig.for_model(family, **options)
  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn(parameter.shape))
  return model


def logits(model, tokens):
  with torch.no_grad():
    return model(torch.from_numpy(tokens)).logits.numpy()


@pytest.mark.parametrize('name', MODELS)
def test_what_transformers_saves_gives_its_logits(tmp_path, name):
  model = made(name)
  tokens = np.random.default_rng(0).integers(V, size=(2, 40))
  expected = logits(model, tokens)
  assert np.abs(expected).max() > 1
  for folder, size in (('whole', '1GB'), ('shards', '20KB')):
    model.save_pretrained(tmp_path / folder, max_shard_size=size)
    params, cfg, _ = pretrained.load(tmp_path / folder, tokenizer='bytes')
    found = apply(params, tokens, cfg).logits_BxLxV
    np.testing.assert_allclose(found, expected, atol=1e-4)
  shards = list((tmp_path / 'shards').glob('*.safetensors'))
  assert len(shards) > 1


@pytest.mark.parametrize('name', ['mistral', 'gemma2', 'gemma3_text'])
def test_continuations_beyond_the_window_are_the_same(tmp_path, name):
  model = made(name)
  model.save_pretrained(tmp_path / 'it')
  params, cfg, _ = pretrained.load(tmp_path / 'it', tokenizer='bytes')
  prompt = np.random.default_rng(0).integers(V, size=(2, 7))
  expected = model.generate(
      torch.from_numpy(prompt), attention_mask=torch.ones(2, 7),
      max_new_tokens=9, min_new_tokens=9, do_sample=False, pad_token_id=0,
      eos_token_id=V + 1,
  ).numpy()
  found = jax.jit(
      decoding.sample, static_argnames=('cfg', 'num_tokens', 'temperature')
  )(params, prompt, cfg, jax.random.key(0), num_tokens=9, temperature=0.0)
  np.testing.assert_array_equal(found, expected[:, 7:])
  assert cfg.window < 7
