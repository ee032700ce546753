"""Runs that begin with a published model."""

import dataclasses
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.models import pretrained
from iblm_jax.training import config, loop, restoring, run
from tests.helpers import published_models

pytest.importorskip('safetensors')
pytest.importorskip('tokenizers')

QUERY_VALUE = ['attention/query/kernel$', 'attention/value/kernel$']
LORA = dict(patterns=QUERY_VALUE, rank=2, alpha_scale=4.0)
KINDS = {
    'all': None,
    'full': dict(kind='full'),
    'lora': dict(kind='lora', lora=LORA),
    'sublora': dict(kind='sublora', dims=6, lora=LORA),
    'subspace': dict(kind='subspace', dims=6),
}
WORDS = np.random.default_rng(0).integers(1, 47, 400)


def publish(path, family='llama'):
  settings = published_models.SETTINGS[family]
  tensors = published_models.weights(settings)
  return published_models.save(path, settings, tensors), settings, tensors


@pytest.fixture
def model(tmp_path):
  return publish(tmp_path / 'model')


def tree_of(folder, tmp_path, **changes):
  """One document, of which the last tenth is held out: two rows of 16."""
  text = tmp_path / 'text.txt'
  text.write_text(' '.join(f'w{i}' for i in WORDS))
  return dict(
      start=dict(pretrained=str(folder)),
      data=dict(
          kind='text',
          batch_size=2,
          text=dict(paths=str(text), seq_len=16, eval_rows=2),
      ),
      objective=dict(
          method='ce', measure_entropy=False, skip_first=0, skip_last=0
      ),
      optimizer=dict(schedule=dict(peak=1e-2)),
      mesh=dict(data=1),
      train=dict(num_steps=4, checkpoint_every=2, log_every=1),
  ) | changes


def test_the_files_say_what_the_model_is(model, tmp_path):
  folder, _, _ = model
  tree = tree_of(folder, tmp_path)
  tree['model'] = dict(
      width=999, num_layers=7, remat='full', entropy=dict(patch_size=4)
  )
  cfg = config.from_dict(tree)
  own = pretrained.load(folder).cfg
  assert cfg.model == dataclasses.replace(
      own,
      document_mask=True,
      remat='full',
      entropy=dataclasses.replace(own.entropy, patch_size=4),
  )
  assert cfg.data.text.tokenizer == str(folder)
  lines = [
      f'{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n'
      for name in ('config.json', 'model.safetensors')
  ]
  assert cfg.start.sha256 == hashlib.sha256(
      ''.join(lines).encode()
  ).hexdigest()
  shutil.rmtree(folder)
  assert config.from_dict(config.to_dict(cfg)) == cfg


def test_a_tokenizer_of_ones_own_is_kept(model, tmp_path):
  tree = tree_of(model[0], tmp_path)
  tree['data']['text']['tokenizer'] = str(model[0] / 'tokenizer.json')
  cfg = config.from_dict(tree)
  assert cfg.data.text.tokenizer == str(model[0] / 'tokenizer.json')


@pytest.mark.parametrize('kind', KINDS)
def test_step_0_is_the_published_model(kind, model, tmp_path):
  folder, settings, tensors = model
  tree = tree_of(folder, tmp_path, parameterisation=KINDS[kind])
  tree['train'] |= dict(num_steps=1, eval_every=1)
  workdir = tmp_path / 'run'
  summary = run.train(tree, workdir, report=lambda line: None)
  cfg = config.read_run(workdir)
  assert summary['start'] == dict(
      pretrained=str(folder), sha256=cfg.start.sha256
  )
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  first = json.loads(lines[0])
  assert first['step'] == 0
  held_out = np.concatenate([[47], WORDS[-40:], [47]])  # marks around
  nll = []
  for begin in (0, 16):
    row = held_out[begin : begin + 17]
    logits = published_models.logits(settings, tensors, row[:-1])
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll += [-log_p[t, row[t + 1]] for t in range(16)]
  assert first['eval/validation/cross_entropy'] == pytest.approx(
      np.mean(nll), abs=1e-4
  )
  # And it learns.
  there = restoring.restore_params(cfg, workdir).params
  same = jax.tree.map(np.array_equal, there, pretrained.load(folder).params)
  assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize('kind', ['all', 'lora'])
def test_a_run_goes_on_bit_for_bit(kind, model, tmp_path):
  tree = tree_of(model[0], tmp_path, parameterisation=KINDS[kind])
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  quiet = lambda line: None
  run.train(tree, whole, report=quiet)
  shutil.copytree(whole, parts)
  shutil.rmtree(parts / 'checkpoints' / '4')
  (parts / 'summary.json').unlink()
  run.train(tree, parts, report=quiet)
  cfg = config.read_run(whole)
  expected = restoring.restore_trained(cfg, whole)
  found = restoring.restore_trained(cfg, parts)
  assert found.step == expected.step == 4
  for a, b in zip(
      jax.tree.leaves(found.params),
      jax.tree.leaves(expected.params),
      strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_another_model_in_its_place_is_refused(model, tmp_path):
  folder, settings, tensors = model
  tree = tree_of(folder, tmp_path, parameterisation=KINDS['lora'])
  workdir = tmp_path / 'run'
  run.train(tree, workdir, report=lambda line: None)
  cfg = config.read_run(workdir)
  name = next(iter(tensors))
  published_models.save(folder, settings, tensors | {name: 2 * tensors[name]})
  with pytest.raises(ValueError, match='config.start.sha256 is'):
    run.train(tree, workdir)
  with pytest.raises(ValueError, match='must be the model that the run began'):
    restoring.restore_params(cfg, workdir)
  shutil.rmtree(folder)
  with pytest.raises(ValueError, match=r'start\.pretrained: .*does not exist'):
    restoring.restore_params(cfg, workdir)


def test_a_run_of_all_parameters_needs_the_files_no_more(model, tmp_path):
  workdir = tmp_path / 'run'
  run.train(tree_of(model[0], tmp_path), workdir, report=lambda line: None)
  shutil.rmtree(model[0])
  cfg = config.read_run(workdir)
  assert restoring.restore_params(cfg, workdir).step == 4


def test_a_base_in_bfloat16(model, tmp_path):
  tree = tree_of(model[0], tmp_path, parameterisation=KINDS['lora'])
  tree['start'] |= dict(dtype='bfloat16')
  tree['model'] = dict(dtype='bfloat16')
  job = loop.prepare(config.from_dict(tree))
  fixed = job.program.parameterisation.fixed['params']
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(fixed))


@pytest.mark.parametrize(
    ('start', 'others', 'message'),
    [
        (dict(workdir='a'), {}, 'one of workdir and pretrained must be given'),
        (dict(pretrained='nowhere'), {}, "file or folder '.*nowhere' does not"),
        (dict(pretrained='package:no-such'), {}, 'is not installed: run `pip'),
        (dict(parts={'a': 'b'}), {}, 'parts are of a workdir'),
        (dict(dtype='float16'), {}, 'dtype must be one of'),
        (dict(dtype='bfloat16'), {}, "dtype must be 'float32' where"),
        ({}, dict(model=dict(family='memory')), "must be 'decoder'"),
    ],
)
def test_mistakes(start, others, message, model, tmp_path):
  tree = tree_of(model[0], tmp_path, **others)
  tree['start'] |= start
  with pytest.raises(ValueError, match=message):
    config.from_dict(tree)
