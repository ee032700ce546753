"""Stages: what is refused, what is handed on, what must not change."""

import copy
import importlib.util
import json
import pathlib

import jax
import numpy as np
import programs
import pytest
from etils import epath

from iblm_jax import config
from iblm_jax.training import curriculum as curricula
from iblm_jax.training import loop, restoring, warm_start

ROOT = pathlib.Path(__file__).parents[2]


def load_config(variant='smoke'):
  path = ROOT / 'configs/curriculum.py'
  spec = importlib.util.spec_from_file_location('curriculum_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant).to_dict()


def test_stages_of_the_config(tmp_path):
  stages = curricula.make(load_config('markov'), epath.Path(tmp_path))
  assert [(stage.name, stage.after) for stage in stages] == [
      ('autoencoder', None), ('blank', 'autoencoder'), ('copy', 'blank'),
      ('combined', 'copy'),
  ]
  assert stages[1].cfg.start.workdir == str(tmp_path / 'autoencoder')
  assert stages[1].cfg.start.parts == {'encoder': 'encoder'}
  assert all(stage.cfg.frozen == ('^encoder/',) for stage in stages[1:])
  curricula.check(stages, epath.Path(tmp_path))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda t: t.update(order=[]), r'config\.order must name stages'),
        (lambda t: t.update(order=['copy']), 'must name every stage'),
        (
            lambda t: t['blank']['start'].update(workdir='combined'),
            r"config\.blank\.start\.workdir must be one of .* got 'combined'",
        ),
        (
            lambda t: t['copy']['model'].update(num_chunks=1),
            r'stage copy: config\.model: num_chunks must be .* got 1',
        ),
    ],
)
def test_bad_stages(tmp_path, change, said):
  tree = copy.deepcopy(load_config())
  change(tree)
  with pytest.raises(ValueError, match=said):
    curricula.make(tree, epath.Path(tmp_path))


def test_parts_that_do_not_fit(tmp_path):
  tree = copy.deepcopy(load_config())
  tree['autoencoder']['model']['encoder']['width'] = 48
  tree['autoencoder']['model']['encoder']['num_heads'] = 2
  stages = curricula.make(tree, epath.Path(tmp_path))
  said = "stage blank: start: the part 'encoder'"
  with pytest.raises(ValueError, match=said):
    curricula.check(stages, epath.Path(tmp_path))


def test_killed_before_the_first_checkpoint(tmp_path, monkeypatch):
  """A run that has a folder, but no checkpoint, is told its beginning."""
  folder = epath.Path(tmp_path)
  stages = curricula.make(load_config(), folder)
  config.claim_workdir(stages[1].cfg, folder / 'blank')
  (folder / 'blank/checkpoints').mkdir()
  seen = []

  def train(job, workdir, *, report, begin, writers):
    seen.append(begin)
    return {'eval': {}}

  job = loop.Job(stages[1].cfg, None, {}, None)
  monkeypatch.setattr(loop, 'prepare', lambda cfg, **sources: job)
  monkeypatch.setattr(loop, 'train', train)
  graft = lambda cfg, workdir, read_run: workdir.name
  monkeypatch.setattr(restoring, 'beginning', graft)
  monkeypatch.setattr(curricula, '_check_frozen', lambda *args: None)
  run = lambda: curricula.train_run(
      stages[1].cfg, folder / 'blank', stages[0].cfg, lambda line: None
  )
  run()
  assert seen == ['blank']


_THREE_STAGES = '''
import importlib.util

def get_config():
  spec = importlib.util.spec_from_file_location('whole', {path!r})
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  c = module.get_config('smoke')
  del c['combined']
  c.order = tuple(name for name in c.order if name != 'combined')
  return c
'''


def test_program(tmp_path):
  """Three stages; the second time nothing is left to do."""
  path = tmp_path / 'config.py'
  whole = str(ROOT / 'configs/curriculum.py')
  path.write_text(_THREE_STAGES.format(path=whole))
  names = ('autoencoder', 'blank', 'copy')
  workdir = tmp_path / 'stages'
  steps = [
      f'--config.{name}.{field}'
      for name in names
      for field in (
          'train.num_steps=2', 'train.checkpoint_every=0',
          'optimizer.schedule.warmup_steps=1',
      )
  ]
  steps += [f'--config.{name}.task.also_measure=()' for name in names[1:]]
  args = ('curriculum', f'--config={path}', f'--workdir={workdir}', *steps)
  programs.run(*args)
  held = json.loads((workdir / 'curriculum.json').read_text())
  assert tuple(held) == names
  runs = {name: config.read_run(workdir / name) for name in held}
  params = {
      name: restoring.restore_params(cfg, workdir / name).params
      for name, cfg in runs.items()
  }
  first = params['autoencoder']['encoder']
  for name in ('blank', 'copy'):
    jax.tree.map(np.testing.assert_array_equal, first, params[name]['encoder'])
  assert held['blank']['frozen'] == held['copy']['frozen']
  assert held['copy']['start'] == {'workdir': str(workdir / 'blank'), 'step': 2}
  # The decoder goes on where it was, and learns.
  moved = warm_start.changed(
      params['copy'], params['blank'], {'': ''}, ('decoder/',)
  )
  assert moved
  # Were a frozen leaf another one, it would be named.
  other = jax.tree.map(lambda a: a + 1, params['autoencoder'])
  changed = warm_start.changed(
      params['copy'], other, {'encoder': 'encoder'}, ('^encoder/embed',)
  )
  assert changed == ['encoder/embed/tokens']
  # The same folder by another name.
  other = f'--workdir={workdir}/../stages'
  again = programs.run(*args[:2], other, *args[3:])
  assert again.stdout.count('finished at step 2') == 3
  done = programs.run(*args, '--config.copy.train.num_steps=9', status=2)
  assert 'train.num_steps' in done.stderr
