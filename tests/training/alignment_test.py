import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax import information
from iblm_jax.models import decoder
from iblm_jax.objectives import causal
from iblm_jax.training import gradients, loop, metrics
from iblm_jax.training.scale import mesh as mesh_lib

MEASURE = dict(every=1, matrices=True, halves=True, norm_control=True)


def steps(tiny, num_steps, aligned, **alignment):
  """States before, batches and metrics of some steps, and the last state."""
  tiny = tiny.copy_and_resolve_references()
  tiny.alignment = alignment
  cfg = config_lib.from_dict(tiny)
  job = loop.prepare(cfg)
  program = job.program
  step = (program.aligned_steps if aligned else program.train_steps)[0][0]
  history = []
  with jax.set_mesh(program.mesh):
    state = program.init(jax.random.key(0))
    for k in range(num_steps):
      batch = job.source.batch(k)
      before = jax.tree.map(np.asarray, state.params)
      state, measured = step(
          state, mesh_lib.put_batch(batch, program.batch_sharding)
      )
      history.append((before, batch, jax.device_get(measured)))
  return cfg, history, state


def gradients_of(params, batch, cfg):
  """Of cross-entropy, middle layer's entropy, and log norm, one by one."""

  def losses(params):
    outputs = decoder.apply(
        params, batch['tokens'], cfg.model, mask=batch['mask'],
        collect='hidden',
    )
    nll = causal.token_nll(outputs.logits_BxLxV, batch['targets'])
    main = jnp.sum(jnp.where(batch['loss_mask'], nll, 0.0))
    middle = outputs.hidden[1]
    entropy = information.patch_entropy(
        middle, patch_size=8, mask=batch['mask']
    )
    valid = batch['mask'][..., None]
    norm = jnp.sqrt(jnp.sum(jnp.where(valid, middle, 0.0) ** 2))
    return main, entropy, jnp.log(norm)

  return jax.tree.map(np.asarray, jax.jit(jax.jacrev(losses))(params))


def flat(tree):
  return np.concatenate([
      np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)
  ])


def cosine(a, b):
  a, b = flat(a), flat(b)
  return a @ b / np.sqrt((a @ a) * (b @ b))


def test_metrics_against_gradients_of_both_halves_taken_one_by_one(tiny):
  tiny.objective.update(method='ce', measure_entropy=True)
  cfg, history, _ = steps(tiny, 2, True, **MEASURE)
  before, batch, measured = history[1]
  half = lambda k: {name: rows[k::2] for name, rows in batch.items()}
  (ga, ha, na), (gb, hb, nb) = (
      gradients_of(before, half(k), cfg) for k in (0, 1)
  )
  both = lambda x, y, scale=1.0: jax.tree.map(
      lambda a, b: scale * (a + b), x, y
  )
  targets = batch['loss_mask'].sum()
  # Losses are divided by all targets of the batch; entropies are averaged.
  g, h, n = both(ga, gb, 1 / targets), both(ha, hb, 0.5), both(na, nb, 0.5)
  at = lambda tree, layer: jax.tree.map(lambda x: x[layer], tree['blocks'])
  query = lambda tree, layer: at(tree, layer)['attention']['query']
  expected = {
      'cosine': cosine(g, h),
      'norm_main': np.linalg.norm(flat(g)),
      'norm_aux': np.linalg.norm(flat(h)),
      'norm_control/cosine_main': cosine(g, n),
      'norm_control/cosine_aux': cosine(h, n),
      'halves/cosine_aa': cosine(ga, ha),
      'halves/cosine_bb': cosine(gb, hb),
      'halves/cosine_ab': cosine(ga, hb),
      'halves/cosine_ba': cosine(gb, ha),
      'halves/cosine_main': cosine(ga, gb),
      'halves/cosine_aux': cosine(ha, hb),
  }
  for layer in (0, 1):
    name = f'layer_{layer:02d}'
    expected[f'cosine/{name}'] = cosine(at(g, layer), at(h, layer))
    expected[f'norm_aux/{name}'] = np.linalg.norm(flat(at(h, layer)))
    expected[f'cosine/{name}/attention/query/kernel'] = cosine(
        query(g, layer), query(h, layer)
    )
    expected[f'halves/cosine_ab/{name}'] = cosine(at(ga, layer), at(hb, layer))
  for name, value in expected.items():
    np.testing.assert_allclose(
        measured[f'alignment/{name}'], value, rtol=2e-3, atol=2e-5,
        err_msg=name,
    )
  # The entropy of layer 1 does not reach the layer above.
  assert measured['alignment/cosine/layer_02'] == 0.0
  assert measured['alignment/cosine'] != 0.0


