"""Plain mistakes at the open doors: one line that says what is wrong."""

import dataclasses
import signal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import run, start

from iblm_jax import data, models, training
from iblm_jax.information import EntropyConfig
from iblm_jax.models import families
from iblm_jax.training import signals

ROWS = [{'tokens': np.arange(i, i + 9) % 7} for i in range(16)]


@dataclasses.dataclass(frozen=True)
class TableConfig:
  vocab_size: int = 7
  num_layers: int = 1
  entropy: EntropyConfig = EntropyConfig(patch_size=4)


@pytest.fixture(autouse=True)
def own_families(monkeypatch):
  monkeypatch.setattr(families, '_FAMILIES', dict(families._FAMILIES))


def train(apply, folder, **objective):
  init = lambda key, cfg: {'table': jax.random.normal(key, (7, 7))}
  models.register(models.Family('table', TableConfig, init, apply))
  cfg = {
      'model': {'family': 'table'},
      'data': {'kind': 'own', 'batch_size': 8},
      'objective': {'skip_first': 0, 'skip_last': 0, **objective},
      'optimizer': {'schedule': {'peak': 0.1}},
      'train': {'num_steps': 2},
  }
  return training.train(cfg, folder, source=ROWS, report=lambda line: None)


@pytest.mark.parametrize(
    'apply, message',
    [
        (lambda w, x: models.Outputs(w[x]),
         'must return the states of its num_layers=1 layers.* got None'),
        (lambda w, x: models.Outputs(w[x], hidden=w[x]),
         r'must return .*hidden of shape \[N, B, L, D\].* got \(8, 9, 7\)'),
        (lambda w, x: (w[x], None), 'must return models.Outputs, got tuple'),
        (lambda w, x: models.Outputs(w[x][..., :5]),
         r'must return floating logits .* = \(8, 9, 7\), got .*\(8, 9, 5\)'),
        (lambda w, x: models.Outputs(w[x].astype(jnp.int32)),
         'must return floating logits .* got int32'),
    ],
)
def test_what_a_family_must_return(tmp_path, apply, message):
  wrapped = lambda params, tokens, cfg, **_: apply(params['table'], tokens)
  with pytest.raises(ValueError, match=f"apply of family 'table' {message}"):
    train(wrapped, tmp_path / 'run', method='gapt')


def test_a_config_must_be_frozen():

  @dataclasses.dataclass
  class Thawed:
    vocab_size: int

  with pytest.raises(ValueError, match='config must be a frozen dataclass'):
    models.register(models.Family('thawed', Thawed, None, None))


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: data.as_source(
            grain.MapDataset.source(ROWS).repeat(), vocab_size=7, batch_size=8,
            train=False),
         'an evaluation set needs a length, and so an end'),
        (lambda: data.as_source(
            ROWS[:3], vocab_size=7, batch_size=8, train=False),
         'an evaluation set must fill a batch of 8 rows, got 3'),
        (lambda: data.as_source({'tokens': np.ones([4, 9], int)},
                                vocab_size=7),
         r"got a dict: give a list of rows, \[\{'tokens': \.\.\.\}, \.\.\.\]"),
        (lambda: data.as_source([{'tokens': [[3], [4]]}], vocab_size=7),
         'rows of one token have no next one'),
        (lambda: training.train('multiplication:smoke', 'x'),
         'cfg must be a RunConfig, a mapping or a ConfigDict'),
        (lambda: training.train({}, 'x', source=ROWS, eval_sources=ROWS),
         "config.model must be given|eval_sources must map names"),
    ],
)
def test_data_and_calls(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_file_is_no_workdir(tmp_path):
  (tmp_path / 'file').write_text('mine')
  done = run(
      'main', '--config=multiplication:smoke', f'--workdir={tmp_path}/file',
      status=2,
  )
  assert 'workdir must be a folder' in done.stderr
  assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize(
    'config, program',
    [('certify_synthetic', 'iblm-certify'), ('curriculum', 'iblm-curriculum')],
)
def test_a_config_of_another_program(tmp_path, config, program):
  done = run(
      'main', f'--config={config}:smoke', f'--workdir={tmp_path}/run', status=2
  )
  assert f'this config is for {program}.' in done.stderr


def test_the_public_names_can_be_seen():
  assert set(training.__all__) <= set(dir(training))


def test_ctrl_c_saves_first(tmp_path):
  args = (
      '--config=multiplication:smoke', f'--workdir={tmp_path}/run',
      '--config.train.num_steps=100000', '--config.train.checkpoint_every=0',
      '--config.train.eval_every=0',
  )
  program = start('main', *args)
  program.wait_until(lambda: 'step' in program.stdout)
  program.send_signal(signal.SIGINT)
  assert program.wait() == 143, str(program)
  assert 'asked to stop: saved at step' in program.stderr
  assert (tmp_path / 'run/checkpoints').is_dir()


def test_a_second_ctrl_c_interrupts_at_once():
  # Processes in the background of a script are started without it.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  with pytest.raises(KeyboardInterrupt), signals.StopOnSignal() as stop:
    signal.raise_signal(signal.SIGINT)
    assert stop.requested
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_to_one_of_several_processes_is_a_sigterm():
  """Which JAX turns into a step at which all of them save."""
  seen = []
  before = signal.signal(signal.SIGTERM, lambda *args: seen.append('SIGTERM'))
  try:
    with pytest.raises(KeyboardInterrupt), signals.StopOnSignal(False) as stop:
      signal.raise_signal(signal.SIGINT)
      assert seen == ['SIGTERM'] and not stop.requested
      signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGTERM, before)
