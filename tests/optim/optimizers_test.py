"""make_optimizer against the same algorithms written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iblm_jax import optim

GATE = optim.GateConfig(patience_main=2)
SCHEDULE = optim.ScheduleConfig(
    name='wsd', peak=0.1, warmup_steps=3, total_steps=20
)
Dims = optax.contrib.MuonDimensionNumbers


def make_params(dtype=np.float32):
  """Like a decoder: stacked layers, attention heads, norms, embeddings."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  return {
      'embed': {'embedding': draw(11, 8)},
      'blocks': {
          'query': {'kernel': draw(3, 8, 2, 4)},
          'down': {'kernel': draw(3, 16, 8), 'bias': draw(3, 8)},
          'norm': {'scale': draw(3, 8)},
      },
      'head': {'kernel': draw(8, 11)},
  }


def dims(params):
  def leaf(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if 'query' in name:
      return Dims(reduction_axis=1, output_axis=(2, 3))
    if 'down/kernel' in name:
      return Dims(reduction_axis=1, output_axis=2)
    return None

  return jax.tree_util.tree_map_with_path(leaf, params)


def groups(params):
  def leaf(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if 'kernel' in name:
      return 'head' if 'head' in name else 'matrix'
    return 'embedding' if 'embedding' in name else 'scalar'

  return jax.tree_util.tree_map_with_path(leaf, params)


def only_query(params):
  return jax.tree_util.tree_map_with_path(
      lambda path, _: 'query' in jax.tree_util.keystr(path), params
  )


def grads_at(step, params):
  rng = np.random.default_rng(100 + step)
  return jax.tree.map(
      lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params
  )


def train(tx, params, num_steps=8):
  """Parameters after each step; gradients do not depend on them."""
  step = jax.jit(
      lambda g, s, p: tx.update(g, s, p, value=1.0, aux_value=1.0)
  )
  state, history = tx.init(params), []
  for t in range(num_steps):
    updates, state = step(grads_at(t, params), state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  return history, state


def flatten(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  path = lambda p: jax.tree_util.keystr(p, simple=True, separator='/')
  return {path(p): x for p, x in leaves}


def by_name(tree):
  return {name: np.asarray(x, np.float64) for name, x in flatten(tree).items()}


def numpy_adamw(name, p, lr_scale, weight_decay, num_steps=8, clip=None):
  params = make_params()
  schedule = optim.make_schedule(SCHEDULE)
  m = v = 0.0
  for t in range(num_steps):
    grads = by_name(grads_at(t, params))
    norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    g = grads[name] * (min(1, clip / norm) if clip else 1)
    m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
    m_hat, v_hat = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.95 ** (t + 1))
    lr = float(schedule(t)) * lr_scale
    p = p - lr * (m_hat / (np.sqrt(v_hat) + 1e-8) + weight_decay * p)
  return p


@pytest.mark.parametrize('clip', [None, 0.5])
def test_adamw_equals_numpy(clip):
  config = optim.OptimizerConfig(
      schedule=SCHEDULE, weight_decay=0.2, clip_norm=clip
  )
  params = make_params()
  history, state = train(optim.make_optimizer(config, GATE), params)
  got = by_name(history[-1])
  for name, p in by_name(params).items():
    decay = 0.0 if name.split('/')[-1] != 'kernel' else 0.2
    want = numpy_adamw(name, p, 1.0, decay, clip=clip)
    np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)
  assert int(optim.gate_state(state).num_steps) == 8


def test_decay_mask_of_the_caller():
  only_head = lambda params: {k: k == 'head' for k in params}
  config = optim.OptimizerConfig(
      schedule=SCHEDULE, weight_decay=0.2, clip_norm=None
  )
  tx = optim.make_optimizer(config, GATE, decay_mask=only_head)
  params = make_params()
  got = by_name(train(tx, params)[0][-1])
  for name, p in by_name(params).items():
    want = numpy_adamw(name, p, 1.0, 0.2 if 'head' in name else 0.0)
    np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)


def test_group_peaks_are_learning_rates_of_their_own():
  config = optim.OptimizerConfig(
      schedule=SCHEDULE,
      weight_decay=0.2,
      clip_norm=None,
      group_peaks={'head': 0.02, 'embedding': 0.3},
  )
  tx = optim.make_optimizer(config, GATE, group_labels=groups)
  params = make_params()
  got = by_name(train(tx, params)[0][-1])
  for name, p in by_name(params).items():
    scale = 0.2 if 'head' in name else 3.0 if 'embedding' in name else 1.0
    decay = 0.0 if name.split('/')[-1] != 'kernel' else 0.2
    want = numpy_adamw(name, p, scale, decay)
    np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)


def numpy_muon(name, p, betas, weight_decay, num_steps=8):
  """Muon on [layers, in, out]: momentum, then five quintic iterations."""
  schedule = optim.make_schedule(SCHEDULE)
  shape = p.shape
  p = p.reshape(shape[0], shape[1], -1)
  m = np.zeros_like(p)
  for t in range(num_steps):
    g = by_name(grads_at(t, make_params()))[name].reshape(p.shape)
    b = betas[t]
    m = b * m + (1 - b) * g
    x = b * m / (1 - b ** (t + 2)) + (1 - b) * g / (1 - b ** (t + 1))
    x = x / np.linalg.norm(x, axis=(1, 2), keepdims=True)
    for _ in range(5):
      a = x @ x.transpose(0, 2, 1)
      x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x * np.sqrt(max(1, p.shape[2] / p.shape[1]))
    p = p - float(schedule(t)) * (x + weight_decay * p)
  return p.reshape(shape)


