"""Runs and published models, written by the program."""

import json
import shutil

import jax
import numpy as np
import published_models
import pytest
import tiny_runs
from programs import run

from iblm_jax import config, config_files, files
from iblm_jax.models import pretrained
from iblm_jax.training import checkpoints, restoring

safetensors = pytest.importorskip('safetensors.numpy')
pytest.importorskip('tokenizers')


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def said(done):
  lines = done.stderr.strip().splitlines()
  assert len(lines) == 1, done
  return lines[0]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of LoRA, its config."""
  return tiny_runs.train(
      tmp_path_factory.mktemp('lora'), parameterisation=tiny_runs.LORA
  )


def test_a_run_is_merged(trained, tmp_path):
  workdir, cfg = trained
  first = checkpoints.saved_steps(workdir / 'checkpoints')[0]
  out = tmp_path / 'out'
  done = run('export', workdir / f'checkpoints/{first}', f'--out={out}')
  assert f'wrote llama to {out}' in done.stdout
  found = pretrained.load(out)
  same(found.params, restoring.restore_params(cfg, workdir, step=first).params)
  assert found.tokenizer.encode('né').tolist() == [110, 195, 169]
  assert found.cfg.norm_epsilon == 1e-2 and found.cfg.kv_heads == 1


def test_an_adapter_with_its_base(trained, tmp_path):
  workdir, cfg = trained
  out = tmp_path / 'out'
  run('export', workdir, '--adapter', f'--out={out}', '--shard_bytes=9000')
  settings = json.loads((out / 'adapter_config.json').read_text())
  assert settings['base_model_name_or_path'] == str(out / 'base')
  assert settings['target_modules'] == ['self_attn.q_proj', 'self_attn.v_proj']
  assert (settings['r'], settings['lora_alpha']) == (2, 16.0)
  assert len(list((out / 'base').glob('*.safetensors'))) > 1
  base = pretrained.load(out / 'base').params
  merged = restoring.restore_params(cfg, workdir).params
  own = safetensors.load_file(out / 'adapter_model.safetensors')
  assert len(own) == 8
  for part, name in (('query', 'q_proj'), ('value', 'v_proj')):
    before, after = (
        tree['blocks']['attention'][part]['kernel'] for tree in (base, merged)
    )
    for n in range(2):
      stem = f'base_model.model.model.layers.{n}.self_attn.{name}.lora_'
      a, b = own[f'{stem}A.weight'], own[f'{stem}B.weight']
      assert np.abs(b).max() > 0.01
      np.testing.assert_allclose(
          after[n].reshape(16, -1), before[n].reshape(16, -1) + 8 * (b @ a).T,
          atol=1e-5,
      )
  del merged['blocks']['attention'], base['blocks']['attention']
  same(base, merged)


@pytest.mark.parametrize('family', ['mistral', 'gpt_neox'])
def test_a_published_model_is_written_again(tmp_path, family):
  settings = {**published_models.SETTINGS[family], 'sliding_window': None}
  if family == 'gpt_neox':
    del settings['sliding_window']
  tensors = published_models.weights(settings)
  folder = published_models.save(tmp_path / 'it', settings, tensors, shards=2)
  chat = json.dumps({'chat_template': 'x', 'model_max_length': 9})
  (folder / 'tokenizer_config.json').write_text(chat)
  done = run('export', folder, f'--out={tmp_path}/out')
  # The family is its own, though a Llama has all switches of this Mistral.
  assert f'wrote {family} to' in done.stdout
  written = safetensors.load_file(tmp_path / 'out/model.safetensors')
  same(written, tensors)
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    assert (tmp_path / 'out' / name).read_text() == (folder / name).read_text()
  model, again = (pretrained.load(p) for p in (folder, tmp_path / 'out'))
  assert model.cfg == again.cfg
  same(model.params, again.params)


@pytest.mark.parametrize('added', [{}, {'parameterisation': tiny_runs.LORA}])
def test_what_was_tuned_has_the_files_of_the_model(tmp_path, added):
  settings = published_models.SETTINGS['qwen2']
  folder = published_models.save(
      tmp_path / 'it', settings, published_models.weights(settings)
  )
  chat = json.dumps({'chat_template': 'x'})
  (folder / 'tokenizer_config.json').write_text(chat)
  workdir, cfg = tiny_runs.train(
      tmp_path, text='w3 w1 w4 w15 w9 w26 ', start={'pretrained': str(folder)},
      **added,
  )
  expected = restoring.restore_params(cfg, workdir).params
  out = tmp_path / 'out'
  if added:
    run('export', workdir, '--adapter', f'--out={out}')
    settings = json.loads((out / 'adapter_config.json').read_text())
    assert settings['base_model_name_or_path'] == str(folder)
    assert not (out / 'base').exists()
    shutil.rmtree(out)
  done = run('export', workdir, f'--out={out}')
  assert 'wrote qwen2' in done.stdout
  assert (out / 'tokenizer_config.json').read_text() == chat
  same(pretrained.load(out).params, expected)
  # The files are needed where the model's own numbers are not in a checkpoint.
  shutil.rmtree(out)
  (folder / 'model.safetensors').unlink()
  done = run('export', workdir, f'--out={out}', status=2 if added else 0)
  if added:
    assert 'does not exist' in said(done) and not out.exists()
  else:
    same(pretrained.load(out).params, expected)


def test_mistakes(trained, tmp_path):
  workdir, _ = trained
  memory = tmp_path / 'memory'
  (memory / 'checkpoints').mkdir(parents=True)
  tree = config_files.module('memory').get_config('smoke').to_dict()
  files.write_json(
      memory / 'config.json', config.to_dict(config.from_dict(tree))
  )
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/mine').touch()
  out, full = (f'--out={tmp_path}/{name}' for name in ('out', 'full'))
  for args, message in (
      ([workdir, workdir, out], 'one RUN must be given'),
      ([workdir], 'Flag --out must have a value'),
      ([tmp_path / 'none', full], 'out must be empty or not there'),
      ([tmp_path / 'none', out], "none' does not exist"),
      ([tmp_path, out], 'must be the folder of a run'),
      ([workdir / 'checkpoints/77', out], '77'),
      ([memory, out], "model.family must be 'decoder', got 'memory'"),
      ([workdir, '--family=gpt2', out], "family 'gpt2' lacks switches"),
      ([workdir, '--family=bert', out], 'family'),
      ([workdir, '--shard_bytes=0', out], 'shard_bytes'),
      (['package:no-such', '--adapter', out], 'is not installed'),
  ):
    assert message in said(run('export', *args, status=2))
  assert sorted(path.name for path in tmp_path.iterdir()) == ['full', 'memory']
  assert [path.name for path in (tmp_path / 'full').iterdir()] == ['mine']
