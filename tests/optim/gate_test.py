"""The points of the gate's definition, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import optim

_step = jax.jit(optim.gate_step, static_argnames='config')


def run(config, pairs):
  """States after each pair of losses."""
  state, states = optim.gate_init(), []
  for value, aux_value in pairs:
    state = _step(state, value, aux_value, config=config)
    states.append(jax.device_get(state))
  return states


def phases(states):
  return [int(s.phase) for s in states]


def test_initial_state():
  state = optim.gate_init()
  assert int(state.phase) == optim.MEMORISE == 1
  for name in ('best_main', 'best_aux', 'ema_main', 'ema_aux'):
    assert np.isposinf(getattr(state, name))
  for name in ('stall_main', 'stall_aux', 'num_steps', 'num_switches'):
    assert int(getattr(state, name)) == 0


def test_steady_small_progress_counts_only_under_the_plateau_rule():
  # 0.5 % a step: below the 1 % that counts, above it over three steps.
  pairs = [(0.995**t, 1.0) for t in range(100)]
  options = dict(patience_main=10, spike=float('inf'))
  paper = run(optim.GateConfig(**options), pairs)
  plateau = run(optim.GateConfig(best='on_improvement', **options), pairs)
  assert 2 in phases(paper)
  assert 2 not in phases(plateau)


def test_spike_returns_to_memorisation_at_once():
  config = optim.GateConfig(patience_main=2, patience_aux=100)
  pairs = [(1.0, 1.0)] * 4 + [(1.09, 1.0), (1.11, 1.0), (1.0, 1.0)]
  assert phases(run(config, pairs)) == [1, 2, 2, 2, 2, 1, 1]


def test_gains_compare_with_the_best_before_the_step():
  # Halving the loss is an improvement although the best moves with it.
  config = optim.GateConfig(patience_main=2)
  pairs = [(2.0**-t, 1.0) for t in range(12)]
  assert phases(run(config, pairs)) == [1] * 12


@pytest.mark.parametrize(
    'best, value, improved',
    [
        (1e-5, 5e-6, True),
        (1e-8, 5e-9, False),  # the denominator is at least 1e-6
        (5e-7, 1e-7, True),
        (1e-10, -1.0, False),  # below 1e-9 there is no gain at all
        (-1e-5, -2e-5, True),
    ],
)
def test_gains_near_zero(best, value, improved):
  config = optim.GateConfig(patience_main=10)
  state = run(config, [(best, 1.0), (value, 1.0)])[-1]
  assert int(state.stall_main) == (0 if improved else 2)
  np.testing.assert_array_equal(state.best_main, np.float32(value))


def test_stall_counter_starts_again_after_each_phase():
  config = optim.GateConfig(patience_main=2, patience_aux=3)
  pairs = [(1.0, 1.0)] * 11
  assert phases(run(config, pairs)) == [1, 2, 2, 2, 1, 1, 2, 2, 2, 1, 1]


def test_reset_aux_best_on_entering_compression():
  pairs = [(1.0, 0.1), (1.0, 5.0), (1.0, 4.0)]
  options = dict(patience_main=2, patience_aux=1)
  kept = run(optim.GateConfig(**options), pairs)
  reset = run(optim.GateConfig(reset_aux_best=True, **options), pairs)
  np.testing.assert_array_equal([s.best_aux for s in kept], np.float32(0.1))
  np.testing.assert_array_equal(
      [s.best_aux for s in reset], np.float32([0.1, 5.0, 4.0])
  )
  # 5 -> 4 is progress within the phase, not against the 0.1 before it.
  assert (phases(kept)[-1], phases(reset)[-1]) == (1, 2)


def test_ema_starts_at_the_first_finite_value():
  config = optim.GateConfig(ema=0.9)
  nan = float('nan')
  states = run(config, [(nan, 1.0), (3.0, nan), (3.0, 2.0), (1.0, 0.0)])
  assert np.isposinf(states[1].ema_main) and np.isposinf(states[1].ema_aux)
  assert (states[2].ema_main, states[2].ema_aux) == (3.0, 2.0)
  np.testing.assert_allclose(states[3].ema_main, 2.8, rtol=1e-6)
  np.testing.assert_allclose(states[3].ema_aux, 1.8, rtol=1e-6)
  np.testing.assert_allclose(states[3].best_main, 2.8, rtol=1e-6)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('where', ['value', 'aux_value', 'both'])
def test_not_finite_leaves_the_whole_state_alone(bad, where):
  config = optim.GateConfig(patience_main=1)
  before = run(config, [(2.0, 1.0)])[-1]
  assert int(before.phase) == 2
  value = bad if where in ('value', 'both') else 2.0
  aux_value = bad if where in ('aux_value', 'both') else 1.0
  after = _step(before, value, aux_value, config=config)
  for x, y in zip(before, after, strict=True):
    np.testing.assert_array_equal(x, y)
  assert not optim.is_compressing(after, value, aux_value)
  assert optim.is_compressing(after, 2.0, 1.0)


def test_huge_finite_losses_do_not_poison_the_state():
  config = optim.GateConfig(ema=0.5, patience_main=2)
  big = float(np.finfo(np.float32).max)
  states = run(config, [(big, -big), (-big, big), (1.0, 1.0)])
  for state in states:
    assert all(np.isfinite(x) for x in state)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.int32])
def test_losses_of_other_dtypes_are_used_in_float32(dtype):
  config = optim.GateConfig(ema=0.9)
  state = optim.gate_step(
      optim.gate_init(), dtype(3), jnp.asarray(2, dtype), config
  )
  assert jax.tree.map(jax.typeof, state) == jax.tree.map(
      jax.typeof, optim.gate_init()
  )
  assert float(state.best_main) == 3.0


def test_state_is_strongly_typed_and_keeps_its_avals():
  config = optim.GateConfig(ema=0.5, reset_aux_best=True)
  state = optim.gate_init()
  step = jax.eval_shape(lambda s: optim.gate_step(s, 1.0, 2, config), state)
  for x, y in zip(state, step, strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype) == ((), x.dtype)
    assert not x.weak_type and not y.weak_type


def test_vmap_equals_a_loop():
  config = optim.GateConfig(patience_main=2, ema=0.3)
  values = np.random.default_rng(0).uniform(1, 2, (20, 5, 2))
  values = values.astype(np.float32)
  batch = jax.tree.map(lambda x: jnp.stack([x] * 5), optim.gate_init())
  step = jax.jit(jax.vmap(lambda s, v, a: optim.gate_step(s, v, a, config)))
  for t in range(20):
    batch = step(batch, values[t, :, 0], values[t, :, 1])
  for i in range(5):
    single = run(config, values[:, i])[-1]
    for x, y in zip(batch, single, strict=True):
      np.testing.assert_allclose(x[i], y, rtol=1e-6)


def test_statistics_before_the_first_step():
  assert optim.phase_statistics(optim.gate_init()) == {
      'share_compression': 0.0,
      'num_switches': 0,
      'mean_memorisation_length': 0.0,
      'mean_compression_length': 0.0,
  }


@pytest.mark.parametrize(
    'option, value, allowed',
    [
        ('patience_main', 0, '>= 1'),
        ('patience_aux', -3, '>= 1'),
        ('patience_main', 2.0, 'an int'),
        ('patience_aux', True, 'an int'),
        ('rtol_main', -0.1, '>= 0'),
        ('rtol_aux', float('nan'), '>= 0'),
        ('rtol_aux', float('inf'), 'finite'),
        ('spike', 0.0, '> 0'),
        ('spike', float('nan'), '> 0'),
        ('spike', None, '> 0'),
        ('best', 'always', "'every_step', 'on_improvement'"),
        ('ema', 1.0, r'in \[0, 1\)'),
        ('ema', -0.1, r'in \[0, 1\)'),
        ('reset_aux_best', 'no', 'False, True'),
    ],
)
def test_bad_options_raise(option, value, allowed):
  with pytest.raises(ValueError, match=f'{option} must be.*{allowed}.*got'):
    optim.GateConfig(**{option: value})


def test_losses_that_are_not_scalars_raise():
  state, config = optim.gate_init(), optim.GateConfig()
  with pytest.raises(ValueError, match=r'^value must be a scalar.*\(1,\)'):
    optim.gate_step(state, jnp.ones(1), 1.0, config)
  with pytest.raises(ValueError, match=r'^aux_value must be a scalar.*\(2,\)'):
    optim.gate_step(state, 1.0, jnp.ones(2), config)


def test_debug_nans_stays_quiet():
  config = optim.GateConfig(patience_main=1, ema=0.5)
  step = jax.jit(lambda s: optim.gate_step(s, 1.0, 0.0, config))
  with jax.debug_nans(True):
    state = step(step(step(optim.gate_init())))
  assert int(state.num_steps) == 3
