"""The benchmark of a GPU: its arithmetic, its verdicts, what it survives."""

import importlib
import math
import pathlib

import jax
import pytest

from iblm_jax.models import config, decoder
from iblm_jax.training import state

BENCHMARKS = pathlib.Path(__file__).parent.parent / 'benchmarks'


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)


def load(name):
  return importlib.import_module(name)


@pytest.mark.parametrize('value, at_most, end', [
    (0.029, True, ': met'),
    (0.03, True, ': met'),
    (0.031, True, ': not met'),
    (0.029, False, ': not met'),
    (0.03, False, ': met'),
    (0.031, False, ': met'),
    (-0.1, True, ': met'),
    (None, True, ': not measured'),
    (None, False, ': not measured'),
])
def test_verdict(value, at_most, end):
  line = load('gpu_report').verdict('x', value, 0.03, at_most=at_most)
  assert line.endswith(end)


def test_overhead_is_of_the_mean_of_the_phases():
  # A slow second round scales all steps alike.
  seconds = {
      'cross-entropy': [1.0, 5.0, 1.0],
      'GAPT, phase 1': [1.02, 5.1, 1.02],
      'GAPT, phase 2': [1.08, 5.4, 1.08],
  }
  overhead = load('gpu_report').overhead
  assert overhead(seconds) == pytest.approx((0.05, 0.05, 0.05))
  del seconds['GAPT, phase 1']
  assert overhead(seconds) is None


def test_ratio_of_medians():
  ratio = load('timing').ratio_of_medians
  assert ratio([3.0, 3.0, 3.0], [2.0, 2.0]) == (1.5, 1.5, 1.5)
  middle, low, high = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 2.0])
  assert (middle, low, high) == (2.0, 1.0, 6.0)
  with pytest.raises(ValueError, match='3 and 0'):
    ratio([1.0, 2.0, 3.0], [])


RESULTS = {
    'driver': '1.2',
    'toy': False,
    'length': 100,
    'peak': {
        'device': 'chip', 'jax': '0', 'size': 8, 'peak': 4000.0,
        'data_sheet': 8000.0, 'seconds': [1.0],
    },
    'steps': {
        'main': {
            'batch': 4, 'parameters': 7, 'flops_per_token': 10.0,
            'memory_bytes': None,
            'model': {
                'dtype': 'bfloat16', 'attention': 'cudnn', 'remat': 'none',
                'scan_layers': False,
            },
            'seconds': {
                'cross-entropy': [2.0, 2.0],
                'GAPT, phase 1': [2.0, 2.0],
                'GAPT, phase 2': [2.2, 2.2],
            },
        },
    },
    'torch': {
        'name': 'PyTorch, compiled', 'version': '2', 'batch': 2,
        'seconds': [0.8, 0.8], 'memory_bytes': 3e9, 'flops_per_token': 10.0,
    },
}


def test_table_and_goals():
  text = load('gpu_report').text(RESULTS)
  # 4 x 100 tokens in 2 s, 10 FLOP each, of 4000 and 8000.
  assert '| cross-entropy | 4 | 2000.0 | 200 | 50.0% | 25.0% | – | 1 |' in text
  assert '| PyTorch, compiled | 2 | 800.0 | 250 | 62.5% | 31.2% | 3.0 |' in text
  goals = [line.rsplit(': ', 1)[1] for line in text.split('\n')[-4:]]
  assert goals == ['not met', 'met', 'not met', 'not met']
  assert "over PyTorch's (PyTorch, compiled 2): 0.80 [0.80, 0.80]" in text
  assert '+5.0% [+5.0%, +5.0%]' in text


def test_a_toy_meets_no_goal():
  text = load('gpu_report').text({**RESULTS, 'toy': True})
  assert text.count('not judged') == 4
  assert ': met' not in text and ': not met' not in text


def test_nothing_measured():
  results = {**RESULTS, 'peak': None, 'steps': {}, 'torch': None}
  assert load('gpu_report').text(results).count('not measured') == 4


