"""with_gapt: what the optimizer inside is given, and where it fits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iblm_jax import optim

ALWAYS = optim.GateConfig(patience_main=1, patience_aux=10_000)
NEVER = optim.GateConfig(patience_main=10_000)
CONFIG = optim.GateConfig(patience_main=3, patience_aux=4, rtol_main=0.02)


def tree(seed, dtype=np.float32):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  return {'phase': draw(3, 4), 'layer': {'w': draw(5), 'b': draw()}}


def flat(t):
  return np.concatenate([np.ravel(np.float64(x)) for x in jax.tree.leaves(t)])


def update(tx, g1, g2, state=None, value=1.0, aux_value=1.0, **extra):
  state = tx.init(g1) if state is None else state
  losses = dict(value=value, aux_value=aux_value, aux_updates=g2)
  return tx.update(g1, state, g1, **losses, **extra)


class NumpyTraining:
  """GAPT, clipping and Adam in float64, one number at a time."""

  def __init__(self, config, weight, clip, learning_rate):
    self.c, self.weight, self.clip = config, weight, clip
    self.rate, self.phase, self.stall, self.t = learning_rate, 1, 0, 0
    self.best = {1: np.inf, 2: np.inf}
    self.m = self.v = 0.0

  def step(self, p, losses, gradients):
    gain = {
        k: (self.best[k] - x) / self.best[k] if np.isfinite(self.best[k]) else 0
        for k, x in zip((1, 2), losses, strict=True)
    }
    for k, x in zip((1, 2), losses, strict=True):
      self.best[k] = min(self.best[k], x)
    rtol = {1: self.c.rtol_main, 2: self.c.rtol_aux}[self.phase]
    patience = {1: self.c.patience_main, 2: self.c.patience_aux}[self.phase]
    spiked = self.phase == 2 and gain[1] < -self.c.spike
    self.stall = 0 if gain[self.phase] > rtol else self.stall + 1
    if spiked or self.stall >= patience:
      self.phase, self.stall = 3 - self.phase, 0
    g = gradients[0] + (self.phase == 2) * self.weight * gradients[1]
    g = g * min(1.0, self.clip / np.sqrt(g @ g))
    self.t += 1
    self.m = 0.9 * self.m + 0.1 * g
    self.v = 0.999 * self.v + 0.001 * g**2
    m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
    return p - self.rate * m / (np.sqrt(v) + 1e-8)


def test_training_equals_numpy_step_by_step():
  centre = np.array([2.0, -1.0, 0.5])
  losses = lambda p: (np.mean((p - centre) ** 2) + 1, np.mean(p**2) + 1)
  gradients = lambda p: (2 * (p - centre) / 3, 2 * p / 3)
  optimizer = optax.chain(optax.clip_by_global_norm(0.3), optax.adam(0.05))
  tx = optim.with_gapt(optimizer, CONFIG, weight=5.0)
  reference = NumpyTraining(CONFIG, 5.0, 0.3, 0.05)

  @jax.jit
  def step(p, state):
    losses = lambda p: (jnp.mean((p - centre) ** 2) + 1, jnp.mean(p**2) + 1)
    (value, aux), (g1, g2) = optim.value_and_grads(losses, p)
    updates, state = tx.update(
        g1, state, p, value=value, aux_value=aux, aux_updates=g2
    )
    return optax.apply_updates(p, updates), state

  want = np.zeros(3)
  got, state, phases = jnp.zeros(3), tx.init(jnp.zeros(3)), []
  for _ in range(200):
    want = reference.step(want, losses(want), gradients(want))
    got, state = step(got, state)
    assert int(optim.phase(state)) == reference.phase
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)
    phases.append(reference.phase)
  assert np.count_nonzero(np.diff(phases)) >= 6


@pytest.mark.parametrize('projection', [None, 'pcgrad'])
def test_the_optimizer_acts_on_the_sum(projection):
  # Equal to gapt first in a chain, and to joint gradients given directly.
  g1, g2 = tree(1), tree(2)
  adam = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
  options = dict(weight=0.5, projection=projection)
  got, _ = update(optim.with_gapt(adam, ALWAYS, **options), g1, g2)
  chain = optax.chain(optim.gapt(ALWAYS, **options), adam)
  jax.tree.map(np.testing.assert_array_equal, got, update(chain, g1, g2)[0])
  joint, _ = update(optim.gapt(ALWAYS, **options), g1, g2)
  want, _ = adam.update(joint, adam.init(g1), g1)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  got, _ = update(optim.with_gapt(adam, NEVER, **options), g1, g2)
  want, _ = adam.update(g1, adam.init(g1), g1)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_auxiliary_loss_falls():
  # What chain(adam, gapt) did: the auxiliary loss rose.
  tx = optim.with_gapt(optax.adam(0.1), ALWAYS)
  p = jnp.array([3.0, -2.0])
  state = tx.init(p)
  for _ in range(50):
    updates, state = tx.update(
        jnp.zeros(2), state, p, value=1.0, aux_value=1.0, aux_updates=p
    )
    p = optax.apply_updates(p, updates)
  assert float(jnp.abs(p).max()) < 0.5


def test_the_entropy_is_clipped_as_well():
  g1, g2 = tree(1), jax.tree.map(lambda x: 1e4 * x, tree(2))
  clip = optax.clip_by_global_norm(1.0)
  got, _ = update(optim.with_gapt(clip, ALWAYS), g1, g2)
  np.testing.assert_allclose(np.linalg.norm(flat(got)), 1.0, rtol=1e-5)


MASK = {'phase': True, 'layer': {'w': False, 'b': True}}
LABELS = {'phase': 'x', 'layer': {'w': 'y', 'b': 'x'}}
SGD = optax.sgd(1.0)
# name: a transformation; which gradients move 'phase', and which 'w'
PLACES = {
    'alone': (optim.with_gapt(SGD, ALWAYS), 'both', 'both'),
    'in_chain': (
        optax.chain(optim.with_gapt(SGD, ALWAYS), optax.scale(1.0)),
        'both', 'both',
    ),
    'in_named_chain': (
        optax.named_chain(
            ('a', optim.with_gapt(SGD, ALWAYS)), ('b', optax.scale(1.0))
        ),
        'both', 'both',
    ),
    'around_masked': (
        optim.with_gapt(optax.chain(optax.masked(optax.scale(1.0), MASK), SGD),
                        ALWAYS),
        'both', 'both',
    ),
    'in_masked': (
        optax.chain(
            optax.masked(optim.with_gapt(optax.identity(), ALWAYS), MASK,
                         mask_compatible_extra_args=True),
            SGD,
        ),
        'both', 'main',
    ),
    'around_partition': (
        optim.with_gapt(optax.partition({'x': SGD, 'y': SGD}, LABELS), ALWAYS),
        'both', 'both',
    ),
    'in_partition': (
        optax.partition(
            {'x': optim.with_gapt(SGD, ALWAYS), 'y': SGD}, LABELS,
            mask_compatible_extra_args=True,
        ),
        'both', 'main',
    ),
    'in_apply_if_finite': (
        optax.apply_if_finite(optim.with_gapt(SGD, ALWAYS), 3),
        'both', 'both',
    ),
    'injected': (
        optax.inject_hyperparams(optim.with_gapt)(
            SGD, ALWAYS, weight=lambda step: 1.0 + step
        ),
        'both', 'both',
    ),
    'around_injected': (
        optim.with_gapt(
            optax.inject_hyperparams(optax.sgd)(lambda step: 1.0 + step), ALWAYS
        ),
        'both', 'both',
    ),
    'around_multi_steps': (
        optim.with_gapt(optax.MultiSteps(SGD, 1), ALWAYS), 'both', 'both',
    ),
    'around_train_only': (
        optim.with_gapt(optim.train_only(SGD, lambda _: MASK), ALWAYS),
        'both', 'none',
    ),
}  # fmt: skip


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_every_place_that_is_right(place, dtype):
  tx, phase_leaf, w_leaf = PLACES[place]
  g1, g2 = tree(1, dtype), tree(2, dtype)
  traces = []

  @jax.jit
  def step(state, value):
    traces.append(1)
    return update(tx, g1, g2, state, value, value, unexpected=3)

  first = state = jax.jit(tx.init)(g1)
  for value in (2.0, 1.0):  # the second step's updates are looked at
    updates, state = step(state, jnp.float32(value))
  assert len(traces) == 1
  assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, first)
  assert int(optim.phase(state)) == 2
  assert int(optim.gate_state(state).num_steps) == 2
  assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
  scale = 2.0 if place == 'around_injected' else 1.0
  weight = 2.0 if place == 'injected' else 1.0
  rtol = 1e-5 if dtype == jnp.float32 else 2e-2
  for want, leaf in ((phase_leaf, lambda t: t['phase']),
                     (w_leaf, lambda t: t['layer']['w'])):  # fmt: skip
    x, y = np.float32(leaf(g1)), np.float32(leaf(g2))
    expected = -scale * (x + weight * y * (want == 'both'))
    expected *= want != 'none'
    got = np.float32(leaf(updates))
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize('accumulate', [False, True])
def test_extra_arguments_reach_the_optimizer(accumulate):
  # reduce_on_plateau needs the loss, and a transformation may need its own.
  seen = {}

  def look(updates, state, params=None, **extra):
    seen.update(extra)
    return updates, state

  inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, look)
  plateau = optax.contrib.reduce_on_plateau(patience=1, factor=0.5)
  optimizer = optax.chain(SGD, plateau, inner)
  if accumulate:
    optimizer = optax.MultiSteps(optimizer, 1)
  tx = optim.with_gapt(optimizer, NEVER)
  g1, state = tree(0), None
  for _ in range(4):
    got, state = update(tx, g1, tree(1), state, value=2.0, other='x')
  assert seen['other'] == 'x' and seen['value'] == 2.0
  assert float(np.abs(flat(got) / flat(g1)).max()) < 1


def test_around_multi_steps_every_loss_counts():
  tx = optim.with_gapt(optax.MultiSteps(SGD, 4), optim.GateConfig(
      patience_main=3, patience_aux=100), weight=2.0)  # fmt: skip
  g1, g2 = jnp.ones(2), jnp.array([1.0, -1.0])
  state = tx.init(g1)
  step = jax.jit(lambda s, v: update(tx, g1, g2, s, v, v))
  made, phases = [], []
  for value in (5.0, 4.0, 4.0, 4.0, 4.0, 3.9, 3.9, 3.9):
    updates, state = step(state, value)
    made.append(updates)
    phases.append(int(optim.phase(state)))
  gate = optim.gate_state(state)
  assert int(gate.num_steps) == 8
  assert phases == [1, 1, 1, 1, 2, 2, 2, 2]
  np.testing.assert_array_equal(np.delete(made, [3, 7], axis=0), 0)
  np.testing.assert_allclose(made[3], -g1)
  np.testing.assert_allclose(made[7], -(g1 + 2 * g2))


def test_a_step_whose_loss_is_not_finite_adds_nothing():
  tx = optim.with_gapt(SGD, ALWAYS)
  g1, nan = tree(1), jax.tree.map(lambda x: x * jnp.nan, tree(2))
  _, state = update(tx, g1, tree(2))
  got, after = update(tx, g1, nan, state, aux_value=jnp.nan)
  np.testing.assert_array_equal(flat(got), -flat(g1))
  jax.tree.map(np.testing.assert_array_equal, after, state)


def test_bad_arguments_raise():
  for bad in (None, optax.adam, 0.1):
    with pytest.raises(ValueError, match='tx must be an optax.Gradient.*got'):
      optim.with_gapt(bad, NEVER)
  with pytest.raises(ValueError, match='weight must be.*got -1'):
    optim.with_gapt(SGD, NEVER, weight=-1)
  with pytest.raises(ValueError, match="projection.*'pca'"):
    optim.with_gapt(SGD, NEVER, projection='pca')
  tx, g1 = optim.with_gapt(SGD, NEVER), tree(0)
  with pytest.raises(ValueError, match='with_gapt needs aux_updates: call'):
    tx.update(g1, tx.init(g1), g1, value=1.0, aux_value=1.0)
  with pytest.raises(ValueError, match='must have the tree structure'):
    update(tx, g1, g1['layer'])


def test_around_an_optimizer_of_ours():
  schedule = optim.ScheduleConfig(name='constant', peak=0.1, total_steps=5)
  options = optim.OptimizerConfig(schedule=schedule, weight_decay=0.0)
  tx = optim.with_gapt(optim.make_optimizer(options), ALWAYS, weight=0.5)
  g1, g2 = tree(1), tree(2)
  got, state = update(tx, g1, g2)
  assert int(optim.phase(state)) == 2
  joint = jax.tree.map(lambda x, y: x + 0.5 * y, g1, g2)
  clip, adam = optax.clip_by_global_norm(1.0), optax.adam(0.1, 0.9, 0.95)
  plain = optax.chain(clip, adam)
  want, _ = plain.update(joint, plain.init(g1), g1)
  np.testing.assert_allclose(flat(got), flat(want), rtol=1e-5)
