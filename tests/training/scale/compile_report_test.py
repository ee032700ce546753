"""What a training step will need, checked against arithmetic by hand."""

import types

import jax
import pytest

from iblm_jax import config as config_lib
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import collectives, compile_report, hardware

BATCH, LENGTH = 8, 16
LAYERS, WIDTH, VOCAB = 3, 16, 15


def make_job(tiny):
  cfg = config_lib.from_dict(tiny)
  return cfg, program_lib.Program(cfg, jax.devices()[:1])


@pytest.fixture(scope='module')
def report():
  """Of a tiny step on one CPU."""
  cfg, program = make_job(
      dict(
          model=dict(
              vocab_size=VOCAB,
              num_layers=LAYERS,
              width=WIDTH,
              num_heads=2,
              activation='relu2',
          ),
          data=dict(batch_size=BATCH, multiplication=dict(eval_rows=16)),
          objective=dict(method='ce'),
          optimizer=dict(schedule=dict(peak=1e-2, warmup_steps=2)),
          train=dict(num_steps=10),
      )
  )
  return compile_report.make_report(cfg, program, LENGTH)


def num_parameters():
  """Four attention maps, two of the MLP, two norms; embedding, head, norm."""
  block = 4 * WIDTH**2 + 2 * 4 * WIDTH**2 + 2 * WIDTH
  return LAYERS * block + 2 * VOCAB * WIDTH + WIDTH


def step_flops():
  """Multiply-adds as two, a forward pass and twice that backwards."""
  matrices = LAYERS * 12 * WIDTH**2 + VOCAB * WIDTH
  # Query t sees t + 1 keys; scores and mixed values are WIDTH products each.
  pairs = LENGTH * (LENGTH + 1) // 2
  attention = LAYERS * 2 * WIDTH * pairs
  return 3 * BATCH * 2 * (LENGTH * matrices + attention)


def test_sizes(report):
  assert report['parameters'] == num_parameters()
  assert report['tokens_per_step'] == BATCH * LENGTH
  assert report['flops']['step'] == step_flops()
  assert report['mesh'] == {'data': 1, 'fsdp': 1, 'tensor': 1}
  assert report['devices'] == {'count': 1, 'kind': 'cpu'}
  assert report['collectives'] == []
  assert report['jax'] == jax.__version__


def test_the_compiler_counts_a_loop_once(report):
  """Less than the formula, which has all layers, but more than one layer."""
  assert 1 / LAYERS < report['flops']['compiler'] / step_flops() < 1


def test_memory(report):
  memory = report['memory']
  assert memory['total'] == (
      memory['arguments'] + memory['temporaries'] + memory['output']
      + memory['code'] - memory['shared']
  )
  # Parameters and two moments, the step and the optimizer's counts; of a batch
  # four int32 arrays and the loss mask (the other is for the entropy).
  state = 3 * 4 * num_parameters()
  batch = BATCH * LENGTH * (4 * 4 + 1)
  assert state + batch <= memory['arguments'] < state + batch + 64
  # On a CPU with a pointer for every leaf.
  assert state <= memory['output'] < state + 1024
  # The state is donated, and little else could be.
  assert state <= memory['shared'] < state + 64
  # At least one gradient of the parameters.
  assert memory['temporaries'] > 4 * num_parameters()


def test_no_bounds_for_a_cpu(report):
  assert report['bounds'] is None
  assert compile_report.lines(report)[-1] == (
      'no time bounds: cpu is not in the table of chips'
  )


def test_bounds_by_hand(monkeypatch):
  chip = hardware.Chip(
      flops=1e12, memory=1e9, memory_bandwidth=2e9, link_bandwidth=1e6
  )
  monkeypatch.setitem(hardware.CHIPS, 'some chip', chip)
  devices = [types.SimpleNamespace(device_kind='Some Chip')] * 4
  moved = [
      collectives.Collective('all-gather', 2, 800, 600, 400),
      collectives.Collective('all-reduce', 3, 300, 450, 100),
  ]
  memory = dict(arguments=3_000_000, output=1_000_000, temporaries=10**9)
  bounds = compile_report._bounds(devices, 8e12, memory, moved)
  assert bounds == pytest.approx({
      'arithmetic': 2.0,  # 2e12 on each
      'memory': 2e-3,
      'communication': 1.05e-3,
  })


