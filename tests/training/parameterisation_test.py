"""Training few numbers is plain training of a function of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax.models import decoder
from iblm_jax.objectives import causal
from iblm_jax.training import loop
from iblm_jax.training import program as program_lib
from iblm_jax.training import state as state_lib
from iblm_jax.training.scale import mesh as mesh_lib

LORA = dict(
    patterns=['query/kernel$', '^head/kernel$'], rank=2, alpha_scale=6.0
)
SCALE = 6.0 / 2
KINDS = {
    'subspace': dict(dims=(4, 6), entries='sign'),
    'sublora': dict(dims=12, entries='sign', lora=LORA),
    'lora': dict(lora=LORA),
    'full': {},
}


def make_job(tiny, kind, **train):
  tiny.model.update(num_layers=1, width=8, tie_embeddings=False)
  tiny.objective = dict(method='ce', measure_entropy=False)
  tiny.objective.update(skip_first=0, skip_last=0)
  tiny.parameterisation = dict(kind=kind, **KINDS[kind])
  tiny.optimizer.update(weight_decay=0.1, clip_norm=0.5)
  tiny.optimizer.schedule.peak = 0.3
  tiny.train.update(train)
  return loop.prepare(config_lib.from_dict(tiny))


@functools.cache
def model_gradient(model):
  """Of the model's own parameters; one compilation serves all kinds."""

  def loss(params, batch):
    logits = decoder.apply(
        params, batch['tokens'], model, mask=batch['mask']
    ).logits_BxLxV
    nll = causal.token_nll(logits, batch['targets'])
    mask = batch['loss_mask']
    return jnp.sum(jnp.where(mask, nll, 0.0)) / jnp.sum(mask)

  return jax.jit(jax.value_and_grad(loss))


def of_adapters(adapters, grads):
  """Chain rule through W + s (B A)^T, by hand."""
  if adapters is None:
    return None
  if set(adapters) != {'a', 'b'}:
    return {k: of_adapters(adapters[k], grads[k]) for k in adapters}
  a_nri, b_nor = (
      np.reshape(adapters[k], (-1, *adapters[k].shape[-2:])) for k in 'ab'
  )
  g_nio = np.reshape(grads, (len(a_nri), a_nri.shape[2], b_nor.shape[1]))
  a = SCALE * np.einsum('nio,nor->nri', g_nio, b_nor)
  b = SCALE * np.einsum('nio,nri->nor', g_nio, a_nri)
  return {
      'a': a.reshape(adapters['a'].shape), 'b': b.reshape(adapters['b'].shape)
  }


def make_pullback(made):
  """(trained, gradient of the parameters) -> gradient of what is trained."""
  kind, frozen = made.config.kind, made.fixed
  project = frozen.get('projector')
  assert (project is None) == (kind in ('lora', 'full'))
  if project:  # op by op its products would be compiled one by one
    apply, transpose = (
        jax.jit(lambda x, name=name: getattr(project, name)(x))
        for name in ('apply', 'transpose')
    )

  def pull_back(trained, grads):
    if 'lora' in frozen:
      change = apply(trained) if project else trained
      adapters = jax.tree.map(jnp.add, frozen['lora'], change)
      grads = of_adapters(adapters, grads)
    return transpose(grads) if project else grads

  return pull_back


class AdamW:
  """In NumPy, with everything decayed and the whole gradient clipped."""

  def __init__(self, cfg, num):
    self.cfg, self.m, self.v, self.k = cfg, np.zeros(num), np.zeros(num), 0

  def update(self, w, g, rate):
    norm = np.sqrt((g**2).sum())
    g = g * min(1.0, self.cfg.clip_norm / norm)
    self.k += 1
    b1, b2 = self.cfg.b1, self.cfg.b2
    self.m = b1 * self.m + (1 - b1) * g
    self.v = b2 * self.v + (1 - b2) * g * g
    m, v = self.m / (1 - b1**self.k), self.v / (1 - b2**self.k)
    change = m / (np.sqrt(v) + self.cfg.eps) + self.cfg.weight_decay * w
    return norm, w - rate * change


@pytest.mark.parametrize(
    'kind, accumulation',
    [('subspace', 4), ('sublora', 1), ('lora', 2), ('full', 1)],
)
def test_steps(tiny, kind, accumulation):
  job = make_job(tiny, kind, accumulation=accumulation)
  made = job.program.parameterisation
  gradient = model_gradient(job.cfg.model)
  flat = lambda tree: np.concatenate(
      [np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)]
  )
  adamw = AdamW(job.cfg.optimizer, made.num_trained)
  pull_back = make_pullback(made)
  # Zeros are the initial model, to the bit.
  jax.tree.map(
      np.testing.assert_array_equal,
      job.program.model_params(made.initial),
      made.fixed['params'],
  )
  if kind == 'sublora':
    fresh = job.program.init(jax.random.key(job.cfg.train.seed))
    assert fresh.params.shape == (12,) and not fresh.params.any()
  state = state_lib.TrainState(
      jnp.zeros([], jnp.int32),
      made.initial,
      program_lib.make_optimizer(job.cfg).init(made.initial),
  )
  with jax.set_mesh(job.program.mesh):
    for k in range(3):
      batch = job.source.batch(k)
      before = flat(state.params)
      value, grads = gradient(job.program.model_params(state.params), batch)
      grads = pull_back(state.params, jax.device_get(grads))
      state, metrics = job.program.train_step(
          state, mesh_lib.put_batch(batch, job.program.batch_sharding)
      )
      rate = float(metrics['optim/learning_rate'])
      assert rate == pytest.approx([0.0, 0.15, 0.3][k])
      norm, after = adamw.update(before, flat(grads), rate)
      np.testing.assert_allclose(
          metrics['train/cross_entropy'], value, rtol=1e-5
      )
      np.testing.assert_allclose(metrics['optim/grad_norm'], norm, rtol=1e-4)
      # Where a gradient is about 0, Adam divides rounding by rounding.
      np.testing.assert_allclose(
          flat(state.params), after, rtol=1e-3, atol=1e-3 * np.abs(after).max()
      )
  assert np.abs(after).max() > 0.1


def test_muon_is_refused(tiny):
  tiny.optimizer.name = 'muon'
  with pytest.raises(ValueError, match="needs optimizer.name='adamw' .*muon"):
    make_job(tiny, 'full')


@pytest.mark.parametrize(
    'kind, change, said',
    [
        ('sublora', dict(lora=dict(LORA, patterns=['nothing'])), 'nothing'),
        ('subspace', dict(projector='other'), 'other'),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tiny, kind, change, said):
  """Before anything is compiled, as `prepare` promises."""
  tiny.model.tie_embeddings = False
  tiny.objective = dict(method='ce')
  tiny.parameterisation = dict(kind=kind, **KINDS[kind] | change)
  with pytest.raises(ValueError, match=said):
    loop.prepare(config_lib.from_dict(tiny))
