import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax.objectives import layer_weights, reductions


def weights(name, step, **kwargs):
  kwargs = dict(num_layers=7, skip_first=1, skip_last=1) | kwargs
  return np.asarray(layer_weights.layer_weights(name, step, **kwargs)).tolist()


@pytest.mark.parametrize(
    'name, expected',
    [
        ('all_middle', [[0, 1, 1, 1, 1, 1, 0]] * 2),
        ('rotate', [[0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]]),
        ('progressive', [[0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0]]),
        ('alternating', [[0, 1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0]]),
        ('block', [[0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]]),
        ('slope', [[0, 1, 0.775, 0.55, 0.325, 0.1, 0]] * 2),
        ('weighted_valley', [[0, 0.3, 0.825, 1, 0.825, 0.3, 0]] * 2),
        ('weighted_mountain', [[0, 1, 0.475, 0.3, 0.475, 1, 0]] * 2),
    ],
)
def test_schedules_by_hand(name, expected):
  for step in range(2):
    np.testing.assert_allclose(weights(name, step), expected[step], atol=1e-6)


@pytest.mark.parametrize(
    'name, period',
    [('rotate', 5), ('progressive', 3), ('alternating', 2), ('block', 3)],
)
def test_schedules_cycle(name, period):
  for step in range(10):
    assert weights(name, step) == weights(name, step + period)
    later = [weights(name, step + k) for k in range(1, period)]
    assert weights(name, step) not in later


def test_block_covers_every_layer_once():
  total = sum(np.asarray(weights('block', step)) for step in range(3))
  assert total.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_step_may_be_traced():
  @jax.jit
  def at(step):
    return layer_weights.layer_weights('rotate', step, num_layers=5)

  assert at(jnp.int32(5)).tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize('name', layer_weights.SCHEDULES)
def test_one_layer_is_enough(name):
  if name == 'block':
    with pytest.raises(ValueError, match='leave at least 3 of the 3 layers'):
      weights(name, 0, num_layers=3)
  else:
    found = [weights(name, step, num_layers=3) for step in range(2)]
    assert all(row[0] == row[2] == 0 for row in found)
    assert max(row[1] for row in found) > 0


def test_bad_names_and_skips():
  with pytest.raises(ValueError, match="schedule must be one of .* 'all'"):
    weights('all', 0)
  with pytest.raises(ValueError, match='skip_first=4, skip_last=3'):
    weights('rotate', 0, skip_first=4, skip_last=3)
  with pytest.raises(ValueError, match='skip_first=-1'):
    weights('rotate', 0, skip_first=-1)


def plain_reduction(name, entropy, weight, k=2):
  """Each reduction again, in plain Python from its definition."""
  active = [i for i, w in enumerate(weight) if w > 0]
  rises = {
      i + 1: entropy[i + 1] - entropy[i]
      for i in range(len(entropy) - 1)
      if weight[i] > 0 and weight[i + 1] > 0
  }
  match name:
    case 'mean':
      return sum(weight[i] * entropy[i] for i in active) / sum(weight)
    case 'max':
      return max(entropy[i] for i in active)
    case 'min':
      return min(entropy[i] for i in active)
    case 'spike':
      return entropy[min(rises, key=rises.get)]
    case 'decay':
      return entropy[max(rises, key=rises.get)]
    case 'bottleneck':
      chosen = sorted(rises, key=rises.get)[:k]
      return sum(entropy[i] for i in chosen) / len(chosen)
    case 'decrease':
      positive = [r for r in rises.values() if r > 0]
      return sum(positive) / len(positive) if positive else 0.0
    case 'valley':
      low = [
          i
          for i in active
          if all(entropy[i] <= entropy[j] for j in {i - 1, i + 1} & {*active})
      ]
      return sum(entropy[i] for i in low) / len(low)


@pytest.mark.parametrize('name', reductions.REDUCTIONS)
def test_reductions_equal_plain_python(name):
  rng = np.random.default_rng(0)
  for _ in range(50):
    entropy = rng.uniform(0.1, 2.0, size=7)
    first = rng.integers(0, 3)
    weight = np.zeros(7)
    weight[first : first + rng.integers(2, 5)] = 1.0
    weight *= rng.uniform(0.1, 1.0, size=7)
    found = reductions.reduce_entropy(
        name, jnp.asarray(entropy, 'float32'), jnp.asarray(weight, 'float32')
    )
    expected = plain_reduction(name, entropy.tolist(), weight.tolist())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('name', reductions.REDUCTIONS)
def test_gradients_are_those_of_the_selected_layers(name):
  rng = np.random.default_rng(1)
  entropy_N = jnp.asarray(rng.uniform(0.5, 2.0, size=6), jnp.float32)
  weights_N = jnp.asarray([0, 1, 1, 1, 1, 0], jnp.float32)
  grad = jax.grad(lambda e: reductions.reduce_entropy(name, e, weights_N))(
      entropy_N
  )
  for index in range(6):
    change = np.zeros(6)
    change[index] = 1e-4
    up, down = (
        plain_reduction(
            name, (np.asarray(entropy_N, np.float64) + s * change).tolist(),
            weights_N.tolist(),
        )
        for s in (1, -1)
    )
    np.testing.assert_allclose(grad[index], (up - down) / 2e-4, atol=1e-5)


def test_reduction_refuses():
  ones = jnp.ones(3)
  with pytest.raises(ValueError, match="reduction must be one of .* 'sum'"):
    reductions.reduce_entropy('sum', ones, ones)
  with pytest.raises(ValueError, match='vectors of the same length'):
    reductions.reduce_entropy('mean', ones, jnp.ones(4))


def test_floors():
  floor = reductions.apply_floor
  assert float(floor(0.3, kind='none')) == pytest.approx(0.3)
  assert float(floor(-1.0, kind='max', at=0.2)) == pytest.approx(0.2)
  assert float(floor(1.0, kind='max', at=0.2)) == 1.0
  soft = lambda x: floor(x, kind='softplus', at=0.5, sharpness=0.1)
  assert float(soft(0.5)) == pytest.approx(0.5 + 0.1 * np.log(2))
  assert float(soft(5.0)) == pytest.approx(5.0, abs=1e-6)
  assert float(soft(-5.0)) == pytest.approx(0.5, abs=1e-6)
  assert float(jax.grad(soft)(0.5)) == pytest.approx(0.5)
  with pytest.raises(ValueError, match="floor must be .* got 'hard'"):
    floor(1.0, kind='hard')
