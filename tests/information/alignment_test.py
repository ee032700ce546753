"""Alignment of gradients, by hand and against float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import information
from iblm_jax.information import alignment

SHAPES = {
    'embed': {'tokens': (7, 4)},
    'blocks': {
        'attention': {'query': {'kernel': (3, 4, 2, 2)}},
        'norm': {'scale': (3, 4)},
        'gain': (3,),
    },
    'skip_weights': (1,),
    'temperature': (),
}
STACKED = ('blocks/attention/query/kernel', 'blocks/norm/scale', 'blocks/gain')
LOOSE = ('embed/tokens', 'skip_weights', 'temperature')


def draw(seed, scale=1.0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda shape: np.asarray(scale * rng.standard_normal(shape), dtype),
      SHAPES,
      is_leaf=lambda x: isinstance(x, tuple),
  )


def leaf(tree, path):
  for key in path.split('/'):
    tree = tree[key]
  return np.asarray(tree, np.float64)


def cosine(*pairs):
  g = np.concatenate([np.ravel(g) for g, _ in pairs])
  h = np.concatenate([np.ravel(h) for _, h in pairs])
  return g @ h / np.linalg.norm(g) / np.linalg.norm(h)


def pairs(g, h, paths, layer=None):
  both = [(leaf(g, path), leaf(h, path)) for path in paths]
  return [(x, y) if layer is None else (x[layer], y[layer]) for x, y in both]


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
def test_every_granularity_equals_numpy(dtype):
  g, h = draw(0, dtype=dtype), draw(1)
  got = jax.jit(information.layer_alignment)(g, h)
  want = cosine(*pairs(g, h, STACKED + LOOSE))
  np.testing.assert_allclose(got.total.cosine, want, rtol=1e-5)
  np.testing.assert_allclose(
      information.tree_cosine(g, h), want, rtol=1e-5
  )
  everything = pairs(g, h, STACKED + LOOSE)
  for name, side in (('norm_g', 0), ('norm_h', 1)):
    square = sum(np.sum(pair[side] ** 2) for pair in everything)
    norm = getattr(got.total, name)
    np.testing.assert_allclose(norm, square**0.5, rtol=1e-6)
  np.testing.assert_allclose(
      information.tree_dot(g, h),
      sum(np.sum(x * y) for x, y in everything),
      rtol=1e-5,
  )
  for layer in range(3):
    np.testing.assert_allclose(
        got.layers.cosine[layer],
        cosine(*pairs(g, h, STACKED, layer)),
        rtol=1e-5,
    )
    for path in STACKED:
      np.testing.assert_allclose(
          got.leaves[path].cosine[layer],
          cosine(*pairs(g, h, [path], layer)),
          rtol=1e-5,
      )
  for path in LOOSE:
    want = cosine(*pairs(g, h, [path]))
    np.testing.assert_allclose(got.leaves[path].cosine, want, rtol=1e-5)
  assert got.leaves.keys() == set(STACKED + LOOSE)
  dtypes = {x.dtype for x in jax.tree.leaves(got)}
  assert dtypes == {jnp.dtype('float32')}


def test_scale_does_not_matter_but_sign_does():
  g, h = draw(0), draw(1)
  reference = float(information.tree_cosine(g, h))
  for scale in (1e-7, 1e12):
    for sign in (1, -1):
      scaled = jax.tree.map(lambda x, c=sign * scale: c * x, g)
      got = information.tree_cosine(scaled, h)
      np.testing.assert_allclose(got, sign * reference, rtol=1e-5)
  large = jax.tree.map(lambda x: 1e15 * x, g)
  np.testing.assert_allclose(
      information.tree_cosine(large, large), 1.0, rtol=1e-6
  )
  assert float(information.tree_cosine(g, g)) <= 1.0


@pytest.mark.parametrize(
    'norm, want', [(0.0, 0.0), (0.99e-8, 0.0), (1.01e-8, 1.0)]
)
def test_short_directions_have_cosine_0(norm, want):
  g = {'w': np.float32([0.6 * norm, 0.8 * norm])}
  h = {'w': np.float32([3.0, 4.0])}
  for x, y in ((g, h), (h, g)):
    got = information.tree_cosine(x, y)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_nan_shows():
  g = {'w': np.float32([1.0, np.nan])}
  assert np.isnan(information.tree_cosine(g, {'w': np.ones(2, np.float32)}))


def test_vmap_over_seeds():
  trees = [draw(seed) for seed in range(6)]
  stack = lambda some: jax.tree.map(lambda *x: np.stack(x), *some)
  got = jax.vmap(information.layer_alignment)(
      stack(trees[:3]), stack(trees[3:])
  )
  for seed in range(3):
    want = information.layer_alignment(trees[seed], trees[seed + 3])
    jax.tree.map(
        lambda x, y, seed=seed: np.testing.assert_allclose(
            x[seed], y, rtol=1e-5, atol=1e-5
        ),
        got,
        want,
    )


def test_a_joint_alignment_is_the_alignment_of_both_trees():
  g, h = draw(0), draw(1)
  parts = [
      information.layer_alignment(g[k], h[k], stacked=None).total for k in g
  ]
  joint = parts[0]
  for part in parts[1:]:
    joint = alignment.add(joint, part)
  np.testing.assert_allclose(
      joint.cosine, information.tree_cosine(g, h), rtol=1e-5
  )


def test_metric_names():
  got = information.layer_alignment(draw(0), draw(1))
  metrics = information.cosine_metrics(got)
  path = 'attention/query/kernel'
  layers = [f'alignment/cosine/layer_{n:02d}' for n in range(3)]
  assert set(metrics) == {
      'alignment/cosine',
      *layers,
      *(f'{name}/{path}' for name in layers),
      *(f'{name}/norm/scale' for name in layers),
      *(f'{name}/gain' for name in layers),
      *(f'alignment/cosine/{path}' for path in LOOSE),
  }
  assert {x.shape for x in metrics.values()} == {()}
  assert metrics[layers[2]] == got.layers.cosine[2]
  one = metrics[f'{layers[1]}/{path}']
  assert one == got.leaves[f'blocks/{path}'].cosine[1]
  few = information.cosine_metrics(got, prefix='cos', matrices=False)
  assert list(few) == ['cos'] + [f'cos/layer_{n:02d}' for n in range(3)]


def test_without_layers():
  g = {'w': np.ones(3, np.float32)}
  got = information.layer_alignment(g, g, stacked=None)
  assert got.layers is None
  assert list(information.cosine_metrics(got)) == [
      'alignment/cosine', 'alignment/cosine/w'
  ]


def test_trees_that_differ_raise():
  g = {'a': np.ones((2, 3), np.float32), 'b': np.ones(2, np.float32)}
  for f in (information.tree_dot, information.tree_cosine):
    with pytest.raises(ValueError, match='h must have the tree structure'):
      f(g, {'a': g['a']})
    with pytest.raises(ValueError, match=r"h\['a'\].*\(2, 3\), got \(1, 3\)"):
      f(g, {**g, 'a': g['a'][:1]})
    with pytest.raises(ValueError, match=r"h\['b'\] must be floating.*int32"):
      f(g, {**g, 'b': np.ones(2, np.int32)})


@pytest.mark.parametrize('stacked', ['layers', 'scalar', 'uneven'])
def test_a_bad_stack_raises(stacked):
  one = np.ones(1, np.float32)
  g = {'scalar': np.float32(1), 'uneven': {'a': one, 'b': np.ones((2, 1))}}
  g['uneven']['b'] = g['uneven']['b'].astype(np.float32)
  with pytest.raises(ValueError, match=f"stacked must be.*got '{stacked}'"):
    information.layer_alignment(g, g, stacked=stacked)


def runs_by_hand(series):
  """cycle_statistics in plain Python, from its words."""
  signs = [int(np.sign(x)) for x in series]
  first = next((s for s in signs if s), 0)
  filled, last = [], first
  for sign in signs:
    last = sign or last
    filled.append(last)
  runs = [(s, len(list(group))) for s, group in itertools.groupby(filled)]
  length = {s: [n for t, n in runs if t == s] for s in (1, -1)}
  mean = lambda x: sum(x) / len(x) if x else 0.0
  return {
      'sign_changes': len(runs) - 1,
      'mean_run_positive': mean(length[1]),
      'mean_run_negative': mean(length[-1]),
      'share_positive': sum(length[1]) / len(series),
  }


def check_cycle(series, want=None):
  got = information.cycle_statistics(series)
  want = runs_by_hand(series) if want is None else want
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)
  assert got['sign_changes'].dtype == jnp.int32


@pytest.mark.parametrize('zeros', [0.0, 0.3])
def test_cycle_statistics_equal_plain_python(zeros):
  rng = np.random.default_rng(0)
  for _ in range(20):
    series = rng.standard_normal(40) + 0.3
    check_cycle(np.where(rng.random(40) < zeros, 0.0, series))


def test_a_square_wave():
  wave = np.tile(np.repeat([1.0, -1.0], [6, 2]), 5)
  check_cycle(wave, dict(zip(
      ['sign_changes', 'mean_run_positive', 'mean_run_negative',
       'share_positive'],
      [9, 6.0, 2.0, 0.75], strict=True,
  )))


@pytest.mark.parametrize(
    'series',
    [[0.1], [-2.0], [0.0], [0, 0, 0], [0, 0, -1, 0, 1], [1, 0, 0, -1, 0]],
)
def test_zeros_and_short_series(series):
  check_cycle(series)


def test_a_zero_belongs_to_the_run_before():
  got = information.cycle_statistics([0, 1, 0, 0, -1, 0, 1])
  # + + + + | - - | +
  assert [float(x) for x in got.values()] == pytest.approx([2, 2.5, 2, 5 / 7])


def test_reversing_and_flipping_a_series():
  x = np.random.default_rng(3).standard_normal(50).astype(np.float32)
  got, back, flipped = (
      {k: float(v) for k, v in information.cycle_statistics(y).items()}
      for y in (x, x[::-1], -x)
  )
  assert back == pytest.approx(got)
  assert flipped['sign_changes'] == got['sign_changes']
  assert flipped['mean_run_positive'] == got['mean_run_negative']
  assert flipped['share_positive'] == pytest.approx(1 - got['share_positive'])


def test_nan_and_bad_shapes_of_cosines():
  series = np.float32([1.0, np.nan, -1.0])
  with pytest.raises(ValueError, match='cosines_T must not contain NaN'):
    information.cycle_statistics(series)
  got = jax.jit(information.cycle_statistics)(series)
  assert got.pop('sign_changes') == -1
  assert all(np.isnan(x) for x in got.values())
  for bad in (np.zeros(0), np.zeros((2, 2)), 0.5):
    with pytest.raises(ValueError, match=r'cosines_T must have shape \[T\]'):
      information.cycle_statistics(bad)