@pytest.mark.parametrize('warmup', [0, 4])
def test_muon_on_stacked_matrices_equals_numpy(warmup):
  config = optim.OptimizerConfig(
      name='muon',
      schedule=SCHEDULE,
      weight_decay=0.2,
      clip_norm=None,
      momentum_warmup_steps=warmup,
      group_peaks={'head': 0.02, 'scalar': 0.05},
  )
  tx = optim.make_optimizer(
      config,
      GATE,
      decay_mask=only_query,
      group_labels=groups,
      muon_dimension_numbers=dims,
  )
  params = make_params()
  history, _ = train(tx, params)
  got = by_name(history[-1])
  ramp = np.minimum(np.arange(8) / 4, 1) if warmup else np.ones(8)
  betas = 0.85 + 0.1 * ramp
  labels = flatten(groups(params))
  muon_leaves = 0
  for name, p in by_name(params).items():
    if 'query' in name or 'down/kernel' in name:
      want = numpy_muon(name, p, betas, 0.2 if 'query' in name else 0.0)
      muon_leaves += 1
    else:  # plain Adam, without decay and without Nesterov
      scale = {'head': 0.2, 'scalar': 0.5}.get(labels[name], 1.0)
      want = numpy_adamw(name, p, scale, 0.0)
    np.testing.assert_allclose(got[name], want, rtol=1e-3, atol=1e-4)
  assert muon_leaves == 2


def build(name, dtype=np.float32):
  config = optim.OptimizerConfig(
      name=name, schedule=SCHEDULE, group_peaks={'head': 0.01}
  )
  return optim.make_optimizer(
      config,
      GATE,
      group_labels=groups,
      muon_dimension_numbers=dims if name == 'muon' else None,
  )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_avals_are_stable(name, dtype):
  tx, params = build(name), make_params(dtype)
  state = tx.init(params)
  step = lambda g, s, p: tx.update(g, s, p, value=1.0, aux_value=1.0)
  updates, after = jax.eval_shape(step, params, state, params)
  avals = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), t)
  assert avals(after) == avals(state)
  shapes = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype), t)
  assert shapes(updates) == shapes(params)
  assert jax.eval_shape(tx.init, params) is not None
  jax.eval_shape(tx.init, jax.eval_shape(lambda: params))


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_tree_map_params(name):
  tx, params = build(name), make_params()
  mapped = optax.tree_map_params(
      tx,
      lambda _: 'param',
      tx.init(params),
      transform_non_params=lambda _: 'other',
      is_leaf=lambda x: isinstance(x, optax.MaskedNode),
  )
  leaves = jax.tree.leaves(mapped)
  assert set(leaves) == {'param', 'other'}
  assert optim.gate_state(mapped) == optim.GateState(*['other'] * 10)


def test_default_decay_mask():
  mask = optim.decay_mask_by_name(make_params())
  assert mask == {
      'embed': {'embedding': False},
      'blocks': {
          'query': {'kernel': True},
          'down': {'kernel': True, 'bias': False},
          'norm': {'scale': False},
      },
      'head': {'kernel': True},
  }


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(name='sgd'), "name must be one of 'adamw', 'muon', got 'sgd'"),
        (dict(b1=1.0), r'b1 must be in \[0, 1\), got 1.0'),
        (dict(b2=-0.1), r'b2 must be in \[0, 1\), got -0.1'),
        (dict(eps=0.0), 'eps must be finite and > 0'),
        (dict(weight_decay=-1.0), 'weight_decay must be finite and >= 0'),
        (dict(clip_norm=0.0), 'clip_norm must be None or finite and > 0'),
        (dict(momentum=1.0), r'momentum must be in \[0, 1\)'),
        (dict(momentum_start=2.0), r'momentum_start must be in \[0, 1\)'),
        (dict(momentum_warmup_steps=-1), 'momentum_warmup_steps must be an'),
        (dict(group_peaks={'a': 0.0}), r"group_peaks\['a'\] must be finite"),
        (dict(group_peaks=(1,)), r'group_peaks must map .* got \(1,\)'),
        (dict(group_peaks=5), 'group_peaks must map groups to .* got 5'),
    ],
)
def test_bad_options_raise(options, message):
  with pytest.raises(ValueError, match=message):
    optim.OptimizerConfig(schedule=SCHEDULE, **options)


def test_callables_must_fit_the_options():
  adamw = optim.OptimizerConfig(schedule=SCHEDULE)
  muon = optim.OptimizerConfig(schedule=SCHEDULE, name='muon')
  grouped = optim.OptimizerConfig(schedule=SCHEDULE, group_peaks={'haed': 0.1})
  with pytest.raises(ValueError, match='muon_dimension_numbers must be given'):
    optim.make_optimizer(muon, GATE)
  with pytest.raises(ValueError, match="only, got name='adamw'"):
    optim.make_optimizer(adamw, GATE, muon_dimension_numbers=dims)
  with pytest.raises(ValueError, match='group_labels must be given'):
    optim.make_optimizer(grouped, GATE)
  tx = optim.make_optimizer(grouped, GATE, group_labels=groups)
  with pytest.raises(ValueError, match="'haed'.*only 'embedding', 'head'"):
    tx.init(make_params())


def test_options_are_hashable():
  config = optim.OptimizerConfig(schedule=SCHEDULE, group_peaks={'a': 0.1})
  assert hash(config) == hash(
      optim.OptimizerConfig(schedule=SCHEDULE, group_peaks=(('a', 0.1),))
  )
