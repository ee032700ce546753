"""Whatever becomes of its small files, a run comes back as it was."""

import dataclasses
import json
import os
import resource
import shutil

import pytest

from iblm_jax import config as config_lib
from iblm_jax import errors, training
from iblm_jax.reports import runs
from iblm_jax.training import loop
from iblm_jax.training import summary as summary_lib


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run of 6 steps with checkpoints of 2, 4 and 6, and one stopped at 4."""
  folder = tmp_path_factory.mktemp('runs')
  tree = dict(
      model=dict(
          vocab_size=15, num_layers=3, width=8, num_heads=1,
          document_mask=False, entropy=dict(alpha=2.0, patch_size=8),
      ),
      data=dict(batch_size=2, multiplication=dict(eval_rows=2)),
      objective=dict(method='gapt', weight=0.1),
      optimizer=dict(schedule=dict(peak=1e-2, warmup_steps=1)),
      mesh=dict(data=1),
      train=dict(num_steps=6, log_every=1, eval_every=3, checkpoint_every=2),
  )
  cfg = config_lib.from_dict(tree)
  training.train(cfg, folder / 'whole', report=lambda line: None)
  shutil.copytree(folder / 'whole', folder / 'cut')
  shutil.rmtree(folder / 'cut' / 'checkpoints' / '6')
  (folder / 'cut' / 'summary.json').unlink()
  return cfg, folder


def again(cfg, folder):
  lines = []
  summary = training.train(cfg, folder, report=lines.append)
  return summary, lines


def rows(folder):
  """Metrics but for times."""
  return [
      {k: v for k, v in row.items() if not k.startswith('perf/')}
      for row in training.read_metrics(folder / 'metrics.jsonl')
  ]


def flip(path):
  """Changes one digit to another one, so that the file stays readable."""
  data = bytearray(path.read_bytes())
  place = next(
      i for i in range(len(data) // 2, len(data)) if chr(data[i]) in '12345'
  )
  data[place] += 1
  path.write_bytes(data)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def end_in_nuls(path):
  cut(path)
  with path.open('ab') as file:
    file.write(bytes(4096))


def put_garbage(path):
  path.write_bytes(b'\xff\xfe\x00{[\n[]\nnull\n{"step": "x"}\n' * 3)


def nest(path):
  path.write_text('[' * 200_000 + '\n')


def empty(path):
  path.write_text('')


def double(path):
  path.write_bytes(path.read_bytes() * 2)


DAMAGES = [
    flip, cut, end_in_nuls, put_garbage, nest, empty, double, os.remove,
]


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('which', ['cut', 'whole'])
def test_metrics_are_part_of_a_checkpoint(finished, tmp_path, damage, which):
  cfg, folder = finished
  shutil.copytree(folder / which, tmp_path / 'run')
  damage(tmp_path / 'run' / 'metrics.jsonl')
  again(cfg, tmp_path / 'run')
  assert rows(tmp_path / 'run') == rows(folder / 'whole')


def test_metrics_that_are_no_file_are_named(finished, tmp_path):
  cfg, folder = finished
  shutil.copytree(folder / 'cut', tmp_path / 'run')
  path = tmp_path / 'run' / 'metrics.jsonl'
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(ValueError, match='metrics.jsonl must be a file'):
    again(cfg, tmp_path / 'run')


def test_what_0_1_left_keeps_its_readable_lines(finished, tmp_path):
  """Its checkpoints hold no metrics."""
  path = tmp_path / 'metrics.jsonl'
  lines = (finished[1] / 'whole' / 'metrics.jsonl').read_text().splitlines()
  path.write_text('\n'.join([*lines[:3], 'rubbish', '[]', *lines[3:]]))
  training.metrics.JsonLines(path, keep_up_to=4)
  kept = [json.loads(line) for line in lines[:-1]]
  assert training.read_metrics(path) == [r for r in kept if r['step'] <= 4]


@pytest.mark.parametrize(
    'damage', [flip, cut, end_in_nuls, put_garbage, nest, empty]
)
def test_a_damaged_summary_is_said_and_made_again(finished, tmp_path, damage):
  cfg, folder = finished
  shutil.copytree(folder / 'whole', tmp_path / 'run')
  path = tmp_path / 'run' / 'summary.json'
  damage(path)
  with pytest.raises(ValueError, match=f'{path}.* '):
    runs.read_runs([tmp_path / 'run'])
  summary, lines = again(cfg, tmp_path / 'run')
  assert str(path) in lines[0]
  assert summary['eval'] == summary_lib.read(folder / 'whole')['eval']
  assert summary_lib.read(tmp_path / 'run') == summary
  (read,) = runs.read_runs([tmp_path / 'run'])
  assert read.summary == summary


def test_a_finished_run_without_checkpoints_is_not_trained_again(
    finished, tmp_path, monkeypatch
):
  cfg, folder = finished
  shutil.copytree(folder / 'whole', tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints')
  monkeypatch.setattr(loop, '_steps', None)
  summary, lines = again(cfg, tmp_path / 'run')
  assert lines[-1].endswith('its checkpoints are gone')
  assert summary == summary_lib.read(folder / 'whole')
  cut(tmp_path / 'run' / 'summary.json')
  before = (tmp_path / 'run' / 'metrics.jsonl').read_bytes()
  with pytest.raises(ValueError, match='summary.json is not readable'):
    again(cfg, tmp_path / 'run')
  assert (tmp_path / 'run' / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
    'name, digit', [('config.json', '"num_steps": 6'), ('metrics.jsonl', None)]
)
def test_a_report_names_a_file_that_changed(finished, tmp_path, name, digit):
  shutil.copytree(finished[1] / 'whole', tmp_path / 'run')
  path = tmp_path / 'run' / name
  if digit is None:
    flip(path)
  else:
    path.write_text(path.read_text().replace(digit, digit[:-1] + '7'))
  with pytest.raises(ValueError, match=f'{path} has changed since'):
    runs.read_runs([tmp_path / 'run'])


@pytest.mark.parametrize('damage', [cut, put_garbage, os.remove])
def test_a_config_is_restored_by_the_same_command(finished, tmp_path, damage):
  cfg, folder = finished
  shutil.copytree(folder / 'cut', tmp_path / 'run')
  damage(tmp_path / 'run' / 'config.json')
  with pytest.raises(ValueError, match='config.json'):
    config_lib.read_run(tmp_path / 'run')
  again(cfg, tmp_path / 'run')
  assert config_lib.read_run(tmp_path / 'run') == cfg
  damage(tmp_path / 'run' / 'config.json')
  train = dataclasses.replace(cfg.train, seed=1)
  with pytest.raises(ValueError, match='config.json'):
    again(dataclasses.replace(cfg, train=train), tmp_path / 'run')


def test_a_full_disk_is_one_line_with_file_and_step(
    finished, tmp_path, monkeypatch
):
  """A limit on file sizes fails writes as a full disk does."""
  cfg, folder = finished
  shutil.copytree(folder / 'cut', tmp_path / 'run')
  path = tmp_path / 'run' / 'metrics.jsonl'
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  write = training.metrics.JsonLines.flush

  def flush(self):
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
      write(self)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  with monkeypatch.context() as patched:
    patched.setattr(training.metrics.JsonLines, 'flush', flush)
    with pytest.raises(errors.RunFailed) as raised:
      again(cfg, tmp_path / 'run')
  message = str(raised.value)
  assert '\n' not in message
  assert 'metrics of step 5' in message and str(path) in message
  again(cfg, tmp_path / 'run')
  assert rows(tmp_path / 'run') == rows(folder / 'whole')
