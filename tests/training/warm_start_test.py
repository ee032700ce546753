"""Parts of one run's parameters in place of another's."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_families

from iblm_jax import config as config_lib
from iblm_jax.training import loop, restoring, warm_start


def own():
  return {
      'encoder': {'w': jnp.zeros([2, 3]), 'norm': {'scale': jnp.zeros(3)}},
      'decoder': {'w': jnp.zeros([3, 2])},
  }


def donor():
  draw = lambda *shape: np.float32(np.random.default_rng(0).normal(size=shape))
  return {
      'encoder': {'w': draw(2, 3), 'norm': {'scale': draw(3)}},
      'head': {'decoder': {'w': draw(3, 2)}},
  }


def test_a_part_is_taken_and_the_rest_stays():
  mine, other = own(), donor()
  made = warm_start.graft(mine, other, {'encoder': 'encoder'})
  jax.tree.map(np.testing.assert_array_equal, made['encoder'], other['encoder'])
  assert made['decoder']['w'] is mine['decoder']['w']
  assert not mine['encoder']['w'].any()  # the fresh ones are as they were
  assert jax.tree.structure(made) == jax.tree.structure(mine)
  assert isinstance(made['encoder']['w'], jax.Array)


def test_parts_may_have_other_names_and_be_many():
  parts = {'head/decoder': 'decoder', 'encoder/norm': 'encoder/norm'}
  made = warm_start.graft(own(), donor(), parts)
  np.testing.assert_array_equal(
      made['decoder']['w'], donor()['head']['decoder']['w']
  )
  np.testing.assert_array_equal(
      made['encoder']['norm']['scale'], donor()['encoder']['norm']['scale']
  )
  assert not made['encoder']['w'].any()


def test_everything_may_be_taken():
  made = warm_start.graft(own(), jax.tree.map(jnp.ones_like, own()), {'': ''})
  assert all(leaf.all() for leaf in jax.tree.leaves(made))


@pytest.mark.parametrize(
    'parts, message',
    [
        ({'encodr': 'encoder'}, "start must have a part 'encodr'"),
        ({'encoder/w/x': 'encoder'}, "start must have a part 'encoder/w/x'"),
        ({'encoder': 'memory'}, "the model must have a part 'memory'"),
        ({'encoder': 'decoder'},
         r"'encoder' must fit 'decoder' of the model, but 'norm/scale' has"
         r' shape \(3,\) there and None here'),
        ({'head/decoder/w': 'encoder/w'},
         r"'head/decoder/w' must fit 'encoder/w' of the model, but '' has shape"
         r' \(3, 2\) there and \(2, 3\) here'),
        ({'': ''}, "but 'decoder/w' has shape None there"),
    ],
)
def test_what_does_not_fit_is_named(parts, message):
  shapes = lambda tree: jax.eval_shape(lambda: tree)
  for mine, other in ((own(), donor()), (shapes(own()), shapes(donor()))):
    with pytest.raises(ValueError, match=message):
      warm_start.check(mine, other, parts)
  with pytest.raises(ValueError, match=message):
    warm_start.graft(own(), donor(), parts)


def test_what_changed_of_frozen_parameters_is_named():
  made = warm_start.graft(own(), donor(), {'encoder': 'encoder'})
  changed = lambda tree, *frozen: warm_start.changed(
      tree, donor(), {'encoder': 'encoder'}, frozen
  )
  assert changed(made, '^encoder/') == []
  made['encoder']['norm']['scale'] = made['encoder']['norm']['scale'] * 1.0001
  assert changed(made, '^encoder/') == ['encoder/norm/scale']
  assert changed(made, 'w$') == []


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(workdir=''), 'workdir must name the folder of a run'),
        (dict(parts={}), 'parts must map paths to paths'),
        (dict(parts={'a': 3}), "parts must map paths to paths, got {'a': 3}"),
    ],
)
def test_bad_options_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    warm_start.StartConfig(**{'workdir': 'runs/a', **change})


def test_a_config_file_has_the_fields_of_a_start_for_flags():
  c = tiny_families.small('memory')
  assert c.start.workdir is None
  cfg = config_lib.from_dict(c)
  assert cfg.start is None and cfg.frozen == ()
  c.start.workdir = 'runs/a'
  cfg = config_lib.from_dict(c)
  assert cfg.start == warm_start.StartConfig('runs/a', {'encoder': 'encoder'})
  assert config_lib.from_dict(config_lib.to_dict(cfg)) == cfg
  hash(cfg)
  tree = config_lib.to_dict(cfg)
  del tree['start']['workdir']
  with pytest.raises(ValueError, match='config.start.workdir must be given'):
    config_lib.from_dict(tree)


def test_a_start_must_fit_before_anything_is_read(tmp_path):
  memory = tiny_families.small('memory')
  memory.start.workdir = str(tmp_path)
  cfg = config_lib.from_dict(memory)
  source = config_lib.from_dict(tiny_families.small('autoencoder'))
  restoring.check_start(cfg, source)
  begin = lambda donor: restoring.beginning(
      cfg, tmp_path / 'new', lambda workdir: donor
  )
  with pytest.raises(ValueError, match=f'{tmp_path} holds no checkpoint yet'):
    begin(source)
  wide = dataclasses.replace(source.model.encoder, mlp_width=48)
  other = dataclasses.replace(
      source, model=dataclasses.replace(source.model, encoder=wide)
  )
  with pytest.raises(
      ValueError,
      match=r"'encoder' must fit 'encoder' of the model, but"
      r" 'blocks/mlp/down/kernel' has shape \(1, 48, 16\) there and"
      r' \(1, 32, 16\) here',
  ):
    begin(other)
  # Nothing is read for a run that goes on where it was, or starts afresh.
  (tmp_path / 'new/checkpoints/5').mkdir(parents=True)
  assert begin(source) is None
  assert restoring.beginning(source, tmp_path / 'other', None) is None


@pytest.mark.parametrize(
    'field, value',
    [('rotary_base', 500.0), ('norm_epsilon', 1e-3), ('activation', 'gelu')],
)
def test_parameters_must_mean_the_same(tmp_path, field, value):
  """Shapes that fit are not enough."""
  memory = tiny_families.small('memory')
  memory.start.workdir = str(tmp_path)
  donor = tiny_families.small('autoencoder')
  memory.frozen = ('^encoder/',)
  for tree in (memory, donor):
    tree.model.encoder.update(activation='relu2', mlp_width=32)
  source = config_lib.from_dict(donor)
  restoring.check_start(config_lib.from_dict(memory), source)
  memory.model.encoder[field] = value
  with pytest.raises(
      ValueError, match=rf'start: model.encoder.{field} must be .* got'
  ):
    restoring.check_start(config_lib.from_dict(memory), source)
  # So is a part of a stack, or a whole model.
  for parts in ({'encoder/blocks': 'encoder/blocks'}, {'': ''}):
    other = tiny_families.small('memory')
    other.model.encoder.update(activation='relu2', mlp_width=32)
    memory.start.parts = parts
    with pytest.raises(
        ValueError, match=rf'start: model.encoder.{field} must be .* got'
    ):
      restoring.check_start(
          config_lib.from_dict(memory), config_lib.from_dict(other)
      )


def test_training_is_told_its_beginning(tmp_path):
  memory = tiny_families.small('memory')
  memory.start.workdir = str(tmp_path)
  job = loop.prepare(config_lib.from_dict(memory), jax.devices()[:1])
  with pytest.raises(ValueError, match='begins with parameters of'):
    loop.train(job, tmp_path / 'new')


def test_a_parameterisation_cannot_start_from_a_run():
  memory = tiny_families.small('memory')
  memory.start.workdir = 'runs/a'
  memory.parameterisation = dict(kind='subspace', dims=4)
  with pytest.raises(ValueError, match="start is for .*/runs/a' with a"):
    config_lib.from_dict(memory)


def test_a_run_knows_the_checkpoint_that_it_took(tmp_path, monkeypatch):
  """And takes the same one when it is killed before it has saved."""
  donor, workdir = tmp_path / 'donor', tmp_path / 'run'
  workdir.mkdir()

  def save(step, text):
    (donor / f'checkpoints/{step}').mkdir(parents=True, exist_ok=True)
    (donor / f'checkpoints/{step}/manifest.json').write_text(text)

  def restore(cfg, folder, mesh, step=None):
    saved = [int(p.name) for p in (donor / 'checkpoints').iterdir()]
    return restoring.Restored('params', step or max(saved))

  def begin():
    tree = tiny_families.small('memory')
    tree.start.workdir = str(donor)
    return restoring.beginning(
        config_lib.from_dict(tree), workdir, lambda folder: None
    )

  monkeypatch.setattr(restoring, 'restore_params', restore)
  monkeypatch.setattr(restoring, 'check_start', lambda cfg, donor: None)
  monkeypatch.setattr(warm_start, 'graft', lambda params, taken, parts: taken)
  save(5, 'a')
  _, origin = begin()(None)
  assert origin['step'] == 5 and len(origin['manifest']) == 64
  (workdir / 'start.json').write_text(json.dumps(origin))
  save(10, 'b')
  assert begin()(None)[1] == origin
  save(5, 'c')
  with pytest.warns(UserWarning, match='checkpoint of step 5 .* the newest'):
    taken = begin()
  assert taken(None)[1]['step'] == 10
  (workdir / 'checkpoints/1').mkdir(parents=True)
  with pytest.warns(UserWarning, match='step 5 .* is not the one that'):
    assert begin() is None
  # What is gone, or was never written down, is no other one.
  for held in (origin | {'step': 7}, {'workdir': str(donor), 'step': 5}):
    (workdir / 'start.json').write_text(json.dumps(held))
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      assert begin() is None
  for damage in ('', '[]', '{}', '[' * 100_000):
    (workdir / 'start.json').write_text(damage)
    with pytest.raises(ValueError, match='start.json must say where'):
      begin()
