"""The gate against a plain Python state machine, on long random traces.

`ReferenceGate` is a second, independent statement of section 4 of the method:
one step at a time in np.float32, with branches, so that it reads like the text.
"""

import copy
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import optim

F = np.float32


class ReferenceGate:
  """Runs one gate; `margin` is the last gain's distance to a threshold."""

  def __init__(self, config):
    self.c = config
    self.phase = 1
    self.stall_main = 0
    self.stall_aux = 0
    self.best_main = F(np.inf)
    self.best_aux = F(np.inf)
    self.ema_main = F(np.inf)
    self.ema_aux = F(np.inf)
    self.num_steps = 0
    self.num_compression_steps = 0
    self.num_switches = 0
    self.margin = math.inf

  def _smoothed(self, old, x):
    if self.c.ema == 0 or math.isinf(old):
      return x
    return F(old + F(1 - self.c.ema) * F(x - old))

  def _gain(self, best, x):
    if math.isinf(best) or abs(best) < F(1e-9):
      return None
    return F(F(best - x) / max(abs(best), F(1e-6)))

  def _counts(self, gain, threshold):
    """Whether a gain lies above a threshold; None stands for a gain of 0."""
    if gain is None:
      return threshold < 0
    # With no smoothing an unchanged loss has a gain of exactly zero.
    if not (gain == 0 and threshold == 0 and self.c.ema == 0):
      self.margin = min(self.margin, abs(float(gain) - threshold))
    return gain > F(threshold)

  def step(self, value, aux_value):
    c = self.c
    self.margin = math.inf
    value, aux_value = F(value), F(aux_value)
    if not (math.isfinite(value) and math.isfinite(aux_value)):
      return
    main = self._smoothed(self.ema_main, value)
    aux = self._smoothed(self.ema_aux, aux_value)
    gain_main = self._gain(self.best_main, main)
    gain_aux = self._gain(self.best_aux, aux)
    better_main = self._counts(gain_main, c.rtol_main)
    better_aux = self._counts(gain_aux, c.rtol_aux)

    if c.best == 'every_step' or better_main or gain_main is None:
      self.best_main = min(self.best_main, main)
    if c.best == 'every_step' or better_aux or gain_aux is None:
      self.best_aux = min(self.best_aux, aux)

    if self.phase == 1:
      self.stall_main = 0 if better_main else self.stall_main + 1
      if self.stall_main >= c.patience_main:
        self.stall_main = 0
        self.phase = 2
        self.num_switches += 1
        if c.reset_aux_best:
          self.best_aux = aux
    elif not math.isinf(c.spike) and not self._counts(gain_main, -c.spike):
      self.stall_aux = 0
      self.phase = 1
      self.num_switches += 1
    else:
      self.stall_aux = 0 if better_aux else self.stall_aux + 1
      if self.stall_aux >= c.patience_aux:
        self.stall_aux = 0
        self.phase = 1
        self.num_switches += 1

    self.ema_main, self.ema_aux = main, aux
    self.num_steps += 1
    self.num_compression_steps += self.phase == 2


NUM_STEPS = 10_000
MARGIN = 1e-5

# name: options, and the noise and the spikes of the losses' trace
SETTINGS = {
    'paper': ({}, 'noisy'),
    'paper_smooth': ({}, 'smooth'),
    'plateau': ({'best': 'on_improvement'}, 'smooth'),
    'ema': ({'ema': 0.98, 'patience_main': 60, 'patience_aux': 40}, 'noisy'),
    'ema_plateau': (
        {'ema': 0.9, 'best': 'on_improvement', 'patience_main': 20},
        'spikes',
    ),
    'ema_slow_reset': (
        {'ema': 0.999, 'reset_aux_best': True, 'rtol_aux': 0.001},
        'noisy',
    ),
    'patience_1': ({'patience_main': 1, 'patience_aux': 1}, 'noisy'),
    'patience_3_1_plateau': (
        {'patience_main': 3, 'patience_aux': 1, 'best': 'on_improvement'},
        'spikes',
    ),
    'no_spike_rule': ({'spike': float('inf'), 'patience_main': 10}, 'spikes'),
    'spikes': ({'patience_main': 10, 'patience_aux': 50}, 'spikes'),
    'rtol_0': (
        {'rtol_main': 0.0, 'rtol_aux': 0.0, 'patience_main': 5},
        'constant',
    ),
    'rtol_0_plateau': (
        {
            'rtol_main': 0.0,
            'rtol_aux': 0.0,
            'patience_main': 4,
            'patience_aux': 6,
            'best': 'on_improvement',
        },
        'noisy',
    ),
    'negative_plateau': (
        {
            'patience_main': 7,
            'patience_aux': 11,
            'best': 'on_improvement',
            'reset_aux_best': True,
        },
        'negative',
    ),
    'not_finite_ema': (
        {'patience_main': 9, 'patience_aux': 5, 'ema': 0.5},
        'not_finite',
    ),
    'to_zero': (
        {'patience_main': 6, 'patience_aux': 3, 'best': 'on_improvement'},
        'to_zero',
    ),
}