def test_bounds_of_a_known_chip_are_reported(report, monkeypatch):
  monkeypatch.setitem(
      hardware.CHIPS, 'cpu', hardware.Chip(1e12, 1e9, 1e10, 1e11)
  )
  memory = report['memory']
  bounds = compile_report._bounds(
      jax.devices()[:1], report['flops']['step'], memory, []
  )
  assert bounds == pytest.approx({
      'arithmetic': step_flops() / 1e12,
      'memory': (memory['arguments'] + memory['output']) / 1e10,
      'communication': 0.0,
  })
  last = compile_report.lines({**report, 'bounds': bounds})[-1]
  assert last == (
      'a step takes at least: '
      f'{1e3 * bounds["arithmetic"]:.2f} ms (arithmetic), '
      f'{1e3 * bounds["memory"]:.2f} ms (memory), 0.00 ms (communication)'
  )


def test_lines(report):
  moved = [
      collectives.Collective(kind, 2 + k, 3 * 10**9, 10**9, 5 * 10**6)
      for k, kind in enumerate(collectives.KINDS)
  ]
  text = compile_report.lines(
      {**report, 'collectives': [kind._asdict() for kind in moved]}
  )
  for k, kind in enumerate(collectives.KINDS):
    line, = (line for line in text if line.startswith(f'{kind}:'))
    assert line == (
        f'{kind}: {2 + k} a step, 3.000 GB, of which a device receives'
        ' 1.000 GB; the largest 5.00 MB'
    )
  assert 'no collectives' not in text
  text = compile_report.lines(report)
  assert 'no collectives' in text
  assert text[0].startswith(
      f'{num_parameters():,} parameters, {BATCH * LENGTH} tokens a step,'
      ' 1 x cpu (data 1, fsdp 1, tensor 1); compiled in '
  )
  for name in ('total', 'arguments', 'temporaries', 'output', 'code'):
    gigabytes = report['memory'][name] / 1e9
    assert f'{name} {gigabytes:.3f} GB' in text[1]


class _Lowered:
  def __init__(self, error):
    self.error = error

  def compile(self):
    raise self.error


@pytest.mark.parametrize(
    'message, error, match',
    [
        ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nmore',
         compile_report.DoesNotFit,
         'does not fit .* in memory space hbm. Less data.batch_size'),
        ('INTERNAL: a bug', jax.errors.JaxRuntimeError, '^INTERNAL: a bug$'),
    ],
)
def test_only_lack_of_memory_is_called_that(tiny, message, error, match):
  _, program = make_job(tiny)
  failing = _Lowered(jax.errors.JaxRuntimeError(message))
  program.train_step = types.SimpleNamespace(lower=lambda *_: failing)
  with pytest.raises(error, match=match) as caught:
    compile_report.compile_step(program, BATCH, LENGTH)
  assert 'more' not in str(caught.value).split()


def test_unknown_text_of_a_compiler_is_said(tiny, monkeypatch):
  def unknown(text, num_devices):
    raise ValueError('cannot read replica_groups=new')

  monkeypatch.setattr(collectives, 'totals', unknown)
  chip = hardware.Chip(1e12, 1e9, 1e12, 1e9)
  monkeypatch.setattr(hardware, 'chip', lambda device: chip)
  cfg, program = make_job(tiny)
  report = compile_report.make_report(cfg, program, LENGTH)
  assert report['bounds']['communication'] is None
  text = '\n'.join(compile_report.lines(report))
  assert 'collectives were not counted: cannot read replica_groups' in text
  assert '(arithmetic)' in text and '(communication)' not in text
