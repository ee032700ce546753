"""Models written as folders hold what the families publish."""

import dataclasses
import json
import tracemalloc

import gpt2_files
import jax
import ml_dtypes
import numpy as np
import published_models
import pytest
import tiny_models

from iblm_jax.data.text import tokenizers
from iblm_jax.models import config as model_config
from iblm_jax.models import pretrained
from iblm_jax.models.pretrained import settings as settings_lib
from iblm_jax.models.pretrained import writing_settings

safetensors = pytest.importorskip('safetensors.numpy')
pytest.importorskip('tokenizers')

SETTINGS = published_models.SETTINGS


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('family', SETTINGS)
def test_what_was_read_is_written_again(tmp_path, family):
  settings = SETTINGS[family]
  tensors = published_models.weights(settings)
  folder = published_models.save(tmp_path / 'it', settings, tensors)
  model = pretrained.load(folder)
  out = tmp_path / 'above' / 'out'
  kind = settings['model_type']
  assert pretrained.save(*model, out, family=kind) == kind
  written = safetensors.load_file(out / 'model.safetensors')
  assert written.keys() == tensors.keys()
  same(written, tensors)
  again = pretrained.load(out)
  assert again.cfg == model.cfg
  same(again.params, model.params)
  assert again.tokenizer.encode('w3 w1').tolist() == [3, 1]
  generation = json.loads((out / 'generation_config.json').read_text())
  assert generation == dict.fromkeys(
      ('bos_token_id', 'eos_token_id', 'pad_token_id'), 47
  )
  # The family is found by the switches too.
  assert settings_lib.to_config(writing_settings.from_config(model.cfg)) == (
      model.cfg
  )


def test_gpt2_has_its_names(tmp_path):
  folder = gpt2_files.write(tmp_path / 'it')
  settings = {'model_type': 'gpt2', 'n_head': 2}
  (folder / 'config.json').write_text(json.dumps(settings))
  model = pretrained.load(folder, tokenizer='bytes')
  assert pretrained.save(*model, tmp_path / 'out') == 'gpt2'
  tensors = safetensors.load_file(folder / 'model.safetensors')
  written = safetensors.load_file(tmp_path / 'out/model.safetensors')
  same(written, {f'transformer.{k}': a for k, a in tensors.items()})
  again = pretrained.load(tmp_path / 'out', tokenizer='bytes')
  assert again.cfg == model.cfg
  same(again.params, model.params)
  # A head of its own has no prefix.
  cfg = dataclasses.replace(model.cfg, tie_embeddings=False)
  params = tiny_models.random_params(cfg)
  pretrained.save(params, cfg, None, tmp_path / 'head')
  again = pretrained.load(tmp_path / 'head', tokenizer='bytes')
  assert again.cfg == cfg
  same(again.params, params)


@pytest.mark.parametrize(
    'name, dtype',
    [('float16', np.float16), ('bfloat16', ml_dtypes.bfloat16), (None, None)],
)
def test_shards_and_dtypes(tmp_path, name, dtype):
  cfg = model_config.llama(
      259, num_layers=2, width=8, num_heads=2, num_kv_heads=1, head_dim=6
  )
  params = tiny_models.random_params(cfg)
  most = 9000
  pretrained.save(
      params, cfg, None, tmp_path / 'out', dtype=name, shard_bytes=most
  )
  shards = sorted((tmp_path / 'out').glob('*.safetensors'))
  index = json.loads(
      (tmp_path / 'out/model.safetensors.index.json').read_text()
  )
  held, size = {}, 0
  for shard in shards:
    tensors = safetensors.load_file(shard)
    held |= dict.fromkeys(tensors, shard.name)
    of_shard = sum(array.nbytes for array in tensors.values())
    assert of_shard <= most
    size += of_shard
  assert len(shards) > 1 and index['weight_map'] == held
  assert index['metadata'] == {'total_size': size}
  again = pretrained.load(tmp_path / 'out', tokenizer='bytes').params
  expected = params
  if dtype:
    expected = jax.tree.map(lambda a: a.astype(dtype).astype('f4'), params)
  same(again, expected)


def test_arrays_of_devices_keep_their_dtype(tmp_path):
  cfg = model_config.llama(
      259, num_layers=2, width=8, num_heads=2, window=4, document_mask=True,
      remat='full',
  )
  params = jax.tree.map(
      lambda a: jax.numpy.asarray(a, 'bfloat16'), tiny_models.random_params(cfg)
  )
  assert pretrained.save(params, cfg, None, tmp_path / 'out') == 'mistral'
  written = safetensors.load_file(tmp_path / 'out/model.safetensors')
  assert {str(array.dtype) for array in written.values()} == {'bfloat16'}
  again = pretrained.load(
      tmp_path / 'out', tokenizer='bytes', dtype='bfloat16'
  )
  same(again.params, params)
  settings = json.loads((tmp_path / 'out/config.json').read_text())
  assert settings['torch_dtype'] == 'bfloat16'