def test_measuring_does_not_change_training(tiny):
  tiny.train.accumulation = 2
  _, plain, last = steps(tiny, 6, False)
  _, aligned, last_aligned = steps(tiny, 6, True, every=1)
  phases = set()
  for (_, _, a), (_, _, b) in zip(plain, aligned, strict=True):
    for name in ('train/cross_entropy', 'optim/grad_norm', 'train/loss'):
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)
    phase = int(a['gapt/phase'])
    assert phase == int(b['gapt/phase'])
    if phases | {phase} == {1}:  # so far only the cross-entropy
      np.testing.assert_allclose(
          b['alignment/norm_main'], a['optim/grad_norm'], rtol=1e-4
      )
    phases.add(phase)
  assert phases == {1, 2}
  np.testing.assert_allclose(
      flat(last.params), flat(last_aligned.params), atol=1e-4
  )


def test_costs_one_backward_pass_more_and_nothing_where_it_is_off(tiny):
  job = loop.prepare(config_lib.from_dict(tiny))
  program = job.program
  batch = {
      name: jax.ShapeDtypeStruct(
          rows.shape, rows.dtype, sharding=program.batch_sharding
      )
      for name, rows in job.source.batch(0).items()
  }

  def lowered(program, step, *args):
    with jax.set_mesh(program.mesh):
      return step.lower(*args, batch)

  def flops(step, *args):
    return lowered(program, step, *args).compile().cost_analysis()['flops']

  forward = flops(program.eval_step, program.abstract_state.params)
  plain = flops(program.train_step, program.abstract_state)
  aligned = flops(program.aligned_steps[0][0], program.abstract_state)
  assert aligned > plain
  assert aligned - plain <= plain - forward
  tiny.alignment = dict(every=5)
  on = loop.prepare(config_lib.from_dict(tiny)).program
  assert (
      lowered(on, on.train_step, on.abstract_state).as_text()
      == lowered(program, program.train_step, program.abstract_state).as_text()
  )


def test_a_run_measures_the_steps_it_was_asked_for(tiny, tmp_path):
  tiny.alignment = dict(every=3)
  tiny.train.update(log_every=4, eval_every=0)
  cfg = config_lib.from_dict(tiny)
  config_lib.claim_workdir(cfg, tmp_path)
  loop.train(loop.prepare(cfg), tmp_path, report=lambda _: None)
  lines = metrics.read_metrics(tmp_path / 'metrics.jsonl')
  measured = [line['step'] for line in lines if 'alignment/cosine' in line]
  assert measured == [1, 4, 7, 10]
  logged = [line['step'] for line in lines if 'train/cross_entropy' in line]
  assert logged == [1, 4, 7, 8, 10, 12]
  held = json.loads((tmp_path / 'config.json').read_text())
  assert held['alignment']['every'] == 3


@pytest.mark.parametrize(
    'change, message',
    [
        ({'alignment': dict(every=-1)}, r'every must be >= 0, got -1'),
        (
            {'alignment': dict(every=1), 'objective': dict(method='ce')},
            'objective.measure_entropy must be True',
        ),
        (
            {
                'alignment': dict(every=1, halves=True),
                'train': dict(accumulation=2),
            },
            'halves needs train.accumulation=1',
        ),
    ],
)
def test_bad_options(tiny, change, message):
  for name, values in change.items():
    if name == 'alignment':
      tiny.alignment = values
    else:
      tiny[name].update(values)
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(tiny)


def test_split_interleaves_rows():
  parts = gradients.split({'rows': np.arange(6)[:, None]}, 2)['rows']
  assert parts[..., 0].tolist() == [[0, 2, 4], [1, 3, 5]]
