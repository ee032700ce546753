"""`transformers` computes what we do from the folders that we write."""

import jax
import numpy as np
import pytest
import tiny_models

from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, pretrained

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

apply = jax.jit(decoder.apply, static_argnames='cfg')

V = 261  # bytes and the marks of the byte tokenizer, and more
SIZES = dict(vocab_size=V, num_layers=2, width=32, mlp_width=48, max_length=64)
LLAMA = dict(
    SIZES, num_kv_heads=2, activation='swiglu', rotary_base=500.0,
    norm_epsilon=1e-2, document_mask=False,
)
NEOX = dict(
    SIZES, norm='layer', norm_epsilon=1e-2, activation='gelu_exact',
    biases=True, parallel_residual=True, rotary_share=0.25,
)
GEMMA = dict(
    LLAMA, head_dim=12, activation='geglu', norm_plus_one=True,
    embedding_scale=32**0.5, tie_embeddings=True,
)
LLAMA3 = model_config.RotaryScaling(
    'llama3', factor=4.0, low=1.0, high=4.0, original_length=16
)
MODELS = {
    'llama': LLAMA,
    'llama with biases': dict(
        LLAMA, num_kv_heads=None, qkv_biases=True, out_biases=True,
        mlp_biases=True, rotary_scaling=model_config.RotaryScaling(
            'linear', factor=2.0
        ),
    ),
    'llama with a wide head': dict(
        LLAMA, head_dim=10, rotary_scaling=LLAMA3, tie_embeddings=True,
        activation='geglu',
    ),
    'mistral': dict(LLAMA, window=5),
    'qwen2': dict(LLAMA, qkv_biases=True, tie_embeddings=True),
    'qwen3': dict(LLAMA, qk_norm=True, qk_norm_scale=True, head_dim=12),
    'gemma': dict(GEMMA, num_kv_heads=1),
    'gemma2': dict(
        GEMMA, output_norms=True, window=5, full_every=2, attention_width=7,
        attention_softcap=1.5, logit_softcap=20.0,
    ),
    'gemma3_text': dict(
        GEMMA, output_norms=True, window=5, full_every=3, qk_norm=True,
        qk_norm_scale=True, window_rotary_base=50.0, num_layers=4,
        rotary_scaling=model_config.RotaryScaling('linear', factor=2.0),
    ),
    'gpt_neox': NEOX,
    'gpt_neox in sequence': dict(
        NEOX, activation='gelu', parallel_residual=False, rotary_base=500.0,
        rotary_share=0.5, qkv_biases=False, out_biases=False,
    ),
    'gpt2': vars(model_config.gpt2(**SIZES, num_heads=4)),
    'gpt2 with a head': vars(
        model_config.gpt2(
            **SIZES, num_heads=4, tie_embeddings=False, activation='gelu_exact'
        )
    ),
}


def logits_of(model, tokens):
  with torch.no_grad():
    return model(torch.from_numpy(np.asarray(tokens))).logits.numpy()


def opened(folder):
  return transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype='float32'
  ).eval()


@pytest.mark.parametrize('name', MODELS)
def test_logits_of_every_family(tmp_path, name):
  cfg = model_config.DecoderConfig(**MODELS[name])
  params = tiny_models.random_params(cfg)
  kind = pretrained.save(
      params, cfg, None, tmp_path / 'out', shard_bytes=30_000
  )
  assert kind == name.split()[0]
  model = opened(tmp_path / 'out')
  assert model.config.model_type == kind
  tokens = np.random.default_rng(0).integers(V, size=(2, 40))
  found = apply(params, tokens, cfg).logits_BxLxV
  assert np.abs(found).max() > 1
  np.testing.assert_allclose(logits_of(model, tokens), found, atol=1e-4)
