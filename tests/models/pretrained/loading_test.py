"""Published folders of every family, against NumPy on their own names."""

import json

import gpt2_files
import jax
import ml_dtypes
import numpy as np
import published_models
import pytest

from iblm_jax.models import decoder, families, pretrained
from iblm_jax.models.pretrained import gpt2_file, gpt2_weights
from iblm_jax.models.pretrained import settings as settings_lib

pytest.importorskip('safetensors')
pytest.importorskip('tokenizers')

SETTINGS = published_models.SETTINGS
apply = jax.jit(decoder.apply, static_argnames='cfg')


@pytest.mark.parametrize('family', SETTINGS)
def test_logits_are_those_of_the_family(tmp_path, family):
  settings = SETTINGS[family]
  tensors = published_models.weights(settings)
  folder = published_models.save(tmp_path / 'it', settings, tensors)
  params, cfg, tokenizer = pretrained.load(folder)
  assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
      lambda a: (a.shape, a.dtype), families.shapes(cfg)
  )
  assert tokenizer.encode('w3 w1').tolist() == [3, 1]
  tokens = np.random.default_rng(1).integers(48, size=20)
  expected = published_models.logits(settings, tensors, tokens)
  found = apply(params, tokens[None], cfg).logits_BxLxV[0]
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    'dtype', [np.float16, ml_dtypes.bfloat16], ids=['F16', 'BF16']
)
def test_shards_and_dtypes_hold_the_same_numbers(tmp_path, dtype):
  settings = SETTINGS['qwen2']
  tensors = published_models.weights(settings, dtype)
  folder = published_models.save(tmp_path / 'it', settings, tensors, shards=3)
  buffer = {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(3)}
  tied = {'lm_head.weight': tensors['model.embed_tokens.weight']}
  whole = published_models.save(
      tmp_path / 'whole', settings, tensors | buffer | tied
  )
  for name in ('float32', 'bfloat16'):
    params, cfg, _ = pretrained.load(folder, dtype=name)
    assert cfg.dtype == name
    same = pretrained.load(whole, dtype=name).params
    jax.tree.map(np.testing.assert_array_equal, params, same)
    up = params['blocks']['mlp']['up']['kernel']
    theirs = tensors['model.layers.1.mlp.up_proj.weight'].T
    assert up.dtype == name
    np.testing.assert_array_equal(up[1], theirs.astype(name))


def test_parameters_go_where_they_are_sent(tmp_path):
  settings = SETTINGS['gpt_neox']
  tensors = published_models.weights(settings)
  folder = published_models.save(tmp_path / 'it', settings, tensors)
  mesh = jax.make_mesh((1,), ('tensor',))
  there = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params, _, _ = pretrained.load(
      folder,
      shardings=lambda cfg: jax.tree.map(
          lambda _: there, families.shapes(cfg)
      ),
  )
  assert {leaf.sharding for leaf in jax.tree.leaves(params)} == {there}
  jax.tree.map(
      np.testing.assert_array_equal, params, pretrained.load(folder).params
  )


def test_gpt2_is_a_family_as_others(tmp_path):
  # Its numbers are compared in gpt2_weights_test.
  settings = dict(
      model_type='gpt2', n_head=2, n_embd=8, n_layer=1, n_positions=6,
      vocab_size=48, eos_token_id=47, attn_pdrop=0.1, summary_type='cls_index',
  )
  shapes = {'wte.weight': (48, 8), 'wpe.weight': (6, 8)}
  for name, rows, columns in (
      ('attn.c_attn', 8, 24), ('attn.c_proj', 8, 8),
      ('mlp.c_fc', 8, 32), ('mlp.c_proj', 32, 8),
  ):
    shapes[f'h.0.{name}.weight'] = (rows, columns)
    shapes[f'h.0.{name}.bias'] = (columns,)
  for norm in ('ln_f', 'h.0.ln_1', 'h.0.ln_2'):
    shapes |= {f'{norm}.weight': (8,), f'{norm}.bias': (8,)}
  tensors = {
      f'transformer.{name}': np.full(shape, 0.5, np.float32)
      for name, shape in shapes.items()
  }
  folder = published_models.save(tmp_path / 'it', settings, tensors)
  for path in (folder, folder / 'model.safetensors'):
    _, cfg, tokenizer = pretrained.load(path)
    assert (cfg.num_layers, cfg.max_length, cfg.positions) == (1, 6, 'learned')
    assert tokenizer.eos_id == 47
  (folder / 'config.json').write_text(json.dumps(settings | {'n_embd': 16}))
  with pytest.raises(ValueError, match=r'must have shape \(48,\), got'):
    pretrained.load(folder)


