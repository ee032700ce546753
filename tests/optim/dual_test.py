"""Dual ascent: its definition, the constrained optimum, where it fits."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from iblm_jax import optim
from iblm_jax.optim import dual

CONFIG = optim.DualConfig(
    target=1.5, rate=0.3, weight=0.5, min_weight=0.3, max_weight=0.9, ema=0.5
)
FIXED = optim.DualConfig(target=1.0, weight=0.25, rate=1e-30)
DOCS = pathlib.Path(__file__).parents[2] / 'docs'
PAGE = DOCS / 'use_the_gate_in_your_own_loop.md'


_step = jax.jit(optim.dual_step, static_argnames='config')


def tree(seed, dtype=np.float32):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  return {'weight': draw(3, 4), 'layer': {'w': draw(5), 'b': draw()}}


def flat(t):
  return np.concatenate([np.ravel(np.float64(x)) for x in jax.tree.leaves(t)])


def update(tx, g1, g2, state=None, value=1.0, aux_value=0.0):
  state = tx.init(g1) if state is None else state
  return tx.update(
      g1, state, g1, value=value, aux_value=aux_value, aux_updates=g2
  )


def by_hand(losses, config):
  """Weights and averages after each loss, in plain Python floats."""
  weight, average, out = config.weight, None, []
  for loss in losses:
    if math.isfinite(loss):
      if average is None:
        average = loss
      average = config.ema * average + (1 - config.ema) * loss
      multiplier = 1 / weight
      multiplier *= math.exp(
          config.rate * (average - config.target) / config.target
      )
      weight = 1 / multiplier
      weight = min(max(weight, config.min_weight), config.max_weight)
    out.append((weight, average))
  return out


LOSSES = np.float32(
    [np.nan, 4, 3, np.inf, 2, 1, 0.5, 0, -1, *np.linspace(0, 3, 30), -np.inf]
)


def scan(losses, config):
  def step(state, loss):
    state = optim.dual_step(state, loss, config)
    return state, state

  return jax.jit(lambda x: jax.lax.scan(step, optim.dual_init(config), x)[1])(
      losses
  )


@pytest.mark.parametrize('ema', [0.0, 0.5])
def test_equals_its_definition_in_plain_python(ema):
  config = optim.DualConfig(
      target=1.5, rate=0.3, weight=0.5, min_weight=0.3, max_weight=0.9, ema=ema
  )
  states = scan(LOSSES, config)
  want = by_hand([float(x) for x in LOSSES], config)
  np.testing.assert_allclose(
      dual.weight(states), [weight for weight, _ in want], rtol=1e-5
  )
  averages = [np.inf if a is None else a for _, a in want]
  np.testing.assert_allclose(states.ema_main, averages, rtol=1e-5, atol=1e-6)
  finite = np.isfinite(LOSSES)
  np.testing.assert_array_equal(states.num_steps, np.cumsum(finite))
  above = finite & np.array([a is not None and a > 1.5 for _, a in want])
  np.testing.assert_array_equal(states.num_violations, np.cumsum(above))
  weights = np.asarray(dual.weight(states))
  assert weights.min() == pytest.approx(0.3)  # both limits were met
  assert weights.max() == pytest.approx(0.9)


def test_initial_state():
  state = optim.dual_init(CONFIG)
  np.testing.assert_allclose(dual.weight(state), 0.5, rtol=1e-6)
  assert np.isposinf(state.ema_main)
  assert int(state.num_steps) == int(state.num_violations) == 0
  assert {x.shape for x in state} == {()}


@pytest.mark.parametrize('loss', [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_changes_nothing_and_applies_nothing(loss):
  before = scan(LOSSES[1:3], CONFIG)
  before = jax.tree.map(lambda x: x[-1], before)
  after = _step(before, loss, CONFIG)
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert optim.applied_weight(after, loss) == 0
  assert optim.applied_weight(after, 1.0) == dual.weight(after)
  assert optim.applied_weight(after, 1.0, loss) == 0
  g1, g2 = tree(0), tree(1)
  tx = optim.dual_ascent(CONFIG)
  ascend = jax.jit(lambda g2, *losses: update(tx, g1, g2, before, *losses))
  got, state = ascend(g2, loss)
  np.testing.assert_array_equal(flat(got), flat(g1))
  jax.tree.map(np.testing.assert_array_equal, state, before)
  # A bad auxiliary loss is left out, but the main loss still counts.
  bad = jax.tree.map(lambda x: x * jnp.nan, g2)
  got, state = ascend(bad, 1.0, loss)
  np.testing.assert_array_equal(flat(got), flat(g1))
  assert int(state.num_steps) == int(before.num_steps) + 1


# Least ‖x‖² with ‖x - a‖²/2 + 1 <= c: on the segment from 0 to a, at distance
# r = sqrt(2 (c - 1)) from a, where 2 λ x = a - x.
CENTRE = np.float32([0.6, -0.8, 2.4])  # of norm 2.6


def constrained(c):
  norm = math.sqrt(0.36 + 0.64 + 5.76)
  r = math.sqrt(2 * (c - 1))
  x = np.float64(CENTRE) * (1 - r / norm)
  return x, (norm / (norm - r) - 1) / 2


def solve(config, start, num_steps=6000):
  loss = lambda x: jnp.sum(jnp.square(x - CENTRE)) / 2 + 1
  tx = optax.chain(optim.dual_ascent(config), optax.sgd(0.05))

  def step(carry, _):
    x, state = carry
    value, g1 = jax.value_and_grad(loss)(x)
    updates, state = tx.update(g1, state, x, value=value, aux_updates=2 * x)
    return (optax.apply_updates(x, updates), state), None

  @jax.jit
  def run(x):
    return jax.lax.scan(step, (x, tx.init(x)), length=num_steps)[0]

  x, state = run(start)
  return x, optim.dual_state(state), loss(x)


@pytest.mark.parametrize('weight', [1e-3, 0.2, 9.0])
@pytest.mark.parametrize('start', ['inside', 'outside'])
@pytest.mark.parametrize('c', [1.5, 3.0])
def test_converges_to_the_constrained_optimum(c, start, weight):
  config = optim.DualConfig(target=c, rate=0.05, weight=weight, ema=0.9)
  begin = jnp.asarray(CENTRE if start == 'inside' else -3 * CENTRE)
  x, state, loss = solve(config, begin)
  want, best_weight = constrained(c)
  np.testing.assert_allclose(x, want, atol=1e-3)
  np.testing.assert_allclose(dual.weight(state), best_weight, rtol=1e-3)
  np.testing.assert_allclose(loss, c, rtol=1e-4)
  assert 1e-3 < best_weight < 9.0  # neither limit helped


def test_limits_hold_where_the_target_is_out_of_reach_or_does_not_bind():
  start = jnp.asarray(CENTRE)
  # No loss is below 1: all weight on the loss that the limit allows.
  config = optim.DualConfig(target=0.5, rate=0.05, min_weight=0.01, ema=0.9)
  x, state, _ = solve(config, start)
  np.testing.assert_allclose(dual.weight(state), 0.01, rtol=1e-5)
  np.testing.assert_allclose(x, CENTRE / 1.02, rtol=1e-4)
  # x = 0 has the loss 1 + 2.6² / 2 = 4.38: nothing opposes compression.
  config = optim.DualConfig(target=9.0, rate=0.05, max_weight=5.0, ema=0.9)
  x, state, _ = solve(config, start)
  np.testing.assert_allclose(dual.weight(state), 5.0, rtol=1e-5)
  np.testing.assert_allclose(x, CENTRE / 11, rtol=1e-4)


def test_the_new_weight_counts_in_the_same_step():
  config = optim.DualConfig(target=1.0, rate=0.5, weight=1.0, ema=0.0)
  g1, g2 = tree(1), tree(2)
  got, state = update(optim.dual_ascent(config), g1, g2, value=2.0)
  want = flat(g1) + math.exp(-0.5) * flat(g2)
  np.testing.assert_allclose(flat(got), want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(dual.weight(state), math.exp(-0.5), rtol=1e-6)


@pytest.mark.parametrize('aux_dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_updates_keep_their_dtype(dtype, aux_dtype):
  got, _ = update(optim.dual_ascent(FIXED), tree(0, dtype), tree(1, aux_dtype))
  assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(dtype)}


def test_one_weighted_pull_back_equals_dual_ascent():
  # A loop that steps λ first and pulls back once, with dual_weight for the
  # state, against dual_ascent with two gradient trees.
  def losses(params):
    x = params['weight'] @ params['layer']['w'][:4] + params['layer']['b']
    return jnp.mean(jnp.square(x)) + 1, jnp.sum(jnp.square(params['weight']))

  config = optim.DualConfig(target=1.2, rate=0.1, ema=0.5)
  adam = optax.adam(1e-2)
  one_tx = optax.chain(optim.dual_weight(config), adam)
  two_tx = optax.chain(optim.dual_ascent(config), adam)

  @jax.jit
  def one(params, state):
    (value, aux_value), pull_back = jax.vjp(losses, params)
    new = optim.dual_step(optim.dual_state(state), value, config)
    weight = optim.applied_weight(new, value, aux_value)
    (grads,) = pull_back((jnp.ones_like(value), weight))
    updates, state = one_tx.update(
        grads, state, params, value=value, aux_value=aux_value
    )
    agree = jax.tree.map(jnp.array_equal, new, optim.dual_state(state))
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
  for _ in range(20):
    x, one_state, agree = one(x, one_state)
    y, two_state = two(y, two_state)
    assert all(jax.tree.leaves(agree))
  np.testing.assert_allclose(flat(x), flat(y), rtol=1e-4, atol=1e-5)
  assert abs(math.log(dual.weight(optim.dual_state(one_state)) / 0.1)) > 0.1


KINDS = [optim.dual_weight, optim.dual_ascent]


@pytest.mark.parametrize('kind', KINDS)
def test_vmap_over_seeds(kind):
  tx = kind(optim.DualConfig(target=1.0, rate=1.0, weight=1.0, ema=0.0))
  params = {'w': jnp.asarray(np.tile(np.arange(4.0, dtype='f')[:, None], 3))}
  state = jax.vmap(tx.init)(params)
  value = np.array([2, 1, np.nan, 0], np.float32)
  step = jax.jit(jax.vmap(lambda p, s, v: update(tx, p, p, s, v)))
  updates, state = step(params, state, value)
  weights = np.exp([-1.0, 0, 0, 1])
  np.testing.assert_allclose(dual.weight(state), weights, rtol=1e-6)
  added = np.array([1, 1, 0, 1]) * (kind is optim.dual_ascent)
  want = np.arange(4.0) * (1 + added * weights)
  np.testing.assert_allclose(updates['w'][:, 0], want, rtol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_same_avals_one_trace_and_a_checkpoint(kind, tmp_path):
  tx = optax.chain(kind(CONFIG), optax.adam(1e-2))
  aux = tree(1)
  traces = []

  @jax.jit
  def step(params, state, value):
    traces.append(1)
    updates, state = update(tx, params, aux, state, value)
    return optax.apply_updates(params, updates), state

  def run(params, state, losses):
    for loss in losses:
      params, state = step(params, state, loss)
    return params, state

  losses = LOSSES[1:]
  params = tree(0)
  first = tx.init(params)
  halfway = run(params, first, losses[:9])
  avals = lambda t: jax.tree.map(jax.typeof, t)
  assert avals(halfway[1]) == avals(first)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', halfway)
    checkpointer.wait_until_finished()
    like = jax.eval_shape(lambda: (params, tx.init(params)))
    restored = checkpointer.restore(tmp_path / 'state', like)
  assert isinstance(optim.dual_state(restored[1]), optim.DualState)
  got, want = run(*restored, losses[9:]), run(*halfway, losses[9:])
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert len(traces) == 1


@pytest.mark.parametrize('kind', KINDS)
def test_init_on_shapes_only_and_tree_map_params(kind):
  tx = optax.chain(kind(FIXED), optax.adam(1e-3))
  shapes = jax.eval_shape(lambda: tree(0))
  assert dual.weight(optim.dual_state(tx.init(shapes))) == 0.25
  mapped = optax.tree_map_params(
      tx,
      lambda _: 'param',
      tx.init(tree(0)),
      transform_non_params=lambda _: 'other',
  )
  assert optim.dual_state(mapped) == optim.DualState(*['other'] * 4)


MASK = {'weight': True, 'layer': {'w': False, 'b': True}}
LABELS = {'weight': 'x', 'layer': {'w': 'y', 'b': 'x'}}


def wrapped(inner, wrapper, **kwargs):
  if wrapper == 'masked':
    return optax.masked(inner, MASK, **kwargs)
  groups = {'x': inner, 'y': optax.identity()}
  return optax.partition(groups, LABELS, **kwargs)


@pytest.mark.parametrize('wrapper', ['masked', 'partition'])
def test_inside_masks(wrapper):
  inner = optim.dual_ascent(FIXED)
  tx = wrapped(inner, wrapper, mask_compatible_extra_args=True)
  g1, g2 = tree(0), tree(1)
  got, state = update(tx, g1, g2)
  assert optim.dual_state(state).num_steps == 1
  np.testing.assert_array_equal(got['layer']['w'], g1['layer']['w'])
  want = g1['weight'] + 0.25 * g2['weight']
  np.testing.assert_allclose(got['weight'], want, rtol=1e-6)
  with pytest.raises(
      ValueError, match='dual_ascent is inside.*mask_compatible_extra_args=True'
  ):
    update(wrapped(inner, wrapper), g1, g2)
  _, state = update(wrapped(optim.dual_weight(FIXED), wrapper), g1, None)
  assert optim.dual_state(state).num_steps == 1


def test_a_gate_and_dual_ascent_are_told_apart():
  gate = optim.phase_gate(optim.GateConfig())
  tx = optax.chain(gate, optim.dual_weight(FIXED))
  params = tree(0)
  _, state = jax.jit(lambda s: update(tx, params, None, s))(tx.init(params))
  assert optim.phase(state) == 1
  assert optim.dual_state(state).num_steps == 1


def test_none_or_two_raise():
  params = tree(0)
  with pytest.raises(ValueError, match='exactly one DualState, got 0.*dual_a'):
    optim.dual_state(optim.phase_gate(optim.GateConfig()).init(params))
  two = optax.chain(optim.dual_weight(FIXED), optim.dual_ascent(FIXED))
  with pytest.raises(ValueError, match=r'got 2 \(at \[0\], \[1\]\)'):
    optim.dual_state(two.init(params))


def test_missing_and_misshapen_arguments_raise():
  g1 = tree(0)
  tx = optim.dual_ascent(FIXED)
  state = tx.init(g1)
  with pytest.raises(ValueError, match='dual_ascent needs value, aux_updates'):
    tx.update(g1, state, g1)
  with pytest.raises(ValueError, match='dual_weight needs value: call'):
    optim.dual_weight(FIXED).update(g1, state, g1)
  with pytest.raises(ValueError, match='must have the tree structure'):
    update(tx, g1, g1['layer'])
  with pytest.raises(ValueError, match=r"aux_updates\['weight'\].*\(3, 4\)"):
    update(tx, g1, {**g1, 'weight': jnp.ones((3, 1))})
  for value in (np.ones(2), np.ones((1, 1))):
    with pytest.raises(ValueError, match='value must be a scalar, got shape'):
      optim.dual_step(state, value, FIXED)


@pytest.mark.parametrize(
    'name, value',
    [
        ('target', 0.0), ('target', -1), ('target', math.nan),
        ('target', math.inf), ('target', '3'), ('target', True),
        ('rate', 0), ('rate', math.inf), ('weight', 0.0), ('weight', 11),
        ('weight', math.nan), ('min_weight', 0), ('max_weight', 1e-5),
        ('max_weight', math.inf), ('ema', 1.0), ('ema', -0.1),
    ],
)  # fmt: skip
def test_bad_options_raise(name, value):
  options = {'target': 3.0, name: value}
  with pytest.raises(ValueError, match=f'^{name} must be .*got {value!r}'):
    optim.DualConfig(**options)


def test_the_target_must_be_given():
  with pytest.raises(TypeError, match='target'):
    optim.DualConfig()


def test_the_program_on_the_page_runs(capsys):
  section = PAGE.read_text().partition('## A target instead of a gate')[2]
  (program,) = re.findall(r'^```python\n(.*?)^```', section, re.M | re.S)
  exec(compile(program, str(PAGE), 'exec'), {'__name__': 'page'})
  (line,) = capsys.readouterr().out.splitlines()
  loss, size, weight = map(float, line.split())
  # Least |x|²/2 with |x - 1|²/4 <= 1/8 in the plane: x = (1/2, 1/2).
  assert (loss, size, weight) == pytest.approx((0.125, 0.25, 0.5), abs=1e-3)
