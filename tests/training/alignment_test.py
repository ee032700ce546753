import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax.models import decoder
from iblm_jax.objectives import causal
from iblm_jax.training import gradients, loop, metrics
from iblm_jax.training import mesh as mesh_lib

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
        collect='entropy',
    )
    hidden = decoder.apply(
        params, batch['tokens'], cfg.model, mask=batch['mask'],
        collect='hidden',
    ).hidden[1]
    nll = causal.token_nll(outputs.logits_BxLxV, batch['targets'])
    main = jnp.sum(jnp.where(batch['loss_mask'], nll, 0.0))
    valid = batch['mask'][..., None]
    norm = jnp.sqrt(jnp.sum(jnp.where(valid, hidden, 0.0) ** 2))
    return main, outputs.entropy[1], jnp.log(norm)

  return jax.tree.map(np.asarray, jax.jit(jax.jacrev(losses))(params))


def flat(tree):
  return np.concatenate([
      np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)
  ])


def cosine(a, b):
  a, b = flat(a), flat(b)
  return a @ b / np.sqrt((a @ a) * (b @ b))


def test_metrics_against_gradients_taken_one_by_one(tiny):
  tiny.objective.update(method='ce', measure_entropy=True)
  cfg, history, _ = steps(tiny, 2, True, **(MEASURE | dict(halves=False)))
  before, batch, measured = history[1]
  g, h, n = gradients_of(before, batch, cfg)
  targets = batch['loss_mask'].sum()
  close = lambda name, value: np.testing.assert_allclose(
      measured[f'alignment/{name}'], value, rtol=2e-3, atol=2e-5, err_msg=name
  )
  close('cosine', cosine(g, h))
  close('norm_main', np.linalg.norm(flat(g)) / targets)
  close('norm_aux', np.linalg.norm(flat(h)))
  close('norm_control/cosine_main', cosine(g, n))
  close('norm_control/cosine_aux', cosine(h, n))
  for layer in range(2):  # the entropy of layer 1 does not reach further
    at = lambda tree, layer=layer: jax.tree.map(
        lambda x: x[layer], tree['blocks']
    )
    close(f'cosine/layer_{layer:02d}', cosine(at(g), at(h)))
    close(f'norm_aux/layer_{layer:02d}', np.linalg.norm(flat(at(h))))
    query = lambda tree, at=at: at(tree)['attention']['query']
    close(
        f'cosine/layer_{layer:02d}/attention/query/kernel',
        cosine(query(g), query(h)),
    )
  assert measured['alignment/cosine/layer_02'] == 0.0
  assert measured['alignment/cosine'] != 0.0


def test_halves_are_the_even_and_the_odd_rows(tiny):
  tiny.objective.update(method='ce', measure_entropy=True)
  cfg, history, _ = steps(tiny, 1, True, **MEASURE)
  before, batch, measured = history[0]
  half = lambda k: {name: rows[k::2] for name, rows in batch.items()}
  (ga, ha, _), (gb, hb, _) = (
      gradients_of(before, half(k), cfg) for k in (0, 1)
  )
  both = lambda x, y: jax.tree.map(np.add, x, y)
  for name, x, y in (
      ('halves/cosine_aa', ga, ha),
      ('halves/cosine_bb', gb, hb),
      ('halves/cosine_ab', ga, hb),
      ('halves/cosine_ba', gb, ha),
      ('halves/cosine_main', ga, gb),
      ('halves/cosine_aux', ha, hb),
      ('cosine', both(ga, gb), both(ha, hb)),
  ):
    np.testing.assert_allclose(
        measured[f'alignment/{name}'], cosine(x, y), rtol=2e-3, atol=2e-5,
        err_msg=name,
    )


@pytest.mark.parametrize(
    'method, accumulation, options',
    [
        ('gapt', 1, dict(norm_control=True)),
        ('mbe', 2, {}),
        ('gapt', 1, dict(halves=True)),
    ],
)
def test_measuring_does_not_change_training(
    tiny, method, accumulation, options
):
  tiny.objective.method = method
  tiny.train.accumulation = accumulation
  if options.get('halves'):  # its entropy is the mean over both halves
    tiny.objective.weight = 0.0
  _, plain, last = steps(tiny, 6, False)
  _, aligned, last_aligned = steps(tiny, 6, True, every=1, **options)
  for (_, _, a), (_, _, b) in zip(plain, aligned, strict=True):
    for name in ('train/cross_entropy', 'optim/grad_norm', 'train/loss'):
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)
    if 'gapt/phase' in a:
      assert a['gapt/phase'] == b['gapt/phase']
  np.testing.assert_allclose(
      flat(last.params), flat(last_aligned.params), atol=1e-4
  )


def test_costs_one_backward_pass_more_and_nothing_where_it_is_off(tiny):
  tiny.objective.update(method='ce', measure_entropy=True)
  tiny.alignment = dict(every=2)
  job = loop.prepare(config_lib.from_dict(tiny))
  program = job.program
  batch = {
      name: jax.ShapeDtypeStruct(
          rows.shape, rows.dtype, sharding=program.batch_sharding
      )
      for name, rows in job.source.batch(0).items()
  }

  def flops(step, *args):
    with jax.set_mesh(program.mesh):
      return step.lower(*args, batch).compile().cost_analysis()['flops']

  forward = flops(program.eval_step, program.abstract_state.params)
  plain = flops(program.train_step, program.abstract_state)
  aligned = flops(program.aligned_steps[0][0], program.abstract_state)
  assert aligned > plain
  assert aligned - plain <= plain - forward
  off = loop.prepare(
      config_lib.from_dict({**tiny.to_dict(), 'alignment': {}})
  ).program
  assert flops(off.train_step, off.abstract_state) == plain


def test_a_run_measures_the_steps_it_was_asked_for(tiny, tmp_path):
  tiny.objective.update(method='ce', measure_entropy=True)
  tiny.alignment = dict(every=3)
  tiny.train.update(num_steps=8, log_every=4, eval_every=0)
  workdir = tmp_path / 'run'
  config_lib.claim_workdir(config_lib.from_dict(tiny), workdir)
  loop.train(
      loop.prepare(config_lib.from_dict(tiny)), workdir, report=lambda _: None
  )
  lines = metrics.read_metrics(workdir / 'metrics.jsonl')
  measured = [line['step'] for line in lines if 'alignment/cosine' in line]
  assert measured == [1, 4, 7]
  logged = [line['step'] for line in lines if 'train/cross_entropy' in line]
  assert logged == [1, 4, 7, 8]
  assert json.loads((workdir / 'config.json').read_text())['alignment'][
      'every'
  ] == 3


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