def test_a_gpt2_is_known_by_its_tensors(tmp_path):
  folder = gpt2_files.write(tmp_path / 'it')  # its config says heads alone
  wide = gpt2_files.write(tmp_path / 'wide', width=64)
  (wide / 'config.json').unlink()
  for path, heads in ((folder, 2), (wide, 1), (wide / 'model.safetensors', 1)):
    params, cfg, _ = pretrained.load(path, tokenizer='bytes')
    assert (cfg.num_heads, cfg.positions) == (heads, 'learned')
    old_cfg, old = gpt2_weights.load_gpt2(path)
    assert old_cfg == cfg
    jax.tree.map(np.testing.assert_array_equal, params, old)
    assert len(pretrained.read_head(path).sha256()) == 64
  settings = SETTINGS['qwen2']
  tensors = published_models.weights(settings)
  other = published_models.save(tmp_path / 'other', settings, tensors)
  with pytest.raises(ValueError, match='other is not a GPT-2, but of another'):
    gpt2_file.load(other, None)
  (other / 'config.json').unlink()
  message = 'config.json does not exist, .* not a GPT-2: it lacks ln_f'
  with pytest.raises(ValueError, match=message):
    pretrained.load(other)
  (other / 'config.json').write_text('{"n_head": 2}')
  with pytest.raises(ValueError, match='config.json names no model_type'):
    pretrained.load(other)


def nan(array):
  array = array.copy()
  array.flat[3] = np.nan
  return array


NORM = 'model.layers.1.input_layernorm.weight'