def draw(rng, kind, t):
  """Losses of step t: a slow decay with noise, spikes, or worse."""
  decay = math.exp(-3 * t / NUM_STEPS)
  noise = 1 + 0.02 * rng.standard_normal(2)
  value, aux = (0.5 + 4 * decay) * noise[0], (0.2 + 2 * decay) * noise[1]
  if kind == 'smooth':
    value, aux = (0.5 + 4 * decay), (0.2 + 2 * decay)
    return value * (1 + 1e-3 * rng.standard_normal()), aux * noise[1]
  if kind == 'spikes' and rng.random() < 0.02:
    return value * rng.uniform(1.05, 1.5), aux * rng.uniform(0.9, 1.0)
  if kind == 'constant':
    return np.ceil(4 * value) / 4, np.ceil(8 * aux) / 8
  if kind == 'negative':
    return value - 2, rng.standard_normal()
  if kind == 'not_finite' and rng.random() < 0.05:
    bad = [np.nan, np.inf, -np.inf][rng.integers(3)]
    return [(bad, aux), (value, bad), (bad, bad)][rng.integers(3)]
  if kind == 'to_zero':
    return value * 10.0 ** -rng.integers(0, 12), aux * (rng.random() > 0.01)
  return value, aux


@functools.cache
def reference_run(name):
  """A trace and the reference's states; how far the trace could be drawn.

  A draw that puts a gain within MARGIN of its threshold, where rounding may
  decide, is drawn again.
  """
  options, kind = SETTINGS[name]
  rng = np.random.default_rng(sum(map(ord, name)))
  gate = ReferenceGate(optim.GateConfig(**options))
  values, states = [], []
  for t in range(NUM_STEPS):
    for _ in range(50):
      pair = np.float32(draw(rng, kind, t))
      trial = copy.copy(gate)
      trial.step(*pair)
      if trial.margin >= MARGIN:
        break
    else:
      break
    gate = trial
    values.append(pair)
    states.append(vars(gate))
  fields = optim.GateState._fields
  return np.array(values), {
      name: np.array([state[name] for state in states]) for name in fields
  }


@functools.cache
def spikes_run():
  values, want = reference_run('spikes')
  return scan_gate(optim.GateConfig(**SETTINGS['spikes'][0]), values), want


def scan_gate(config, values):
  def body(state, pair):
    state = optim.gate_step(state, pair[0], pair[1], config)
    return state, state

  run = jax.jit(lambda xs: jax.lax.scan(body, optim.gate_init(), xs)[1])
  return jax.device_get(run(jnp.asarray(values)))


@pytest.mark.parametrize('name', SETTINGS)
def test_equals_the_plain_state_machine(name):
  values, want = reference_run(name)
  config = optim.GateConfig(**SETTINGS[name][0])
  got = scan_gate(config, values)
  for field in got._fields:
    x, y = getattr(got, field), want[field]
    if 'ema' in field or (config.ema and 'best' in field):
      np.testing.assert_allclose(x, y, rtol=1e-6, atol=0, err_msg=field)
    else:
      np.testing.assert_array_equal(x, y, err_msg=field)
  assert want['num_switches'][-1] > 1  # or the trace says little


def test_traces_run_through():
  lengths = [len(reference_run(name)[0]) for name in SETTINGS]
  assert np.mean(np.array(lengths) == NUM_STEPS) >= 0.9


@pytest.mark.parametrize('num_steps', [1, 15, 40, 999, 5_000, NUM_STEPS])
def test_counters_give_exact_phase_statistics(num_steps):
  states, want = spikes_run()
  last = optim.GateState(*(x[num_steps - 1] for x in states))
  got = optim.phase_statistics(last)
  # Runs of equal phase, found in the full trace; the gate starts in phase 1.
  trace = want['phase'][:num_steps]
  runs = np.split(trace, np.flatnonzero(np.diff(trace)) + 1)
  lengths = {p: [len(r) for r in runs if r[0] == p] or [0] for p in (1, 2)}
  assert got == {
      'share_compression': np.mean(trace == 2),
      'num_switches': len(runs) - 1,
      'mean_memorisation_length': np.mean(lengths[1]),
      'mean_compression_length': np.mean(lengths[2]),
  }


def test_statistics_saw_runs_that_end_in_either_phase():
  phases = reference_run('spikes')[1]['phase'][[0, 14, 39, 998, 4_999, -1]]
  assert set(phases) == {1, 2}


@pytest.mark.parametrize('decay', [0.3, 0.9, 0.98, 0.999])
def test_ema_equals_float64_within_the_rounding_of_float32(decay):
  rng = np.random.default_rng(1)
  values = rng.uniform(1, 2, (3000, 2)).astype(np.float32)
  got = scan_gate(optim.GateConfig(ema=decay), values)
  want = np.empty((3000, 2))
  ema = want[0] = np.float64(values[0])
  for t in range(1, 3000):
    ema = want[t] = decay * ema + (1 - decay) * np.float64(values[t])
  # Each step rounds by at most half a unit in the last place of the average,
  # plus less for the weight; what is left of it shrinks by `decay` a step.
  bound = 1.5 * 2.0**-24 / (1 - decay) + 2.0**-23
  np.testing.assert_allclose(got.ema_main, want[:, 0], rtol=bound)
  np.testing.assert_allclose(got.ema_aux, want[:, 1], rtol=bound)
