"""Projectors against their definition in NumPy, and what all of them share."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iblm_jax import sublora
from iblm_jax.sublora import fastfood, kron

KEY = jax.random.key(137)

# D = 12,235 as in the measurements that the ranges below are from: a perceptron
# of 4 characters of context.
PERCEPTRON = {
    'embed': (27, 16),
    'hidden': {'kernel': (64, 128), 'bias': (128,)},
    'out': {'kernel': (128, 27), 'bias': (27,)},
}
DECODER = {
    'blocks': {'mlp': {'kernel': (3, 12, 20)}, 'scale': (3, 12), 'mix': (3,)},
    'embed': (40, 12),
    'temperature': (),
}


def tree_of(shapes):
  return jax.tree.map(
      lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
      shapes,
      is_leaf=lambda x: isinstance(x, tuple),
  )


VARIANTS = {
    'kron': dict(kind='kron'),
    'rdkronqr': dict(kind='rdkronqr'),
    'fastfood': dict(kind='fastfood'),
    'sparse': dict(kind='sparse'),
    'dense': dict(kind='dense'),
}


@functools.cache
def projector_of(name, **more):
  options = dict(VARIANTS[name], **more)
  return sublora.make_projector(
      options.pop('kind'), tree_of(PERCEPTRON), 256, KEY, **options
  )


@functools.cache
def matrix_of(name):
  """P [D, d], its transpose applied to V [D, 3], V; in one program."""
  v = np.random.default_rng(0).standard_normal((3, 12_235)).astype(np.float32)

  @jax.jit
  def program(projector, v):
    def vector(w_d):
      leaves = jax.tree.leaves(projector.apply(w_d))
      return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

    _, pull_back = jax.vjp(vector, jnp.zeros(256))
    return jax.vmap(vector)(jnp.eye(256)).T, jax.vmap(pull_back)(v)[0].T

  matrix, pulled = program(projector_of(name), v)
  return np.asarray(matrix, np.float64), np.asarray(pulled), v.T


def test_kronecker_vector():
  a = jnp.array([[[1.0, 2], [3, 4], [5, 6]]])
  b = jnp.array([[[1.0, 0], [0, 1], [1, 1]]])
  g = jnp.array([1.0, -1, 2, 0, 0, 1, 1, 1, -2]).reshape(1, 3, 3)
  got = kron.multiply_transpose(a, g, b)
  assert got.reshape(-1).tolist() == [1, -1, 4, 0]
  w = jnp.array([[1.0, 2], [3, 4]])
  assert kron.multiply(a, w, b).reshape(-1).tolist() == [
      7, 10, 17, 15, 22, 37, 23, 34, 57
  ]


@pytest.mark.parametrize('sizes', [(9, 3, 4, 5), (3, 9, 5, 4)])
def test_both_orders_of_multiplication(sizes):
  n1, n2, d1, d2 = sizes
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, n1, d1)), rng.normal(size=(2, n2, d2))
  w, g = rng.normal(size=(d1, d2)), rng.normal(size=(2, n1, n2))
  want = np.stack([x @ w @ y.T for x, y in zip(a, b, strict=True)])
  pulled = sum(a[i].T @ g[i] @ b[i] for i in range(2))
  a, b, w, g = (jnp.asarray(x, jnp.float32) for x in (a, b, w, g))
  np.testing.assert_allclose(kron.multiply(a, w, b), want, atol=1e-5)
  np.testing.assert_allclose(
      kron.multiply_transpose(a, g, b), pulled, atol=1e-5
  )


def test_hadamard_is_its_own_inverse():
  x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
  y = fastfood.hadamard_transform(x)
  np.testing.assert_allclose(
      fastfood.hadamard_transform(y), x, rtol=0, atol=1e-6
  )
  signs = [
      [(-1) ** bin(i & j).count('1') for j in range(32)] for i in range(32)
  ]
  np.testing.assert_allclose(
      y, x @ np.array(signs) / math.sqrt(32), rtol=0, atol=1e-5
  )


@pytest.mark.parametrize('name', VARIANTS)
def test_transpose_is_the_transpose(name):
  matrix, pulled, v = matrix_of(name)
  np.testing.assert_allclose(pulled, matrix.T @ v, rtol=0, atol=1e-4)
  # ... and so adjoint: <P w, v> = <w, Pᵀ v>.
  w = np.random.default_rng(1).standard_normal(256)
  np.testing.assert_allclose(
      (matrix @ w) @ v, w @ pulled, rtol=1e-5, atol=1e-4
  )


# Ranges of column norms and of singular values. Of 'kron': over 12 seeds of
# the same construction in NumPy. Q ⊗ Q is an isometry; the others are about
# 1 ± √(d / D), with what the finite D adds.
RANGES = {
    'kron': ((0.69, 1.30), (0.39, 1.85)),
    'rdkronqr': ((1 - 1e-5, 1 + 1e-5), (1 - 1e-5, 1 + 1e-5)),
    'fastfood': ((0.97, 1.03), (0.76, 1.37)),
    'sparse': ((0.88, 1.12), (0.8, 1.2)),
    'dense': ((0.96, 1.04), (0.84, 1.16)),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_columns_and_singular_values(name):
  matrix, *_ = matrix_of(name)
  norms = np.linalg.norm(matrix, axis=0)
  singular = np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix))
  (low, high), (least, most) = RANGES[name]
  assert low <= norms.min() and norms.max() <= high, (norms.min(), norms.max())
  assert least <= singular[0] and singular[-1] <= most, singular[[0, -1]]


def by_definition(projector):
  """P from the held factors, leaf by leaf, with np.kron."""
  rows = []
  for pair in projector.factors:
    a, b = (
        np.asarray(x, np.float64).reshape(x.shape[0], -1, x.shape[-1])
        for x in pair
    )
    rows += [np.kron(x, y) for x, y in zip(a, b, strict=True)]
  return np.concatenate(rows) / math.sqrt(projector.num_parameters)


def test_columns_of_signs_have_unit_norm():
  projector = sublora.make_projector(
      'kron', tree_of(PERCEPTRON), 256, KEY, entries='sign'
  )
  matrix = by_definition(projector)
  np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), 1, rtol=1e-6)
  singular = np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix))
  assert 0.42 <= singular[0] and singular[-1] <= 1.7
  assert projector.nbytes * 4 == projector_of('kron').nbytes


def test_kron_is_a_kronecker_product_of_each_leaf():
  matrix, *_ = matrix_of('kron')
  np.testing.assert_allclose(
      matrix, by_definition(projector_of('kron')), atol=1e-6
  )


@functools.cache
def stacked_projectors():
  make = functools.partial(
      sublora.make_projector, 'kron', tree_of(DECODER), (4, 6), KEY,
      entries='sign',
  )
  return make(), make(direct=('scale$', '^temp'))


def test_layers_have_factors_of_their_own_and_directs_their_slice():
  held, mixed = stacked_projectors()
  assert (held.size, mixed.size) == (24, 24 + 36 + 1)
  assert held.num_parameters == mixed.num_parameters == 1240

  @jax.jit
  def program(held, mixed, w, tree):
    return held.apply(w[:24]), mixed.apply(w), mixed.transpose(tree)

  rng = np.random.default_rng(0)
  w = rng.standard_normal(61).astype(np.float32)
  tree = jax.tree.map(
      lambda x: rng.standard_normal(x.shape).astype(np.float32),
      tree_of(DECODER),
  )
  theta, split, parts = program(held, mixed, w, tree)
  want = by_definition(held)
  flat = lambda tree: np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
  np.testing.assert_allclose(flat(theta), want @ w[:24], rtol=0, atol=1e-5)
  # Layers differ.
  assert len(np.unique(want[3:723].reshape(3, -1), axis=0)) == 3
  # Direct leaves are slices of w; the others are projected as they would be
  # alone: a leaf's factors depend on no other leaf.
  np.testing.assert_array_equal(
      split['blocks']['scale'], w[:36].reshape(3, 12)
  )
  assert split['temperature'] == w[36]
  growth = math.sqrt(1240 / (1240 - 37))
  embed = slice(3 + 720 + 36, 1239)
  np.testing.assert_allclose(
      split['embed'].reshape(-1), growth * (want[embed] @ w[37:]), atol=1e-5
  )
  np.testing.assert_array_equal(parts[:36], tree['blocks']['scale'].ravel())
  assert parts[36] == tree['temperature']
  kept = np.r_[0:723, embed]
  np.testing.assert_allclose(
      parts[37:], growth * (flat(tree)[kept] @ want[kept]), rtol=0, atol=1e-4
  )


@pytest.mark.parametrize(
    'kind, dims', [('kron', (4, 6)), ('kron', (2, 5)), ('sparse', (4, 6))]
)
def test_drawn_at_each_use_it_is_the_same_and_holds_nothing(kind, dims):
  tree = tree_of({'blocks': {'kernel': (2, 6, 5)}})
  make = functools.partial(
      sublora.make_projector, kind, tree, dims, KEY, entries='sign'
  )
  held, drawn = make(), make(hold=False)
  assert held.nbytes > 0 and drawn.nbytes == 0
  w = jnp.arange(1.0, 1.0 + math.prod(dims))
  apply = jax.jit(lambda projector, w: projector.apply(w)['blocks']['kernel'])
  np.testing.assert_allclose(apply(drawn, w), apply(held, w), rtol=1e-5)


def test_numbers_never_change():
  """A certificate is worthless where its projector cannot be drawn again."""
  held, _ = stacked_projectors()
  a, b = held.factors[1]  # blocks/mlp/kernel
  assert (a.shape, b.shape) == ((3, 12, 4), (3, 20, 6))
  assert a[1, 0].tolist() == [-1, 1, -1, 1]
  assert b[2, 0].tolist() == [1, 1, 1, -1, -1, 1]
  normal = projector_of('kron').factors[0][0]
  np.testing.assert_allclose(
      normal[0, 0, :3], [-0.7153833, 1.0525434, -0.3266574], rtol=1e-5
  )


@pytest.mark.parametrize('dims', [(4, 4), (16, 16), (200, 250)])
@pytest.mark.parametrize(
    'shape', [(), (768,), (4, 768), (768, 4), (64, 4), (50_304, 4), (12, 5, 7)]
)
def test_cut(shape, dims):
  cut = kron.choose_cut(shape, dims)
  n1, n2 = math.prod(cut.rows), math.prod(cut.cols)
  assert n1 * n2 == math.prod(shape)
  rank = min(n1, dims[0]) * min(n2, dims[1])
  size = math.prod(shape)
  # No way to group the axes has a higher rank, if one axis may be cut.
  best, axes = 0, len(shape)
  for axis in range(axes + 1):
    before = math.prod(shape[:axis])
    for part in range(1, (shape[axis] if axis < axes else 1) + 1):
      if (shape[axis] if axis < axes else 1) % part == 0:
        rows = before * part
        best = max(best, min(rows, dims[0]) * min(size // rows, dims[1]))
  assert rank == best
  if cut.is_cut:
    axis = len(cut.rows) - 1
    assert cut.rows[:-1] == shape[:axis]
    assert (cut.rows[-1] * cut.cols[0], *cut.cols[1:]) == shape[axis:]
  else:
    assert cut.rows + cut.cols == shape


def test_zero_changes_nothing():
  shapes = tree_of(PERCEPTRON)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), shapes
  )
  w0, expand = sublora.subspace(params, projector_of('kron'))
  assert w0.shape == (256,) and not w0.any()
  for x, y in zip(
      *map(jax.tree.leaves, (params, jax.jit(expand)(w0))), strict=True
  ):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def make(**options):
  options = dict(
      kind='kron', params_tree=tree_of(DECODER), dims=(4, 6), key=KEY
  ) | options
  return lambda: sublora.make_projector(**options)


@pytest.mark.parametrize(
    'call, said',
    [
        (make(kind='kronecker'), "kind must be one of .*got 'kronecker'"),
        (make(entries='uniform'), "entries must be one of .*got 'uniform'"),
        (make(taps=0), 'taps must be an int >= 1, got 0'),
        (make(dims=0), 'dims must be an int >= 1, got 0'),
        (make(dims=(4, 2.5)), 'dims must be an int >= 1, got 2.5'),
        (make(dims=(4, 2, 2)), 'dims must be an int or two'),
        (make(dims=50_021), r'got 50021 = 1 x 50021; take \(224, 223\)'),
        (make(direct=('nothing',)), "direct: 'nothing' matches no parameter"),
        (make(direct=('(',)), 'direct must be regular expressions'),
        (make(direct='scale'), 'direct must be a tuple of str'),
        (make(stacked='temperature'), 'stacked must match leaves with an axis'),
        (make(key=3), 'key must be one key of jax.random.key'),
        (make(key=jax.random.key(0, impl='rbg')), "impl='threefry2x32'"),
        (make(params_tree={}), 'params_tree must have a leaf'),
        (make(params_tree={'a': jnp.ones([0, 2])}), 'entries in every leaf'),
        (make(kind='rdkronqr', hold=False), "hold must be True for kind='rd"),
        (make(kind='rdkronqr', dims=1600), 'at most D=1240 numbers, got 1600'),
        (
            make(kind='rdkronqr', dims=5, params_tree=tree_of({'a': (4, 4)})),
            r'D=16 = 4²: 1 of the 5 coordinates would act on nothing',
        ),
    ],
)
def test_bad_arguments(call, said):
  with pytest.raises(ValueError, match=said):
    call()


def test_bad_vectors_and_trees():
  projector = projector_of('kron')
  with pytest.raises(ValueError, match=r'shape \(256,\), got float32\[255\]'):
    projector.apply(jnp.zeros(255))
  with pytest.raises(ValueError, match=r'floating.*got int32\[256\]'):
    projector.apply(jnp.zeros(256, jnp.int32))
  with pytest.raises(ValueError, match='^tree must be PyTreeDef'):
    projector.transpose({'embed': jnp.zeros([27, 16])})
  zeros = jax.tree.map(lambda x: np.zeros(x.shape), tree_of(PERCEPTRON))
  zeros['embed'] = zeros['embed'].T
  with pytest.raises(ValueError, match=r'shape \(27, 16\), got \(16, 27\)'):
    projector.transpose(zeros)
