"""phase_gate and gapt: what they add, what they refuse, where they fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iblm_jax import optim

ALWAYS = optim.GateConfig(patience_main=1, patience_aux=10_000)
NEVER = optim.GateConfig(patience_main=10_000)


def tree(seed, dtype=np.float32):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  return {'phase': draw(3, 4), 'layer': {'w': draw(5), 'b': draw()}}


def flat(t):
  return np.concatenate(
      [np.ravel(np.float64(x)) for x in jax.tree.leaves(t)]
  )


def update(tx, g1, g2, state=None, value=1.0, aux_value=1.0):
  state = tx.init(g1) if state is None else state
  return tx.update(
      g1, state, g1, value=value, aux_value=aux_value, aux_updates=g2
  )


def test_phase_gate_passes_updates_through_and_runs_the_gate():
  config = optim.GateConfig(patience_main=2, patience_aux=3, ema=0.5)
  tx = optim.phase_gate(config)
  params = tree(0)
  opt_state, want = tx.init(params), optim.gate_init()
  step = jax.jit(
      lambda s, v, a: tx.update(params, s, params, value=v, aux_value=a)
  )
  alone = jax.jit(lambda s, v, a: optim.gate_step(s, v, a, config))
  rng = np.random.default_rng(0)
  for value, aux_value in rng.uniform(1, 2, (30, 2)):
    updates, opt_state = step(opt_state, value, aux_value)
    want = alone(want, value, aux_value)
    jax.tree.map(np.testing.assert_array_equal, updates, params)
    jax.tree.map(np.testing.assert_array_equal, opt_state, want)
  assert int(want.num_switches) > 2


@pytest.mark.parametrize('weight', [0.0, 0.25, 3])
def test_gapt_adds_the_weighted_gradient_in_phase_2_only(weight):
  g1, g2 = tree(1), tree(2)
  got, state = update(optim.gapt(ALWAYS, weight=weight), g1, g2)
  assert int(optim.phase(state)) == 2
  np.testing.assert_allclose(flat(got), flat(g1) + weight * flat(g2), rtol=1e-5)
  got, state = update(optim.gapt(NEVER, weight=weight), g1, g2)
  assert int(optim.phase(state)) == 1
  np.testing.assert_array_equal(flat(got), flat(g1))


def test_the_phase_after_the_update_decides_for_the_same_step():
  tx = optim.gapt(optim.GateConfig(patience_main=2))
  g1, g2 = tree(1), tree(2)
  got, state = update(tx, g1, g2)
  np.testing.assert_array_equal(flat(got), flat(g1))
  got, _ = update(tx, g1, g2, state)  # the second stalled step switches
  np.testing.assert_allclose(flat(got), flat(g1) + flat(g2), rtol=1e-5)


@pytest.mark.parametrize('projection', [None, 'pcgrad'])
@pytest.mark.parametrize('where', ['value', 'aux_value'])
def test_nothing_is_added_when_a_loss_is_not_finite(where, projection):
  tx = optim.gapt(ALWAYS, projection=projection)
  g1, g2 = tree(1), jax.tree.map(lambda x: x * jnp.nan, tree(2))
  _, state = update(tx, g1, tree(2))
  assert int(optim.phase(state)) == 2
  got, after = update(tx, g1, g2, state, **{where: jnp.nan})
  np.testing.assert_array_equal(flat(got), flat(g1))
  jax.tree.map(np.testing.assert_array_equal, after, state)


def test_an_inactive_nan_gradient_does_not_reach_the_updates():
  g1, g2 = tree(1), jax.tree.map(lambda x: x * jnp.nan, tree(2))
  for projection in (None, 'pcgrad'):
    got, _ = update(optim.gapt(NEVER, projection=projection), g1, g2)
    np.testing.assert_array_equal(flat(got), flat(g1))


@pytest.mark.parametrize('seed', range(6))
def test_pcgrad_equals_numpy(seed):
  g1, g2 = tree(seed), tree(seed + 100)
  x, y = flat(g1), flat(g2)
  if x @ y < 0:
    y = y - (x @ y) / (x @ x) * x
    assert abs(x @ y) < 1e-9 * (x @ x)
  got, _ = update(optim.gapt(ALWAYS, weight=0.7, projection='pcgrad'), g1, g2)
  np.testing.assert_allclose(flat(got), x + 0.7 * y, rtol=1e-4, atol=1e-6)


def test_pcgrad_saw_both_signs():
  signs = {np.sign(flat(tree(s)) @ flat(tree(s + 100))) for s in range(6)}
  assert signs == {-1.0, 1.0}


def test_pcgrad_projects_over_the_whole_tree_not_leaf_by_leaf():
  # The first leaves conflict, the trees as a whole do not.
  g1 = {'a': jnp.array([1.0]), 'b': jnp.array([2.0])}
  g2 = {'a': jnp.array([-1.0]), 'b': jnp.array([2.0])}
  got, _ = update(optim.gapt(ALWAYS, projection='pcgrad'), g1, g2)
  np.testing.assert_array_equal(flat(got), [0.0, 4.0])


def test_pcgrad_of_opposite_gradients_and_of_zero():
  g1 = tree(0)
  against = jax.tree.map(jnp.negative, g1)
  tx = optim.gapt(ALWAYS, projection='pcgrad')
  got, _ = update(tx, g1, against)
  np.testing.assert_allclose(flat(got), flat(g1), rtol=1e-5, atol=1e-6)
  got, _ = update(tx, jax.tree.map(jnp.zeros_like, g1), g1)
  np.testing.assert_array_equal(flat(got), flat(g1))


def test_pcgrad_sums_in_float32():
  # In bfloat16 the sum of 4111 ones is 4096; the float32 leaf shows it.
  ones, one = np.ones(4111, np.float32), np.ones(1, np.float32)
  first = -ones * (np.arange(4111) < 4096)
  g1 = {'a': jnp.asarray(ones, jnp.bfloat16), 'b': jnp.asarray(one)}
  g2 = {'a': jnp.asarray(first, jnp.bfloat16), 'b': jnp.asarray(0 * one)}
  tx = optim.gapt(ALWAYS, projection='pcgrad')
  got, _ = jax.jit(lambda g1, g2: update(tx, g1, g2))(g1, g2)
  np.testing.assert_allclose(got['b'], 1 + 4096 / 4112, rtol=1e-6)


@pytest.mark.parametrize('projection', [None, 'pcgrad'])
@pytest.mark.parametrize('aux_dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_updates_keep_their_dtype(dtype, aux_dtype, projection):
  tx = optim.gapt(ALWAYS, weight=jnp.float32(0.5), projection=projection)
  got, _ = update(tx, tree(0, dtype), tree(1, aux_dtype))
  assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(dtype)}


def make(kind, config):
  if kind == 'phase_gate':
    return optim.phase_gate(config)
  return optim.gapt(config, projection='pcgrad' if kind == 'pcgrad' else None)


KINDS = ['phase_gate', 'gapt', 'pcgrad']


@pytest.mark.parametrize('kind', KINDS)
def test_same_avals_in_and_out_and_no_recompilation(kind):
  tx = optax.chain(make(kind, ALWAYS), optax.adam(1e-2))
  params, aux = tree(0), tree(1)
  traces = []

  @jax.jit
  def step(params, state, value):
    traces.append(1)
    updates, state = tx.update(
        params, state, params, value=value, aux_value=value, aux_updates=aux
    )
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  before = jax.tree.map(jax.typeof, state)
  for value in (1.0, 2.0, 3.0):
    params, state = step(params, state, jnp.float32(value))
  assert jax.tree.map(jax.typeof, state) == before
  assert len(traces) == 1


@pytest.mark.parametrize('kind', KINDS)
def test_scan_and_cond_equal_a_loop(kind):
  tx = optax.chain(make(kind, optim.GateConfig(patience_main=2)), optax.sgd(1))
  g1, g2 = tree(0), tree(1)

  def step(state, value):
    def go(state):
      return update(tx, g1, g2, state, value, value)

    def skip(state):
      return jax.tree.map(jnp.zeros_like, g1), state

    updates, state = jax.lax.cond(value < 10, go, skip, state)
    return state, updates

  values = jnp.float32([1, 1, 11, 1, 1, 3, 1, 1])
  state, updates = jax.jit(lambda s: jax.lax.scan(step, s, values))(tx.init(g1))
  want_state = tx.init(g1)
  jitted = jax.jit(lambda s, v: update(tx, g1, g2, s, v, v))
  for t, value in enumerate(values):
    if value < 10:
      want, want_state = jitted(want_state, value)
      for x, y in zip(
          jax.tree.leaves(updates), jax.tree.leaves(want), strict=True
      ):
        np.testing.assert_allclose(x[t], y, rtol=1e-5, atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, state, want_state)
  assert int(optim.gate_state(state).num_switches) > 1


@pytest.mark.parametrize('kind', KINDS)
def test_vmap_over_seeds(kind):
  tx = make(kind, ALWAYS)
  params = {'w': jnp.asarray(np.tile(np.arange(4.0, dtype='f')[:, None], 3))}
  state = jax.vmap(tx.init)(params)
  value = np.array([0, 1, np.nan, 3], np.float32)
  step = jax.jit(jax.vmap(lambda p, s, v: update(tx, p, p, s, v, v)))
  updates, state = step(params, state, value)
  np.testing.assert_array_equal(optim.phase(state), [2, 2, 1, 2])
  factor = 1 if kind == 'phase_gate' else 2
  want = np.arange(4.0) * [factor, factor, 1, factor]
  np.testing.assert_array_equal(updates['w'][:, 0], want)


@pytest.mark.parametrize('kind', KINDS)
def test_init_on_shapes_only(kind):
  params = jax.eval_shape(lambda: tree(0))
  tx = optax.chain(make(kind, ALWAYS), optax.adamw(1e-3))
  assert int(optim.phase(tx.init(params))) == 1
  shapes = jax.eval_shape(tx.init, params)
  assert optim.phase(shapes).dtype == jnp.int32


@pytest.mark.parametrize('kind', KINDS)
def test_tree_map_params(kind):
  tx = optax.chain(make(kind, ALWAYS), optax.adam(1e-3))
  params = tree(0)
  mapped = optax.tree_map_params(
      tx,
      lambda _: 'param',
      tx.init(params),
      transform_non_params=lambda _: 'other',
  )
  assert optim.gate_state(mapped) == optim.GateState(*['other'] * 10)
  assert set(jax.tree.leaves(mapped[1][0].mu)) == {'param'}


def test_named_chain_and_unexpected_extra_arguments():
  tx = optax.named_chain(
      ('phase', optim.gapt(ALWAYS)), ('adam', optax.adam(1e-3))
  )
  g1, g2 = tree(0), tree(1)
  _, state = tx.update(
      g1,
      tx.init(g1),
      g1,
      value=1.0,
      aux_value=1.0,
      aux_updates=g2,
      something_else=3,
  )
  assert int(optim.phase(state)) == 2


MASK = {'phase': True, 'layer': {'w': False, 'b': True}}
LABELS = {'phase': 'x', 'layer': {'w': 'y', 'b': 'x'}}


@pytest.mark.parametrize('projection', [None, 'pcgrad'])
def test_inside_masked(projection):
  inner = optim.gapt(ALWAYS, projection=projection)
  g1, g2 = tree(0), tree(100)
  g2 = jax.tree.map(lambda x, y: y - x, g1, g2)  # they conflict
  tx = optax.masked(inner, MASK, mask_compatible_extra_args=True)
  got, state = update(tx, g1, g2)
  assert int(optim.phase(state)) == 2
  np.testing.assert_array_equal(got['layer']['w'], g1['layer']['w'])
  keep = lambda t: {'phase': t['phase'], 'b': t['layer']['b']}
  want, _ = update(inner, keep(g1), keep(g2))
  assert flat(keep(g1)) @ flat(keep(g2)) < 0
  np.testing.assert_allclose(flat(keep(got)), flat(want), rtol=1e-6)


def test_inside_partition():
  tx = optax.partition(
      {'x': optim.gapt(ALWAYS), 'y': optax.sgd(1.0)},
      LABELS,
      mask_compatible_extra_args=True,
  )
  g1, g2 = tree(0), tree(1)
  got, state = update(tx, g1, g2)
  assert int(optim.phase(state)) == 2
  np.testing.assert_array_equal(got['layer']['w'], -g1['layer']['w'])
  np.testing.assert_allclose(got['phase'], g1['phase'] + g2['phase'], rtol=1e-6)


@pytest.mark.parametrize('wrapper', ['masked', 'partition'])
def test_masking_without_the_option_says_what_to_pass(wrapper):
  inner = optim.gapt(ALWAYS)
  if wrapper == 'masked':
    tx = optax.masked(inner, MASK)
  else:
    tx = optax.partition({'x': inner, 'y': optax.sgd(1.0)}, LABELS)
  with pytest.raises(ValueError, match='mask_compatible_extra_args=True'):
    update(tx, tree(0), tree(1))


@pytest.mark.parametrize('wrapper', ['masked', 'partition'])
def test_phase_gate_needs_no_mask_option(wrapper):
  inner = optim.phase_gate(ALWAYS)
  if wrapper == 'masked':
    tx = optax.masked(inner, MASK)
  else:
    tx = optax.partition({'x': inner, 'y': optax.sgd(1.0)}, LABELS)
  _, state = update(tx, tree(0), None)
  assert int(optim.phase(state)) == 2


def test_inject_hyperparams_schedules_the_weight():
  # The options are no number, so they pass through as they are.
  tx = optax.inject_hyperparams(optim.gapt)(
      ALWAYS, weight=lambda step: 1.0 + step
  )
  g1, g2 = tree(0), tree(1)
  state = tx.init(g1)
  step = jax.jit(lambda s: update(tx, g1, g2, s))
  for weight in (1.0, 2.0, 3.0):
    got, state = step(state)
    np.testing.assert_allclose(
        flat(got), flat(g1) + weight * flat(g2), rtol=1e-5, atol=1e-6
    )
  assert int(optim.gate_state(state).num_steps) == 3
  fixed = optax.inject_hyperparams(optim.gapt)(ALWAYS, weight=0.5)
  state = fixed.init(g1)
  state.hyperparams['weight'] = jnp.float32(4.0)
  got, _ = update(fixed, g1, g2, state)
  np.testing.assert_allclose(flat(got), flat(g1) + 4 * flat(g2), rtol=1e-5)


def test_multi_steps_sees_the_last_micro_batch_only():
  # The documented limitation: one gate update per accumulated update, but
  # from the last losses, not from their mean.
  tx = optax.MultiSteps(
      optax.chain(optim.phase_gate(NEVER), optax.sgd(1.0)), every_k_schedule=2
  )
  params = tree(0)
  state = tx.init(params)
  step = jax.jit(
      lambda s, v: tx.update(params, s, params, value=v, aux_value=v)[1]
  )
  for value in (1.0, 5.0, 2.0, 4.0):
    state = step(state, value)
  gate = optim.gate_state(state)
  assert int(gate.num_steps) == 2
  assert float(gate.best_main) == 4.0
  assert jax.tree.map(jax.typeof, gate) == jax.tree.map(
      jax.typeof, optim.gate_init()
  )


def test_one_weighted_pull_back_equals_gapt():
  # A loop that asks the gate first and pulls back once, with phase_gate for
  # the state, against gapt with two gradient trees.
  config = optim.GateConfig(patience_main=3, patience_aux=2, rtol_main=0.2)
  weight = 0.3

  def losses(params):
    x = params['phase'] @ params['layer']['w'][:4] + params['layer']['b']
    return jnp.mean(jnp.square(x)) + 1, jnp.sum(jnp.square(params['phase']))

  adam = optax.adam(1e-2)
  one_tx = optax.chain(optim.phase_gate(config), adam)
  two_tx = optax.chain(optim.gapt(config, weight=weight), adam)

  @jax.jit
  def one(params, state):
    (value, aux_value), pull_back = jax.vjp(losses, params)
    gate = optim.gate_step(optim.gate_state(state), value, aux_value, config)
    add = optim.is_compressing(gate, value, aux_value).astype(value.dtype)
    (grads,) = pull_back((jnp.ones_like(value), weight * add))
    updates, state = one_tx.update(
        grads, state, params, value=value, aux_value=aux_value
    )
    agree = jax.tree.map(jnp.array_equal, gate, optim.gate_state(state))
    return optax.apply_updates(params, updates), state, agree

  @jax.jit
  def two(params, state):
    (value, aux_value), pull_back = jax.vjp(losses, params)
    one, zero = jnp.ones_like(value), jnp.zeros_like(value)
    (g1,), (g2,) = pull_back((one, zero)), pull_back((zero, one))
    updates, state = two_tx.update(
        g1, state, params, value=value, aux_value=aux_value, aux_updates=g2
    )
    return optax.apply_updates(params, updates), state

  x = y = tree(0)
  one_state, two_state = one_tx.init(x), two_tx.init(y)
  for _ in range(30):
    x, one_state, agree = one(x, one_state)
    y, two_state = two(y, two_state)
    assert all(jax.tree.leaves(agree))
  np.testing.assert_allclose(flat(x), flat(y), rtol=1e-4, atol=1e-5)
  gate = optim.gate_state(one_state)
  assert 0 < int(gate.num_compression_steps) < 30


def test_phase_is_found_by_type_not_by_name():
  tx = optax.chain(optax.adam(1e-3), optim.phase_gate(NEVER))
  assert int(optim.phase(tx.init({'phase': jnp.full(3, 7.0)}))) == 1


def test_no_gate_or_two_gates_raise():
  params = tree(0)
  with pytest.raises(ValueError, match='exactly one GateState, got 0'):
    optim.phase(optax.adam(1e-3).init(params))
  two = optax.chain(optim.phase_gate(NEVER), optim.gapt(NEVER))
  with pytest.raises(ValueError, match=r'got 2 \(at \[0\], \[1\]\)'):
    optim.gate_state(two.init(params))


def test_missing_arguments_are_named():
  g1 = tree(0)
  tx = optim.gapt(NEVER)
  state = tx.init(g1)
  with pytest.raises(ValueError, match='gapt needs value, aux_value, aux_upd'):
    tx.update(g1, state, g1)
  with pytest.raises(ValueError, match='gapt needs aux_updates: call'):
    tx.update(g1, state, g1, value=1.0, aux_value=1.0)
  gate = optim.phase_gate(NEVER)
  with pytest.raises(ValueError, match=r'needs aux_value: call.*aux_value=\.'):
    gate.update(g1, gate.init(g1), value=1.0)


def test_aux_updates_unlike_the_updates_raise():
  g1 = tree(0)
  with pytest.raises(ValueError, match='must have the tree structure'):
    update(optim.gapt(NEVER), g1, g1['layer'])
  g2 = {**g1, 'phase': jnp.ones((3, 1))}
  with pytest.raises(
      ValueError, match=r"aux_updates\['phase'\].*\(3, 4\), got \(3, 1\)"
  ):
    update(optim.gapt(NEVER), g1, g2)


@pytest.mark.parametrize(
    'weight', [-1.0, float('nan'), float('inf'), lambda s: s, np.ones(2)]
)
def test_bad_weights_raise(weight):
  with pytest.raises(ValueError, match='weight must be.*got'):
    optim.gapt(NEVER, weight=weight)


def test_bad_projection_raises():
  with pytest.raises(ValueError, match="projection.*None, 'pcgrad'.*'pca'"):
    optim.gapt(NEVER, projection='pca')