@pytest.mark.parametrize(
    'cfg, family, message',
    [
        (
            model_config.modded_gpt(), None,
            r"no family of \('llama', .* has all switches of this model",
        ),
        (
            tiny_models.transformer(logit_softcap=30.0), None,
            'llama needs logit_softcap=None, got 30.0.$',
        ),
        (
            tiny_models.transformer(activation='relu2', qk_norm=True), None,
            "activation='swiglu', got 'relu2'; qk_norm=False, got True",
        ),
        (
            tiny_models.transformer(window=4), 'llama',
            "family 'llama' lacks switches .* window=None, got 4",
        ),
        (
            tiny_models.transformer(qkv_biases=True, num_kv_heads=1), 'qwen3',
            'qk_norm=True, got False',
        ),
        (tiny_models.transformer(), 'bert', "family must be one of .* 'bert'"),
        (tiny_models.mixer(8), None, 'mixer=None, got MixerConfig'),
        (
            model_config.gpt2(width=9, num_heads=3), 'llama',
            'llama needs rotary positions need an even head width',
        ),
    ],
)
def test_switches_that_no_family_has_are_named(tmp_path, cfg, family, message):
  with pytest.raises(ValueError, match=message) as caught:
    writing_settings.from_config(cfg, family)
  assert '\n' not in str(caught.value)


def test_nothing_is_overwritten_or_left_behind(tmp_path):
  cfg = tiny_models.transformer()
  params = tiny_models.random_params(cfg)
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'mine').write_text('x')
  with pytest.raises(ValueError, match=f'out must be empty .* in {out}'):
    pretrained.save(params, cfg, None, out)
  assert [path.name for path in out.iterdir()] == ['mine']
  (out / 'mine').unlink()
  params['head']['kernel'][0, 0] = np.nan
  with pytest.raises(ValueError, match='lm_head.weight must be finite'):
    pretrained.save(params, cfg, None, out)
  assert list(tmp_path.rglob('*')) == [out]
  params['head']['kernel'][0, 0] = 1e6
  with pytest.raises(ValueError, match='lm_head.weight must be finite'):
    with np.errstate(over='ignore'):
      pretrained.save(params, cfg, None, out, dtype='float16')
  for changed, message in (
      ({'head': {}}, r'must have head/kernel of shape \(8, 11\), got None'),
      ({'odd': params['head']}, 'got odd/kernel, odd/norm/scale besides'),
  ):
    with pytest.raises(ValueError, match=message):
      pretrained.save({**params, **changed}, cfg, None, out)
  with pytest.raises(ValueError, match="dtype must be .* 'float64'"):
    pretrained.save(params, cfg, None, out, dtype='float64')
  with pytest.raises(ValueError, match='has 259 ids, the model takes 11'):
    tokenizer = tokenizers.ByteTokenizer()
    pretrained.save(params, cfg, tokenizer, out)
  assert list(tmp_path.rglob('*')) == [out]
  pretrained.save(params, cfg, None, out)  # an empty folder is none
  assert (out / 'config.json').exists()


def test_tokenizers_that_have_no_file(tmp_path):
  cfg = model_config.llama(259, num_layers=1, width=8, num_heads=2)
  params = tiny_models.random_params(cfg)
  pretrained.save(params, cfg, tokenizers.ByteTokenizer(), tmp_path / 'out')
  found = pretrained.load(tmp_path / 'out').tokenizer
  assert found.encode('né').tolist() == [110, 195, 169]

  class _Pieces:
    vocab_size, bos_id, eos_id, pad_id = 9, 1, 2, 2

  with pytest.warns(UserWarning, match='a Pieces has no tokenizer.json: the'):
    pretrained.save(params, cfg, _Pieces(), tmp_path / 'pieces')
  assert not list((tmp_path / 'pieces').glob('tokenizer*'))
  settings = json.loads((tmp_path / 'pieces/config.json').read_text())
  assert settings['eos_token_id'] == 2


def test_one_parameter_after_the_other(tmp_path):
  cfg = model_config.llama(64, num_layers=8, width=256, num_heads=4)
  params = tiny_models.random_params(cfg)
  tracemalloc.start()
  pretrained.save(params, cfg, None, tmp_path / 'out', dtype='float16')
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  one = params['blocks']['mlp']['up']['kernel'][0].nbytes
  whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  assert peak < 3 * one < whole / 6