def test_parse_options():
  parse = load('gpu').parse_options
  assert parse(['scan_layers=true', 'remat=dots', 'vocab_size=5']) == {
      'scan_layers': True, 'remat': 'dots', 'vocab_size': 5,
  }
  with pytest.raises(ValueError, match="'remat'"):
    parse(['remat'])


@pytest.mark.parametrize('program, said', [
    ('import sys; print("no driver\\n"); sys.exit(3)',
     'x: failed: exit status 3: no driver'),
    ('import os; os.abort()', 'x: failed: exit status -6: '),
    ('import time; time.sleep(60)', 'x: failed: stopped after 1 s'),
    ('import sys; open(sys.argv[2], "w").write(\'{"error": "E: bad"}\')',
     'x: failed: E: bad'),
])
def test_a_part_that_fails_costs_one_line(
    program, said, tmp_path, capsys, monkeypatch
):
  gpu_parts = load('gpu_parts')
  monkeypatch.setattr(gpu_parts, '_GRACE', 0)
  script = tmp_path / 'part.py'
  script.write_text(program)
  parts = gpu_parts.Parts(
      tmp_path, tmp_path / 'cache', budget=9.0, on_cpu=True
  )
  monkeypatch.setattr(parts, 'left', lambda: 1.0)
  assert parts.run('x', {}, least=1, script=str(script)) is None
  assert parts.failed
  assert capsys.readouterr().out == f'{said}\n'


def test_a_part_without_time_is_left_out(tmp_path, capsys, monkeypatch):
  parts = load('gpu_parts').Parts(
      tmp_path, tmp_path / 'cache', budget=5.2, on_cpu=True
  )
  assert parts.run('x', {}, least=6, script='none.py') is None
  assert not parts.failed
  assert capsys.readouterr().out.startswith('x: left out, 5 s')


def test_pytorch_has_our_shape_and_starts_at_chance():
  torch = pytest.importorskip('torch', reason='PyTorch is not installed.')
  shape = dict(vocab_size=50, num_layers=3, width=32, num_heads=2)
  cfg = config.gpt2('small', **shape, max_length=24)
  params = jax.eval_shape(
      lambda key: decoder.init(key, cfg), jax.random.key(0)
  )
  torch.manual_seed(0)
  model = load('torch_gpt2').Gpt2(**shape, max_length=24, dtype=torch.float32)
  found = sum(p.numel() for p in model.parameters())
  assert found == state.num_parameters(params)
  tokens, targets = torch.randint(50, (2, 8, 24))
  assert abs(model(tokens, targets).item() - math.log(50)) < 0.1
  # Causal: the last token changes no prediction but the last.
  targets[:, -1] = -100  # Not in the loss.
  changed = tokens.clone()
  changed[:, -1] = (changed[:, -1] + 1) % 50
  assert model(tokens, targets).item() == model(changed, targets).item()
  changed[:, -2] = (changed[:, -2] + 1) % 50
  assert model(tokens, targets).item() != model(changed, targets).item()


def test_memory_benchmark(capsys):
  load('memory').main(['--smoke'])
  lines = capsys.readouterr().out.splitlines()
  found = lambda start: [
      line.split() for line in lines if line.strip().startswith(start)
  ]
  assert [line[:3] for line in found('16 ')] == [
      ['16', '4', 'forward'], ['16', '4', 'with']
  ]
  # Keys and values of 7 places, 2 memories and 4 tokens, and keys and values of
  # 12 tokens: a layer of width 16.
  share = (7 * 2 * 16 + 2 * 16 + 4) / (12 * 2 * 16)
  assert found('memories, within')[0][-1] == f'{share:.1%}'
  assert found('2 ')[0][-1] == '75.0%'  # 2 + 4 places of 2 x 4
  counted = found('prefill, ') + found('a token, ') + found('forward, ')
  # Products are most of what the compiler counts, even of models this small.
  assert len(counted) == 5
  assert all(0.9 < float(line[-1]) < 1.5 for line in counted)


def test_memory_benchmark_knows_its_tables(capsys):
  with pytest.raises(SystemExit):
    load('memory').main(['--tables=encoding,speed'])
  assert 'speed' in capsys.readouterr().err
