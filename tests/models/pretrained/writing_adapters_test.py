"""Adapters in the layout of others change matrices as ours do."""

import json

import jax
import numpy as np
import pytest
import tiny_models

from iblm_jax import sublora
from iblm_jax.models import config as model_config
from iblm_jax.models import pretrained

safetensors = pytest.importorskip('safetensors.numpy')

SIZES = dict(num_layers=2, width=8, num_heads=2, mlp_width=12)
LLAMA = model_config.llama(11, **SIZES, num_kv_heads=1, head_dim=6)
NEOX = model_config.DecoderConfig(
    11, **SIZES, norm='layer', biases=True, activation='gelu_exact',
    parallel_residual=True,
)
GPT2 = model_config.gpt2(vocab_size=11, max_length=16, **SIZES)
QUERY, VALUE = 'attention/query/kernel$', 'attention/value/kernel$'
OUT, MLP = 'attention/out/kernel$', 'mlp/.*kernel$'


@pytest.mark.parametrize(
    'cfg, patterns, ranks',
    [
        (LLAMA, (QUERY, VALUE, OUT, MLP, '^head/kernel$'), {2}),
        (NEOX, (VALUE, QUERY, OUT, MLP, '^head/kernel$'), {2, 4}),
        (GPT2, ('kernel$',), {2, 6}),
        (GPT2, (VALUE,), {2}),
    ],
    ids=['llama', 'gpt_neox', 'gpt2', 'gpt2 values'],
)
def test_what_is_added_is_what_was_trained(tmp_path, cfg, patterns, ranks):
  lora = sublora.LoraConfig(patterns=patterns, rank=2, alpha_scale=6.0)
  params = tiny_models.random_params(cfg)
  adapters = tiny_models.random_params(
      sublora.lora_init(params, lora, jax.random.key(0)), seed=3
  )
  merged = sublora.lora_apply(params, adapters, lora)
  kind = pretrained.save_adapter(
      adapters, cfg, tmp_path / 'it', rank=2, alpha=6.0, base='somewhere'
  )
  for name, tree in (('base', params), ('merged', merged)):
    pretrained.save(tree, cfg, None, tmp_path / name)
  base, expected = (
      safetensors.load_file(tmp_path / name / 'model.safetensors')
      for name in ('base', 'merged')
  )
  own = safetensors.load_file(tmp_path / 'it/adapter_model.safetensors')
  settings = json.loads((tmp_path / 'it/adapter_config.json').read_text())
  assert settings['base_model_name_or_path'] == 'somewhere'
  if kind == 'gpt_neox':  # as transformers 5 calls it
    for tensors in (base, expected):
      tensors['lm_head.weight'] = tensors.pop('embed_out.weight')
  changed, seen = set(), set()
  for name, array in base.items():
    key = f'base_model.model.{name.removesuffix(".weight")}.lora_'
    if f'{key}A.weight' in own:
      a, b = (own.pop(f'{key}{letter}.weight') for letter in 'AB')
      short = [
          module
          for module in settings['target_modules']
          if name == f'{module}.weight' or name.endswith(f'.{module}.weight')
      ]
      assert len(short) == 1
      changed |= set(short)
      rank = settings['rank_pattern'].get(short[0], settings['r'])
      alpha = settings['alpha_pattern'].get(short[0], settings['lora_alpha'])
      assert a.shape[0] == b.shape[1] == rank
      seen.add(rank)
      added = alpha / rank * b @ a
      is_turned = kind == 'gpt2' and 'head' not in name
      assert is_turned == settings['fan_in_fan_out']
      array = array + (added.T if is_turned else added)
    np.testing.assert_allclose(expected[name], array, atol=1e-5, err_msg=name)
  assert not own and changed == set(settings['target_modules'])
  assert seen == ranks


def test_what_is_no_linear_map_is_named(tmp_path):
  pair = {'a': np.ones([2, 11]), 'b': np.ones([8, 2])}
  adapters = {'embed': {'tokens': pair}}
  with pytest.raises(ValueError, match='embed/tokens has an adapter and is no'):
    pretrained.save_adapter(
        adapters, LLAMA, tmp_path / 'it', rank=2, alpha=1.0, base=''
    )
  with pytest.raises(ValueError, match="'llama' lacks switches of this model"):
    pretrained.save_adapter(
        {}, GPT2, tmp_path / 'it', rank=2, alpha=1.0, base='', family='llama'
    )
  assert not list(tmp_path.iterdir())
