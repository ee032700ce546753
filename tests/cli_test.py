"""What every program understands: names of configs, lists, plugins."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from programs import ROOT, run

import iblm_jax
from iblm_jax import config, config_files, experiment, field_listing
from iblm_jax.bounds import options

NAMES = (
    'autoencoder', 'certify_names', 'certify_openwebtext', 'certify_synthetic',
    'certify_text', 'certify_words', 'curriculum', 'fineweb', 'gpt2', 'memory',
    'multiplication', 'text',
)
TINY = (
    '--config.model.width=16', '--config.data.batch_size=8',
    '--config.data.multiplication.eval_rows=16', '--config.train.num_steps=20',
)


@pytest.fixture(scope='module')
def one_file(tmp_path_factory):
  """The lists of multiplication:smoke, with a field that it does not name."""
  return run(
      'main', '--config=multiplication:smoke', '--help_config',
      '--config.objective.weight=0.7', '--config.train.profile_start=5',
  ).stdout.splitlines()


def test_names_of_configs():
  assert tuple(config_files.names()) == NAMES
  bundled = config_files.folder() / 'multiplication.py'
  assert bundled.is_file()
  for argument, variant in (
      ('multiplication', ''), ('multiplication:ce', ':ce'),
      ('configs/multiplication.py:ce', ':ce'),
  ):
    assert config_files.find(argument) in (f'{bundled}{variant}', argument)


def test_paths_are_taken_as_they_are(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  own = pathlib.Path('configs/multiplication.py')
  bundled = config_files.folder() / 'multiplication.py'
  assert config_files.find(f'{own}:ce') == f'{bundled}:ce'
  own.parent.mkdir()
  own.write_text('')
  assert config_files.find(f'{own}:ce') == f'{own}:ce'
  for path in ('other/multiplication.py', 'mine.py:x', '/a/b.py'):
    assert config_files.find(path) == path


@pytest.mark.parametrize(
    'name, message',
    [
        ('multiplicaton:gapt', "called 'multiplicaton'; there are multip"),
        ('certify', 'there are certify_'),
        ('zzz', 'there are autoencoder, certify_names'),
    ],
)
def test_a_wrong_name_says_what_is_near(tmp_path, name, message):
  done = run(
      'main', f'--config={name}', f'--workdir={tmp_path}/run', status=2
  )
  assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_every_config_names_its_variants():
  for name in NAMES:
    made = config_files.module(name)
    assert made.get_config() is not None
    for variant, text in made.VARIANTS.items():
      assert text and '\n' not in text
      made.get_config(variant)
    with pytest.raises(ValueError, match="variant must be one of .* got 'x'"):
      made.get_config('x')


def test_list():
  lines = run('main', '--list').stdout.splitlines()
  heads = [line for line in lines if not line.startswith(' ')]
  assert [line.partition('=')[2] for line in heads] == list(NAMES)
  programs = dict(line.split(' --config=')[::-1] for line in heads)
  assert programs['memory'] == 'iblm-train'
  assert programs['certify_text'] == 'iblm-certify'
  assert programs['curriculum'] == 'iblm-curriculum'
  start = lines.index('iblm-train --config=text')
  assert lines[start + 1] == (
      '  Language modelling of any text files, byte by byte.'
  )
  assert lines[start + 2] == '    :ce     cross-entropy alone'


def test_required_flags_are_asked_for(tmp_path):
  for given, missing in (
      ('--config=multiplication:smoke', '--workdir'),
      (f'--workdir={tmp_path}', '--config'),
  ):
    done = run('main', given, status=2)
    assert f'{missing} must have a value' in done.stderr
  done = run('main', '--help_config', status=2)
  assert '--help_config needs --config' in done.stderr


@pytest.mark.parametrize(
    ('program', 'flag', 'line'),
    [
        ('main', '--config=multiplication:smoke', 'Flag --workdir must have a'
         ' value.'),
        ('generate', '--prompt=a', 'Flag --workdir must have a value'),
        ('main', '--cfg=text', "Unknown command line flag 'cfg'. Did you mean"
         ' --config?'),
    ],
)
def test_a_wrong_flag_says_no_more_than_needed(program, flag, line):
  done = run(program, flag, status=2)
  assert done.stderr.startswith(f'{program}.py: {line}'), done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_every_field_is_listed_with_its_value(one_file):
  listed = dict(
      re.fullmatch(r'--config\.([\w.]+)=(.*?)  .*', line).groups()
      for line in one_file if line.startswith('--')
  )
  tree = config.to_dict(
      config.from_dict(config_files.load('multiplication', 'smoke'))
  )

  def walk(tree, path=''):
    for name, value in tree.items():
      if isinstance(value, dict) and value:
        yield from walk(value, f'{path}{name}.')
      else:
        yield path + name, value

  changed = {'objective.weight': 0.7, 'train.profile_start': 5}
  for name, value in walk(tree):
    if name not in listed:
      assert value is None, name
      continue
    value = changed.get(name, value)
    # What is None here is found when the run is built.
    shown = eval(listed[name])
    assert json.loads(json.dumps(shown)) == value or shown in (None, {}, ())
  assert listed['model.num_layers'] == '3'
  assert listed['model.family'] == "'decoder'"


def test_a_field_has_type_range_and_description(one_file):
  where = one_file.index(
      "--config.objective.method='gapt'  str, one of ('ce', 'mbe', 'gapt',"
      " 'dual')"
  )
  assert one_file[where + 1].startswith("    'ce' (cross-entropy alone)")
  assert '--config.mesh.data=-1  int, >= 1, or -1' in one_file
  assert '--config.train.profile_start=5  int or None, >= 0' in one_file


def test_a_list_of_a_config_that_is_not_complete():
  lines = run('main', '--config=text', '--help_config').stdout
  assert '--config.data.text.paths=None' in lines


def test_a_tree_chooses_among_dataclasses():
  lines = field_listing.lines(
      config.RunConfig, {'model': {'family': 'memory'}}, 'config'
  )
  assert any('config.model.chunk_length=' in line for line in lines)
  with pytest.raises(ValueError, match='family must be one of .* got .nope'):
    field_listing.lines(config.RunConfig, {'model': {'family': 'nope'}}, 'c')


def test_every_option_is_described():
  for cls in (options.CertificateConfig, type(config.RunConfig.train)):
    assert set(field_listing.descriptions(cls)) == set(
        cls.__dataclass_fields__
    )


def test_fields_that_a_config_leaves_out_are_flags(tmp_path):
  run(
      'main', '--config=multiplication:smoke', f'--workdir={tmp_path}/run',
      *TINY, '--config.optimizer.eps=1e-6', '--config.train.profile_steps=2',
      "--config.frozen=('^embed/',)",
  )
  held = json.loads((tmp_path / 'run/config.json').read_text())
  assert held['optimizer']['eps'] == 1e-6
  assert held['train']['profile_steps'] == 2
  assert held['frozen'] == ['^embed/']


def test_plugins_come_first(tmp_path):
  (tmp_path / 'first_plugin_of_test.py').write_text('print("first")')
  (tmp_path / 'second_plugin_of_test.py').write_text('print("second")')
  config_file = tmp_path / 'own.py'
  config_file.write_text(
      'import sys\n'
      'def get_config():\n'
      '  assert "second_plugin_of_test" in sys.modules\n'
      '  from iblm_jax import config_files\n'
      '  return config_files.load("multiplication")\n'
  )
  done = run(
      'main', f'--config={config_file}', '--help_config',
      '--plugin=first_plugin_of_test,second_plugin_of_test',
      folder=tmp_path,
  )
  assert done.stdout.startswith('first\nsecond\n--config.model')


@pytest.mark.parametrize(
    'name, text, names',
    [
        ('main', 'Trains a language model.', 'config workdir list help_config'),
        ('certify', 'Certifies how a model', 'config verify data'),
        ('generate', 'Samples from a checkpoint.', 'prompt top_k'),
        ('report', 'Compares runs.', 'out'),
        ('data.prepare', 'Tokenises text', 'tokenizer holdout'),
        ('experiments.cycle', 'Does training cycle', 'seeds smoke text'),
        ('experiments.spectrum', 'What do the layers', 'checkpoint smoke'),
    ],
)
def test_help_says_what_a_script_does_and_takes(name, text, names):
  done = run(name, '--help')
  assert text in done.stdout
  flags = re.findall(r'^  --(?:\[no\])?(\w+):', done.stdout, re.M)
  assert {*names.split(), 'plugin'} <= set(flags)


@pytest.mark.parametrize('name', ['main', 'generate', 'probe', 'certify'])
def test_a_plugin_that_is_not_there(tmp_path, name):
  done = run(name, '--plugin=no_such_plugin', status=2)
  assert done.stderr.strip().endswith(
      "--plugin: cannot import 'no_such_plugin': No module named"
      " 'no_such_plugin'"
  )
  assert len(done.stderr.splitlines()) == 1


def test_experiments():
  names = list(experiment.summaries())
  assert {
      'cycle', 'multiplication', 'conflict', 'pretraining', 'spectrum',
      'certificates', 'memory',
  } <= set(names)
  lines = run('experiment').stdout.splitlines()
  assert [line.split()[0] for line in lines] == names
  done = run('experiment', 'multiplicaton', status=2)
  assert 'there are multiplication.' in done.stderr
  assert 'code: ' in run('experiment', 'budget').stdout
  done = run('experiment', 'cycle', status=2)
  assert 'cycle: ' in done.stderr and '--workdir' in done.stderr


def test_one_version():
  if (ROOT / 'setup.py').exists():
    assert '_VERSION' in (ROOT / 'setup.py').read_text()
  assert re.fullmatch(r'\d+\.\d+\.\d+', iblm_jax.__version__)


def test_nobody_reads_the_lines():
  script = (
      f'{sys.executable} -m iblm_jax.main --list | true;'
      ' echo ${PIPESTATUS[0]}'
  )
  done = subprocess.run(
      ['bash', '-c', script], cwd=ROOT, capture_output=True, text=True,
      check=False,
  )
  assert (done.stdout, done.stderr) == ('1\n', '')
