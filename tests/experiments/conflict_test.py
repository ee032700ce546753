"""The experiment on conflicting tasks: tasks, training, program."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import observations
import programs
import pytest

from iblm_jax.experiments._harness import program
from iblm_jax.experiments.conflict import metrics as conflict_metrics
from iblm_jax.experiments.conflict import models as conflict_models
from iblm_jax.experiments.conflict import rows as conflict_run
from iblm_jax.experiments.conflict import settings as conflict_settings
from iblm_jax.experiments.conflict import tasks as conflict_tasks
from iblm_jax.experiments.conflict import training as conflict_training
from iblm_jax.information import entropy
from iblm_jax.objectives import iblm
from iblm_jax.optim import gate

ROOT = pathlib.Path(__file__).parents[2]
SIZES = dict(inputs=4, hidden=6, outputs=3, train_points=16,
             validation_points=8)


def forward(params, x):
  p = {name: np.asarray(value, np.float64) for name, value in params.items()}
  before = np.asarray(x, np.float64) @ p['w1'] + p['b1']
  h = np.maximum(before, 0)
  return h @ p['w2'] + p['b2'], h, before


def test_targets_come_from_networks_shifted_both_ways():
  tasks = conflict_tasks.network_tasks(3, **SIZES)
  for points in (tasks.train, tasks.validation):
    for group, sign in enumerate((1, -1)):
      shifted = {
          name: tasks.initial[name] + sign * tasks.shift[name]
          for name in tasks.initial
      }
      np.testing.assert_allclose(
          points.targets[group], forward(shifted, points.inputs[group])[0],
          rtol=1e-4, atol=1e-5,
      )
  assert tasks.train.inputs.shape == (2, 16, 4)
  assert tasks.validation.targets.shape == (2, 8, 3)


def test_shift_is_of_low_rank_and_scaled_to_the_parameters():
  ratios = []
  for seed in range(300):
    tasks = conflict_tasks.network_tasks(
        seed, train_points=1, validation_points=1
    )
    of = [
        np.linalg.norm(tasks.shift[name]) / np.linalg.norm(tasks.initial[name])
        for name in ('w1', 'b1', 'w2', 'b2')
    ]
    ratios.append(of)
    if seed < 5:
      for name in ('w1', 'w2'):
        assert np.linalg.matrix_rank(tasks.shift[name], tol=1e-4) == 3
  ratios = np.asarray(ratios)
  # m in [0.1, 1] times a scale in [0.5, 5], both even, one m for all four.
  assert 0.05 <= ratios.min() < 0.2 and 4 < ratios.max() <= 5
  np.testing.assert_allclose(ratios.mean(0), 0.55 * 2.75, rtol=0.15)
  correlation = np.corrcoef(ratios.T)[np.triu_indices(4, 1)]
  # var(m) E[s]² / var(m s) = 0.38 with one m; 0 if each had its own.
  assert (correlation > 0.2).all() and (correlation < 0.55).all()


def test_inputs_differ_in_the_half_that_is_active():
  x = conflict_tasks.network_tasks(0, train_points=4000).train.inputs
  want = np.repeat([[1, 0], [0, 1]], 5, axis=1)
  np.testing.assert_allclose(x.mean(1), want, atol=0.02)
  np.testing.assert_allclose(x.std(1), 0.25, atol=0.01)


def test_seeds_are_reproducible_and_differ():
  a, again, b = (
      conflict_tasks.network_tasks(seed, **SIZES) for seed in (1, 1, 2)
  )
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(x, y)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert not np.array_equal(x, y)


def test_chains_share_tokens_and_disagree_on_them():
  tasks = conflict_tasks.token_tasks(0, vocab_size=12, train_points=3000)
  inputs, targets = tasks.train
  np.testing.assert_array_equal(inputs[:, :, 1:], targets[:, :, :-1])
  assert [set(np.unique(x)) for x in inputs] == [
      set(range(8)), set(range(4, 12))
  ]
  rules = np.zeros((2, 12, 12))
  for group in range(2):
    np.add.at(rules[group], (inputs[group], targets[group]), 1)
  rules /= np.maximum(rules.sum(-1, keepdims=True), 1)
  distance = np.abs(rules[0] - rules[1]).sum(-1)[4:8] / 2
  assert (distance > 0.3).all()
  # One chain: both halves of the data have the same rules.
  half = np.zeros((2, 12, 12))
  for part in range(2):
    rows = slice(1500 * part, 1500 * (part + 1))
    np.add.at(half[part], (inputs[0, rows], targets[0, rows]), 1)
  seen = half.sum(-1).min(0) > 500
  half /= np.maximum(half.sum(-1, keepdims=True), 1)
  assert seen.any()
  assert (np.abs(half[0] - half[1]).sum(-1)[seen] / 2 < 0.1).all()


def test_order_visits_every_point_once_an_epoch():
  order = conflict_tasks.batch_order(10, 2, 8, 40, mix=True)
  assert order.shape == (10, 2, 8)
  assert (order[..., :4] < 40).all() and (order[..., 4:] >= 40).all()
  np.testing.assert_array_equal(
      np.bincount(order.ravel(), minlength=80), [2] * 40 + [2] * 40
  )
  alone = conflict_tasks.batch_order(10, 1, 8, 40, mix=False)
  np.testing.assert_array_equal(
      np.bincount(alone.ravel(), minlength=80), [2] * 40 + [0] * 40
  )
  epoch = alone.ravel()[:40]
  assert len(set(epoch)) == 40 and (epoch != np.arange(40)).any()


def reference(tasks, order, weight, patch, rate=0.05):
  """Adam on L1 + weight S_2, written out in float64 NumPy."""
  params = {k: np.asarray(v, np.float64) for k, v in tasks.initial.items()}
  m = {k: np.zeros_like(v) for k, v in params.items()}
  v = {k: np.zeros_like(v) for k, v in params.items()}
  x_all = tasks.train.inputs.reshape(-1, SIZES['inputs']).astype(np.float64)
  y_all = tasks.train.targets.reshape(-1, SIZES['outputs']).astype(np.float64)
  for step, order_MxB in enumerate(order, 1):
    total = {k: np.zeros_like(p) for k, p in params.items()}
    for batch in order_MxB:
      x, y = x_all[batch], y_all[batch]
      out, h, before = forward(params, x)
      d_out = np.sign(out - y) / out.size
      d_h = d_out @ params['w2'].T
      windows = len(h) // patch
      for w in range(windows):
        rows = slice(w * patch, (w + 1) * patch)
        k = h[rows] @ h[rows].T
        # S_2 = 2 log tr K - log |K|².
        d_k = 2 * np.eye(patch) / np.trace(k) - 2 * k / np.sum(k * k)
        d_h[rows] += weight / windows * 2 * d_k @ h[rows]
      d_before = d_h * (before > 0)
      grads = dict(w1=x.T @ d_before, b1=d_before.sum(0),
                   w2=h.T @ d_out, b2=d_out.sum(0))
      for name, g in grads.items():
        total[name] += g / len(order_MxB)
    for name, g in total.items():
      m[name] = 0.9 * m[name] + 0.1 * g
      v[name] = 0.999 * v[name] + 0.001 * g * g
      scaled = m[name] / (1 - 0.9**step)
      root = np.sqrt(v[name] / (1 - 0.999**step)) + 1e-8
      params[name] = params[name] - rate * scaled / root
  return params


def trained(seeds, order, method, rate=0.05):
  model = conflict_models.network_model(**SIZES)
  tasks = [model.make_tasks(seed) for seed in seeds]
  stack = lambda trees: jax.tree.map(lambda *x: np.stack(x), *trees)
  points = jax.tree.map(
      lambda x: x.reshape(x.shape[0], -1, x.shape[-1]),
      stack([t.train for t in tasks]),
  )
  states = stack([conflict_training.init(t.initial, rate) for t in tasks])
  train = conflict_training.over_seeds(
      lambda *args: conflict_training.train(
          *args, model=model, method=method, learning_rate=rate
      ),
      shared=1,
  )
  return tasks, train(states, points, order)


@pytest.mark.parametrize(
    'kind, weight, micro', [('ce', 0.0, 1), ('mbe', 0.5, 1), ('mbe', 0.5, 3)]
)
def test_vectorised_training_is_the_definition(kind, weight, micro):
  # An odd batch: signs that cancel leave gradients of rounding, which Adam
  # would blow up.
  order = conflict_tasks.batch_order(6, micro, 9, 16, mix=False)
  method = conflict_training.Method(
      iblm.ObjectiveConfig(method=kind, weight=weight),
      entropy.EntropyConfig(patch_size=4),
  )
  seeds = (0, 1, 5)
  tasks, state = trained(seeds, order, method)
  for index in range(len(seeds)):
    want = reference(tasks[index], order, weight, 4)
    for name, value in want.items():
      np.testing.assert_allclose(
          state.params[name][index], value, rtol=2e-3, atol=2e-4, err_msg=name
      )
    moved = np.abs(want['w1'] - tasks[index].initial['w1']).max()
    assert moved > 0.05


def test_gate_chooses_the_updates_that_compress():
  """Never, always, and from the third update on."""
  order = conflict_tasks.batch_order(6, 1, 9, 16, mix=False)
  gated = lambda patience: conflict_training.Method(
      iblm.ObjectiveConfig(method='gapt', weight=0.5),
      entropy.EntropyConfig(patch_size=4),
      gate.GateConfig(
          patience_main=patience, patience_aux=99, rtol_main=1e3, spike=np.inf
      ),
  )
  for patience, compressing in ((99, 0), (1, 6), (3, 4)):
    tasks, state = trained((4,), order, gated(patience))
    assert int(state.gate.num_compression_steps[0]) == compressing
    if compressing in (0, 6):
      want = reference(tasks[0], order, 0.5 if compressing else 0.0, 4)
      np.testing.assert_allclose(
          state.params['w1'][0], want['w1'], rtol=2e-3, atol=2e-4
      )


def test_measures_are_of_their_group():
  """Of a network that has learned the rule of the group it was trained on."""
  tasks = conflict_tasks.network_tasks(2, **SIZES)
  learned = {
      name: value + tasks.shift[name] for name, value in tasks.initial.items()
  }
  found = conflict_metrics.measure(
      learned, tasks, model=conflict_models.network_model(**SIZES), patch_size=4
  )
  hidden = []
  for group, name in enumerate(('trained', 'other')):
    x, y = tasks.validation.inputs[group], tasks.validation.targets[group]
    outputs, h, _ = forward(learned, x)
    hidden.append(h)
    loss = np.abs(outputs - y).mean()
    assert float(found[f'loss_{name}']) == pytest.approx(loss, abs=1e-5)
    orders = []
    for rows in h.reshape(-1, 4, SIZES['hidden']):
      p = np.linalg.eigvalsh(rows @ rows.T)
      orders.append(-np.log(np.sum((p / p.sum()) ** 2)))
    assert float(found[f'{name}/entropy/order_2']) == pytest.approx(
        np.mean(orders), abs=1e-4
    )
  # Batches of fine-tuning are of the first group.
  assert found['loss_trained'] < 1e-4 < 0.1 < found['loss_other']
  assert float(found['cosine_shift']) == pytest.approx(1.0, abs=1e-5)
  everything = np.concatenate(hidden)
  silent = np.mean((everything <= 0).all(axis=0))
  assert float(found['silent']) == pytest.approx(silent)


def tiny():
  settings = conflict_settings.make('mlp', smoke=True)
  return dataclasses.replace(
      settings, seeds=3, chunk=2, sizes=SIZES, batch_size=8, measure_patch=4,
      pretrain_updates=4, finetune_updates=4, block=4,
      methods={'base': settings.methods['base']},
  )


def test_chunks_resume_to_the_same_rows(tmp_path):
  whole, lines = tmp_path / 'whole', []
  rows, _ = conflict_run.run_chunks(tiny(), whole, lines.append)
  # The last chunk is filled up with a seed that does not count.
  assert [(row['method'], row['seed']) for row in rows] == [
      ('pretrained', 0), ('pretrained', 1), ('pretrained', 2),
      ('base', 0), ('base', 1), ('base', 2),
  ]
  for row in rows:
    if row['method'] == 'base':
      before = rows[row['seed']]
      assert row['forgetting'] == row['loss_other'] - before['loss_other']
  parts = sorted(whole.iterdir())
  assert len(parts) == 2
  first = parts[0].read_bytes()
  parts[1].unlink()
  again, _ = conflict_run.run_chunks(tiny(), whole, lines.append)
  assert again == rows and parts[0].read_bytes() == first
  assert any('1 of 2 chunks' in line for line in lines)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(model='rnn'), 'model must be one of'),
        (dict(model='mlp', protocol='own'), 'protocol must be one of'),
        (dict(model='mlp', seeds=0), 'seeds must be at least 1, got 0'),
        (dict(model='transformer', protocol='public'), "'public' is for"),
    ],
)
def test_bad_settings(arguments, message):
  with pytest.raises(ValueError, match=message):
    conflict_settings.make(**arguments)


def test_settings_of_the_paper():
  settings = conflict_settings.make('mlp')
  assert settings.seeds == 200 and settings.micro_batches == 1
  assert settings.pretrain_updates * 32 == 1000 * 2 * 500
  gapt = settings.methods['gapt']
  assert gapt.objective.weight == 10 and gapt.entropy.patch_size == 8
  assert (gapt.gate.patience_main, gapt.gate.patience_aux) == (125, 75)
  assert gapt.gate.ema == 0 and settings.methods['gapt_ema'].gate.ema == 0.98


def test_another_workdir_is_refused(tmp_path):
  settings = conflict_settings.make('mlp')
  program.check_settings(settings.to_json(), tmp_path)
  program.keep_settings(settings.to_json(), tmp_path)
  program.check_settings(settings.to_json(), tmp_path)
  other = conflict_settings.make('mlp', seeds=7)
  with pytest.raises(ValueError, match=r'other settings \(seeds\)'):
    program.check_settings(other.to_json(), tmp_path)


def test_smoke(tmp_path):
  args = ['--smoke', '--model=transformer', f'--workdir={tmp_path}']
  programs.run('experiments.conflict', *args)
  tree = json.loads((tmp_path / 'results.json').read_text())
  assert {'pretrained', 'base', 'gapt_ema'} <= set(tree['summary'])
  observations.check_results('conflict', tree)
  assert tree['paired']['baseline'] == 'base'
  assert (tmp_path / 'conflict.png').read_bytes().startswith(b'\x89PNG')
  before = (tmp_path / 'results.json').stat().st_mtime_ns
  again = programs.run('experiments.conflict', *args)
  assert 'finished' in again.stdout
  assert (tmp_path / 'results.json').stat().st_mtime_ns == before
  other = programs.run('experiments.conflict', *args, '--seeds=3', status=2)
  assert 'other settings' in other.stderr


def test_bad_flags_write_nothing(tmp_path):
  args = ['--model=rnn', f'--workdir={tmp_path / "never"}']
  done = programs.run('experiments.conflict', *args, status=2)
  assert 'model must be one of' in done.stderr
  assert not (tmp_path / 'never').exists()
