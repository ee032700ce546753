import json

import numpy as np

from iblm_jax.training import metrics, progress


def write(path, keep_up_to, rows):
  writer = metrics.JsonLines(path, keep_up_to=keep_up_to)
  for step, values in rows:
    writer.write(step, values)
  writer.close()


def test_lines_come_back(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  rows = [(1, {'a': np.float32(0.1)}), (2, {'b': np.int32(3)})]
  write(path, -1, rows)
  assert metrics.read_metrics(path) == [
      {'step': 1, 'a': float(np.float32(0.1))}, {'step': 2, 'b': 3},
  ]
  assert path.read_text().count('\n') == 2


def test_a_resumed_run_cuts_back_to_its_step(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, -1, [(step, {'a': step}) for step in range(0, 10)])
  write(path, 4, [(5, {'a': 50})])
  found = [(row['step'], row['a']) for row in metrics.read_metrics(path)]
  assert found == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]


def test_half_a_line_is_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, -1, [(1, {'a': 1})])
  with path.open('a') as file:
    file.write('{"step": 2, "a"')
  assert metrics.read_metrics(path) == [{'step': 1, 'a': 1}]
  write(path, 5, [(2, {'a': 2})])
  lines = path.read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_not_finite_is_null(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  write(path, -1, [(1, {'a': float('nan'), 'b': np.float32('inf')})])
  assert metrics.read_metrics(path) == [{'step': 1, 'a': None, 'b': None}]


def test_meter_leaves_out_what_restart_excludes(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  meter = progress.Meter(100, 8, flops_per_token=5.0, peak_flops=1000.0)
  assert meter.read(1) == {} and meter.time_left(1) == '?'
  now[0] = 2.0
  rates = meter.read(5)
  assert rates == {
      'perf/tokens_per_second': 16.0, 'perf/step_ms': 500.0, 'perf/mfu': 0.08,
  }
  assert meter.time_left(5) == '0:48'
  now[0] = 60.0
  meter.restart(5)
  now[0] = 61.0
  assert meter.read(7)['perf/tokens_per_second'] == 16.0


def test_mfu_is_left_out_where_the_peak_is_unknown(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  meter = progress.Meter(100, 8, flops_per_token=5.0, peak_flops=None)
  meter.read(1)
  now[0] = 1.0
  assert 'perf/mfu' not in meter.read(2)
