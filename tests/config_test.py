import dataclasses
import importlib.util
import json

import ml_collections
import pytest

from iblm_jax import config as config_lib
from iblm_jax import config_files

CONFIGS = config_files.folder()
VARIANTS = {
    'multiplication': (
        'ce', 'mbe', 'gapt', 'gapt_paper', 'gapt_vn', 'dual', 'smoke'
    ),
    'text': ('ce', 'mbe', 'gapt', 'smoke'),
}


def load(name, variant):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(variant)
  if name == 'text':
    config.data.text.paths = 'a.txt,b.jsonl'
  return config


def pairs():
  return [(name, v) for name, vs in VARIANTS.items() for v in vs]


@pytest.mark.parametrize('name, variant', pairs())
def test_config_files_build_and_survive_json(name, variant):
  cfg = config_lib.from_dict(load(name, variant))
  tree = json.loads(json.dumps(config_lib.to_dict(cfg)))
  assert config_lib.from_dict(tree) == cfg
  assert config_lib.differences(tree, config_lib.to_dict(cfg)) == []
  hash(cfg)


@pytest.mark.parametrize('name', VARIANTS)
def test_unknown_variant(name):
  with pytest.raises(ValueError, match="variant must be one of .* got 'x'"):
    load(name, 'x')


def test_variants_are_what_they_say():
  made = {v: config_lib.from_dict(load('multiplication', v))
          for v in VARIANTS['multiplication']}
  assert made['ce'].objective.method == 'ce'
  assert made['mbe'].objective.method == 'mbe'
  assert made['gapt'].gate.ema > 0
  paper = made['gapt_paper'].gate
  assert (paper.ema, paper.best, paper.reset_aux_best) == (
      0.0, 'every_step', False
  )
  assert (paper.patience_main, paper.patience_aux, paper.spike) == (
      125, 75, 0.1
  )
  assert made['gapt_vn'].model.entropy.alpha == 1.0


def test_lists_of_names_may_be_one_string():
  cfg = config_lib.from_dict(load('text', 'ce'))
  assert cfg.data.text.paths == ('a.txt', 'b.jsonl')


def test_infinite_order_survives():
  config = load('multiplication', 'gapt')
  config.model.entropy.alpha = float('inf')
  cfg = config_lib.from_dict(config)
  again = config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(cfg))))
  assert again.model.entropy.alpha == float('inf')


@pytest.mark.parametrize(
    'path, value, message',
    [
        ('objective.weigth', 1.0, 'config.objective.weigth is not a field'),
        ('gate.patience_main', 0, 'config.gate: patience_main .* got .*0'),
        ('gate.patience_main', 1.5, 'patience_main must be of type int'),
        ('gate.best', 'never', "config.gate.best must be one of"),
        ('model.entropy.alpha', -1.0, 'config.model.entropy: alpha .*-1'),
        ('model.entropy.patch_size', 1, 'config.model.entropy: patch_size'),
        ('model.width', '128', "config.model.width must be of type int"),
        ('model.tie_embeddings', 1, 'tie_embeddings must be of type bool'),
        ('model', 3, 'config.model must be a group of fields, got 3'),
        ('objective.skip_first', 3, 'leave at least 1 of the 4 layers'),
        ('train.num_steps', 0, 'num_steps must be >= 1, got 0'),
        ('train.keep_checkpoints', 1, 'keep_checkpoints must be >= 2'),
        ('train.accumulation', 3, 'multiple of train.accumulation'),
        ('mesh.data', 0, 'data must be >= 1, or -1, got 0'),
        ('mesh.rules', [['embed', {}]], "rules must be pairs .* {}"),
        ('mesh.rules', [['embed', 'model']], "rules must be .* 'model'"),
        ('optimizer.schedule.total_steps', 1400, 'total_steps must equal'),
        ('optimizer.schedule.peak', -1.0, 'peak'),
        ('data.batch_size', 0, 'batch_size'),
        ('data.kind', 'audio', "kind"),
    ],
)
def test_bad_fields_are_named(path, value, message):
  config = load('multiplication', 'gapt').to_dict()
  tree, *rest = [config], *path.split('.')
  group = tree[0]
  for name in rest[:-1]:
    group = group[name]
  group[rest[-1]] = value
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(config)


@pytest.mark.parametrize('kind', ['markov', 'needle', 'topics'])
def test_a_group_whose_fields_all_have_defaults_may_be_left_out(kind):
  tree = {
      'model': {'vocab_size': 64}, 'data': {'kind': kind},
      'optimizer': {'schedule': {'peak': 0.1}},
  }
  cfg = config_lib.from_dict(tree)
  assert cfg.data.options == type(cfg.data.options)()
  assert config_lib.from_dict(config_lib.to_dict(cfg)) == cfg
  tree['data']['kind'] = 'text'
  with pytest.raises(ValueError, match="text must be .* got None"):
    config_lib.from_dict(tree)


def test_missing_group():
  config = load('multiplication', 'gapt').to_dict()
  del config['model']
  with pytest.raises(ValueError, match='config.model must be given'):
    config_lib.from_dict(config)


def test_length_of_the_run_reaches_the_schedule():
  config = load('multiplication', 'gapt')
  config.train.num_steps = 777
  cfg = config_lib.from_dict(config)
  assert cfg.optimizer.schedule.total_steps == 777


def test_the_caller_keeps_its_config():
  config = load('multiplication', 'gapt')
  before = config.to_json()
  config_lib.from_dict(config)
  assert config.to_json() == before
  assert isinstance(config, ml_collections.ConfigDict)


def test_differences_name_fields():
  a = config_lib.to_dict(config_lib.from_dict(load('multiplication', 'gapt')))
  changed = load('multiplication', 'gapt')
  changed.objective.weight = 3.0
  changed.model.entropy.patch_size = 4
  b = config_lib.to_dict(config_lib.from_dict(changed))
  assert config_lib.differences(a, b) == [
      ('config.model.entropy.patch_size', 8, 4),
      ('config.objective.weight', 0.1, 3.0),
  ]


def test_frozen():
  cfg = config_lib.from_dict(load('multiplication', 'gapt'))
  with pytest.raises(dataclasses.FrozenInstanceError):
    cfg.train.num_steps = 3
