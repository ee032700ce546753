"""Sizes and folders that cannot be are refused before anything is made."""

import pathlib
import types

import jax
import pytest
from programs import run

from iblm_jax import config_files, files, training
from iblm_jax.training import config
from iblm_jax.training import run as run_lib
from iblm_jax.training.scale import capacity

HUGE = 10**9
LONG = 10**20


def smoke(**overrides):
  tree = config_files.load('multiplication', 'smoke').to_dict()
  for path, value in overrides.items():
    *groups, name = path.split('__')
    group = tree
    for one in groups:
      group = group[one]
    group[name] = value
  return tree


@pytest.mark.parametrize(
    ('overrides', 'names'),
    [
        ({'model__width': HUGE}, 'a device, .* model.width=1000000000'),
        ({'model__num_layers': HUGE}, 'that a device has here.*num_layers='),
        ({'model__vocab_size': 2 * HUGE}, 'model.vocab_size=2000000000'),
        ({'model__mlp_width': 10**12}, 'model.mlp_width=1000000000000'),
        ({'model__width': 4 * 10**18}, 'fit into 64 bits, got model'),
        ({'data__batch_size': HUGE}, 'data.batch_size=1000000000'),
        ({'data__batch_size': 10**12}, 'batch_size must be between 1 and'),
        ({'data__seed': LONG}, 'seed must fit into 64 bits, got 1000'),
        ({'train__seed': LONG}, 'seed must fit into 64 bits, got 1000'),
        ({'train__num_steps': LONG}, 'num_steps must fit into 64 bits, got 10'),
        ({'train__num_steps': 3 * HUGE}, r'num_steps must be < 2\*\*31'),
        ({'train__log_every': LONG}, 'log_every must fit into 64 bits, got 10'),
        ({'train__num_steps': float('inf')}, 'num_steps must be of type int'),
        ({'optimizer__schedule__peak': 10**400}, 'peak must be of type float'),
    ],
)
def test_a_size_is_refused_before_anything_is_made(tmp_path, overrides, names):
  with pytest.raises(ValueError, match=names):
    run_lib.prepare(smoke(**overrides), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  # Nothing is left that would refuse the corrected command.
  run_lib.prepare(smoke(), tmp_path / 'run')


def test_what_fails_before_its_first_update_gives_the_folder_back(
    tmp_path, monkeypatch
):
  quick = {
      'train__num_steps': 1, 'optimizer__schedule__warmup_steps': 0,
      'data__multiplication__eval_rows': 64,
  }
  wrong = run_lib.prepare(smoke(**quick, train__seed=3), tmp_path)

  def no_memory(state, batch):
    raise MemoryError(state is batch)

  program = wrong.job.program
  monkeypatch.setattr(program, 'train_steps', ((no_memory, None),))
  with pytest.raises(MemoryError):
    run_lib.complete(wrong)
  assert (tmp_path / 'metrics.jsonl').read_text()  # of step 0
  # What was corrected trains, and what was trained stays what it is.
  run_lib.train(smoke(**quick), tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == 3
  with pytest.raises(ValueError, match='another config: .*seed is 0 there'):
    run_lib.prepare(smoke(**quick, train__seed=3), tmp_path)


def test_a_compiler_is_not_given_what_it_aborts_on(tmp_path):
  done = run(
      'main', '--config=multiplication:smoke', f'--workdir={tmp_path}/run',
      f'--config.model.width={HUGE}', '--compile_only', status=2,
  )
  assert len(done.stderr.splitlines()) == 1 and 'model.width' in done.stderr


def test_what_a_state_takes_is_counted_by_device():
  job = run_lib.prepare(smoke(), 'never_made').job
  state = job.program.abstract_state
  found = capacity.state_bytes(state.params)
  assert found == 4 * sum(x.size for x in jax.tree.leaves(state.params))
  assert capacity.state_bytes(state) > 2 * found  # with Adam's moments
  assert not pathlib.Path('never_made').exists()


def test_a_prompt_that_no_memory_holds():
  cfg = config.from_dict(smoke())
  capacity.check_prompt(cfg.model, 1000)
  with pytest.raises(ValueError, match='got 10000000 tokens, whose attention'):
    capacity.check_prompt(cfg.model, 10**7)


@pytest.mark.parametrize(
    ('limits', 'is_refused'),
    [
        ([10**7], False),
        ([10**6], True),
        ([10**6] * 4, True),  # replicated
        ([None], False),  # an accelerator that does not say
        ([], False),  # a slice that is not here
    ],
)
def test_what_a_device_has(limits, is_refused):
  job = run_lib.prepare(smoke(data__batch_size=4), 'never_made').job
  state = job.program.abstract_state
  assert 10**6 < capacity.state_bytes(state) < 10**7
  devices = [
      types.SimpleNamespace(
          platform='gpu', memory_stats=lambda x=x: x and {'bytes_limit': x}
      )
      for x in limits
  ]
  mesh = types.SimpleNamespace(local_devices=devices, size=len(limits))
  if is_refused:
    with pytest.raises(ValueError, match='more than the 0.0 GB that a device'):
      capacity.check_memory(job.cfg, state, mesh, 16)
  else:
    capacity.check_memory(job.cfg, state, mesh, 16)


@pytest.mark.parametrize('name', ['', ' ', 'file', 'file/a/b'])
def test_a_folder_that_cannot_be(tmp_path, name):
  (tmp_path / 'file').write_text('mine')
  path = f'{tmp_path}/{name}' if name.strip() else name
  with pytest.raises(ValueError, match='out must be a folder, '):
    files.folder('out', path)
  with pytest.raises(ValueError, match='workdir must be a folder, '):
    training.train(config.from_dict(smoke()), path)
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_a_home_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.folder('out', '~/a/b') == tmp_path / 'a/b'
  assert str(files.folder('out', 'gs://bucket/~')) == 'gs://bucket/~'


@pytest.mark.parametrize(
    ('program', 'flags'),
    [
        ('main', ['--config=multiplication:smoke', '--workdir={}']),
        ('certify', ['--verify={}']),
        ('curriculum', ['--config=curriculum', '--workdir={}']),
        ('generate', ['--workdir={}']),
        ('probe', ['--workdir={}']),
        ('report', ['x', '--out={}']),
        ('data.prepare', ['x', '--out={}']),
        ('experiments.multiplication', ['--workdir={}']),
        ('experiments.train', ['--workdir={}']),
    ],
)
def test_programs_refuse_them(tmp_path, program, flags):
  (tmp_path / 'file').write_text('mine')
  for path in (f'{tmp_path}/file/deeper', ''):
    done = run(program, *(flag.format(path) for flag in flags), status=2)
    assert 'must be a folder' in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
  assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize(
    ('program', 'flag'),
    [
        ('experiments.multiplication', f'--seeds={HUGE}'),
        ('generate', f'--seed={LONG}'),
        ('generate', f'--max_tokens={HUGE}'),
        ('probe', f'--seed={LONG}'),
    ],
)
def test_numbers_of_programs(tmp_path, program, flag):
  done = run(program, f'--workdir={tmp_path}/run', flag, status=2)
  assert flag.partition('=')[0] in done.stderr
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert not (tmp_path / 'run').exists()