@pytest.mark.parametrize(
    'settings, change, message',
    [
        ({'model_type': 'bert'}, {}, "model_type must be one of .* 'bert'"),
        ({'alibi': True}, {}, 'may change the computation: alibi=True'),
        ({'quantization_config': {'bits': 4}}, {}, 'quantization_config='),
        ({'hidden_act': 'relu'}, {}, "hidden_act must be one of .* 'relu'"),
        ({'use_sliding_window': True}, {}, 'use_sliding_window must be False'),
        ({'layer_types': ['sliding_attention']}, {}, 'layer_types must all'),
        (
            {'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0}}, {},
            "rope_type must be one of .* 'yarn'",
        ),
        (
            {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'odd': 1}}, {},
            'may change the computation: odd=1',
        ),
        ({'hidden_size': None}, {}, 'hidden_size must be given'),
        ({'hidden_size': '24'}, {}, 'width must be|wrong type'),
        ({'num_hidden_layers': 3}, {}, r'lacks model.layers.2.*\(12 in all\)'),
        ({'intermediate_size': 41}, {}, r'_proj.weight must have shape'),
        ({}, {NORM: None}, f'lacks {NORM} and holds nothing'),
        ({}, {'extra': np.ones(2)}, 'lacks nothing and holds extra besides'),
        ({}, {NORM: np.ones(3)}, rf'{NORM} must have shape \(24,\), got \(3,'),
        ({}, {NORM: nan(np.ones(24))}, f'{NORM} must be finite, got NaN'),
        ({}, {NORM: np.ones(24)}, f'{NORM} is of dtype F64; convert'),
        ({'eos_token_id': 99}, {}, 'another vocabulary'),
        ({'eos_token_id': [3, 48]}, {}, 'must hold the eos_token_id 48'),
        ({'eos_token_id': -1}, {}, 'eos_token_id must be .* >= 0, got -1'),
        ({'eos_token_id': [[0]]}, {}, 'eos_token_id must be one or several'),
        ({'num_hidden_layers': 10**12}, {}, 'few for the 1,000,000,000,000'),
        ({'vocab_size': 10**18}, {}, 'too large|must be at most|must have'),
        ({'rope_theta': 10**400}, {}, 'rope_theta must be a number above 0'),
        ({'rope_theta': -5}, {}, 'rope_theta must be a number above 0'),
        ({'rope_theta': '1e4'}, {}, "rope_theta must be .* got '1e4'"),
        ({'rope_scaling': 'linear'}, {}, 'rope_scaling must hold settings'),
        (
            {'rope_scaling': {'type': 'linear', 'factor': '2'}}, {},
            "factor must be a number above 0 .* got '2'",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, settings, change, message):
  given = SETTINGS['qwen2']
  tensors = published_models.weights(given) | {
      name: array if name == NORM and array is not None and array.size == 24
      and np.isfinite(array).all() else _single(array)
      for name, array in change.items()
  }
  tensors = {k: v for k, v in tensors.items() if v is not None}
  folder = published_models.save(tmp_path / 'it', given | settings, tensors)
  with pytest.raises(ValueError, match=message) as caught:
    pretrained.load(folder)
  assert str(folder) in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'family, change, message',
    [
        ('gemma', {'hidden_activation': 'relu'}, 'hidden_activation must be'),
        ('gemma', {'use_bidirectional_attention': True}, 'must be False, got'),
        ('gemma', {'hidden_size': '24'}, 'a setting has a wrong type'),
        ('gemma2', {'sliding_window': None}, 'sliding_window must be given'),
        ('gemma2', {'hidden_activation': 'gelu'}, "must be .* got 'gelu'"),
        ('gemma2', {'query_pre_attn_scalar': 0}, 'attention_width must be'),
        (
            'gemma2', {'layer_types': ['full_attention', 'sliding_attention']},
            'layer_types must be 2 times .*, got .*full_attention',
        ),
        ('gemma2', {'layer_types': ['full_attention']}, 'must be 2 times'),
        ('gemma3_text', {'attn_logit_softcapping': 9.0}, 'must be None, got'),
        (
            'gemma3_text', {'rope_parameters': {'rope_theta': 9.0}},
            'may change the computation: rope_theta=9.0',
        ),
        ('gemma3_text', {'model_type': 'gemma3'}, "must be one of .*'gemma3'"),
    ],
)
def test_what_gemma_does_not_say_is_not_guessed(family, change, message):
  with pytest.raises(ValueError, match=message) as caught:
    settings_lib.to_config(SETTINGS[family] | change)
  assert '\n' not in str(caught.value)


def _single(array):
  return None if array is None else array.astype(np.float32)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(ValueError, match='absent.* does not exist'):
    pretrained.load(tmp_path / 'absent')
  with pytest.raises(ValueError, match='config.json does not exist'):
    pretrained.load(tmp_path)
  settings = SETTINGS['qwen2']
  tensors = published_models.weights(settings)
  folder = published_models.save(tmp_path / 'it', settings, tensors, shards=2)
  second = folder / 'model-00002-of-00002.safetensors'
  first = folder / 'model-00001-of-00002.safetensors'
  kept = second.read_bytes()
  second.write_bytes(first.read_bytes())
  with pytest.raises(ValueError, match='00002.* must hold .* the index says'):
    pretrained.load(folder)
  second.write_bytes(kept[:-4])
  with pytest.raises(ValueError, match='no safetensors file, or damaged'):
    pretrained.load(folder)
  second.unlink()
  with pytest.raises(ValueError, match='00002-of-00002.* does not exist; .*'):
    pretrained.load(folder)
  second.write_bytes(kept)
  published_models.save_tokenizer(folder / 'tokenizer.json', 49)
  with pytest.raises(ValueError, match='has 49 ids, the model takes 48'):
    pretrained.load(folder)
  (folder / 'tokenizer.json').unlink()
  with pytest.raises(ValueError, match='tokenizer must be given'):
    pretrained.load(folder)
  with pytest.raises(ValueError, match="dtype must be .* 'float64'"):
    pretrained.load(folder, dtype='float64')
  with pytest.raises(ValueError, match="'no-such-thing' is not installed"):
    pretrained.load('package:no-such-thing')
  with pytest.raises(ValueError, match='must have one .gguf among its files'):
    pretrained.load('package:numpy')
