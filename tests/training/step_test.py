import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax.models import decoder
from iblm_jax.objectives import causal
from iblm_jax.optim import gate, inspection
from iblm_jax.training import loop
from iblm_jax.training.scale import mesh as mesh_lib


def run_steps(tiny, num_steps, batches=None, **changes):
  tiny.update(changes)
  cfg = config_lib.from_dict(tiny)
  job = loop.prepare(cfg)
  history = []
  with jax.set_mesh(job.program.mesh):
    state = job.program.init(jax.random.key(0))
    for k in range(num_steps):
      batch = job.source.batch(k if batches is None else batches[k])
      before = jax.tree.map(np.asarray, state)
      state, metrics = job.program.train_step(
          state, mesh_lib.put_batch(batch, job.program.batch_sharding)
      )
      history.append((before, batch, jax.device_get(metrics)))
  return cfg, job, history, state


def explicit_loss(params, batch, cfg, weight):
  """Cross-entropy plus weight times the mean entropy of the middle layers."""
  outputs = decoder.apply(
      params, batch['tokens'], cfg.model, mask=batch['mask'], collect='entropy'
  )
  nll = causal.token_nll(outputs.logits_BxLxV, batch['targets'])
  mask = batch['loss_mask']
  main = jnp.sum(jnp.where(mask, nll, 0.0)) / mask.sum()
  return main + weight * outputs.entropy[1], main


def check_gradients(history, cfg, method):
  """Norms and losses of every step against the explicit loss."""
  grad = jax.jit(
      jax.grad(lambda p, b, w: explicit_loss(p, b, cfg, w), has_aux=True)
  )
  for before, batch, metrics in history:
    compress = method == 'mbe' or metrics.get('gapt/phase') == 2
    weight = 0.1 if compress else 0.0
    expected, main = grad(before.params, batch, weight)
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(expected)))
    np.testing.assert_allclose(metrics['optim/grad_norm'], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics['train/cross_entropy'], main, rtol=1e-5)
    extra = weight * metrics.get('train/mbe', 0.0)
    np.testing.assert_allclose(
        metrics['train/loss'], metrics['train/cross_entropy'] + extra, rtol=1e-5
    )


@pytest.mark.parametrize('method', ['ce', 'mbe'])
def test_methods_without_a_gate(tiny, method):
  tiny.objective.method = method
  cfg, _, history, _ = run_steps(tiny, 4)
  check_gradients(history, cfg, method)
  assert ('train/mbe' in history[0][2]) == (method == 'mbe')
  assert 'gapt/phase' not in history[0][2]


def test_gapt(tiny):
  cfg, job, history, state = run_steps(tiny, 10)
  check_gradients(history, cfg, 'gapt')

  # The gate in the optimizer is the gate of the losses of the step.
  expected, phases = gate.gate_init(), []
  step = jax.jit(functools.partial(gate.gate_step, config=cfg.gate))
  for _, _, metrics in history:
    expected = step(
        expected, metrics['train/cross_entropy'], metrics['train/mbe']
    )
    assert int(expected.phase) == metrics['gapt/phase']
    phases.append(int(expected.phase))
  chex.assert_trees_all_equal(expected, inspection.gate_state(state.opt_state))
  assert set(phases) == {1, 2}, 'the test must see both phases'

  assert job.program.train_step._cache_size() == 1
  with jax.set_mesh(job.program.mesh):
    batch = mesh_lib.put_batch(job.source.batch(0), job.program.batch_sharding)
    job.program.train_step(state, batch)
  donated = [leaf.is_deleted() for leaf in jax.tree.leaves(state)]
  assert all(donated)


def test_accumulation_equals_the_whole_batch(tiny):
  tiny.objective.update(method='ce', measure_entropy=True)
  cfg, _, whole, _ = run_steps(tiny.copy_and_resolve_references(), 3)
  tiny.train.accumulation = 4
  _, _, parts, _ = run_steps(tiny, 3)
  measure = jax.jit(
      lambda p, tokens, mask: decoder.apply(
          p, tokens, cfg.model, mask=mask, collect='entropy'
      ).entropy[1]
  )
  for (before, batch, a), (_, _, b) in zip(whole, parts, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      if 'mbe' not in name:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-4, err_msg=name)
    # The entropy is the mean over the micro-batches, each a sample of its own.
    expected = np.mean([
        measure(before.params, batch['tokens'][k::4], batch['mask'][k::4])
        for k in range(4)
    ])
    np.testing.assert_allclose(b['train/mbe'], expected, rtol=1e-3)


def test_with_accumulation_the_phase_acts_one_update_later(tiny):
  tiny.train.accumulation = 2
  tiny.objective.weight = 0.5
  _, _, history, _ = run_steps(tiny, 10)
  phase_before = 1
  lags = 0
  for _, _, metrics in history:
    extra = metrics['train/loss'] - metrics['train/cross_entropy']
    expected = 0.5 * metrics['train/mbe'] if phase_before == 2 else 0.0
    np.testing.assert_allclose(extra, expected, atol=1e-5)
    lags += phase_before != metrics['gapt/phase']
    phase_before = metrics['gapt/phase']
  assert lags >= 1


def test_muon_trains_the_matrices(tiny):
  tiny.optimizer = dict(
      name='muon',
      momentum_warmup_steps=3,
      group_peaks=dict(head=0.008, embedding=0.06, scalar=0.04),
      schedule=dict(name='wsd', peak=0.02),
  )
  tiny.train.num_steps = 30
  _, _, history, _ = run_steps(tiny, 30)
  losses = [metrics['train/cross_entropy'] for _, _, metrics in history]
  assert np.mean(losses[-5:]) < 0.8 * losses[0]
