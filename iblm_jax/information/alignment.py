"""How far two gradients agree: over all parameters, by layer, by matrix.

Everything is sums of products of leaves, so on a mesh only scalars (and one
number per layer) move between devices, and one pass over both trees serves
every granularity. `iblm_jax.analysis.series` tests which cosines of a series
are more than noise.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from iblm_jax.information import checks, gram

PyTree: TypeAlias = Any

# A direction this short is rounding noise.
_MIN_NORM = 1e-8
_CYCLE = (
    'sign_changes', 'mean_run_positive', 'mean_run_negative', 'share_positive'
)


class Alignment(NamedTuple):
  """Inner products of g and h, in float32; add two to join their parameters."""

  dot: jax.Array  # shape=[...], Σ g h
  square_g: jax.Array  # shape=[...], Σ g²
  square_h: jax.Array  # shape=[...], Σ h²

  @property
  def norm_g(self) -> jax.Array:
    """The norm of g [...]."""
    return jnp.sqrt(self.square_g)

  @property
  def norm_h(self) -> jax.Array:
    """The norm of h [...]."""
    return jnp.sqrt(self.square_h)

  @property
  def cosine(self) -> jax.Array:
    """The cosine [...]; 0 where a norm is below 1e-8, NaN above 1.8e19."""
    short = (self.norm_g < _MIN_NORM) | (self.norm_h < _MIN_NORM)
    return jnp.where(short, 0.0, _cosine(self))


class LayerAlignment(NamedTuple):
  """Result of `layer_alignment`; any pytree function works on it."""

  total: Alignment  # shape=[], over all parameters
  layers: Alignment | None  # shape=[N], over the stacked parameters of a layer
  leaves: dict[str, Alignment]  # by path: shape=[N] if stacked, else []


def tree_dot(g: PyTree, h: PyTree) -> jax.Array:
  """Returns the inner product of two trees, a float32 scalar.

  Args:
    g: Tree of floating arrays, like `h`; the dtypes may differ.

  Raises:
    ValueError: If structures or shapes differ, or a leaf is not floating.

  Example:
    >>> float(tree_dot({'a': jnp.ones(3)}, {'a': jnp.full(3, 2.0)}))
    6.0
  """
  _check_alike(g, h)
  dots = jax.tree.leaves(jax.tree.map(_dot, g, h))
  return sum(dots, start=jnp.zeros([], jnp.float32))


def tree_cosine(
    g: PyTree, h: PyTree, *, min_norm: float = _MIN_NORM
) -> jax.Array:
  """Returns the cosine of the angle between two trees, as one vector each.

  arXiv 2505.08727 tells the memorisation-compression cycle by that of ∇CE and
  ∇MBE.

  Args:
    g: Tree of floating arrays like `h`, of any scale; the dtypes may differ.
    min_norm: Directions that are shorter are rounding noise, at least 0;
      static. With 0 only a tree of zeros has no direction.

  Returns:
    float32 scalar in [-1, 1]; 0 if either norm is 0 or below `min_norm`, NaN
    if an entry is not finite.

  Raises:
    ValueError: If structures or shapes differ, a leaf is not floating, or
      `min_norm` is negative.

  Example:
    >>> g = {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}
    >>> print(tree_cosine(g, {'a': jnp.array([1.0]), 'b': jnp.array([0.0])}))
    0.6
  """
  checks.at_least(0, min_norm=min_norm)
  _check_alike(g, h)
  g, scale_g = _to_unit(g)
  h, scale_h = _to_unit(h)
  both = layer_alignment(g, h, stacked=None).total
  short = (both.norm_g == 0) | (both.norm_g / scale_g < min_norm)
  short |= (both.norm_h == 0) | (both.norm_h / scale_h < min_norm)
  return jnp.where(short, 0.0, _cosine(both))


def layer_alignment(
    g: PyTree, h: PyTree, *, stacked: str | None = 'blocks'
) -> LayerAlignment:
  """Measures alignment over all parameters, by layer and by leaf, in one pass.

  Args:
    g: Tree of floating arrays like `h`, of norm below 1e19 (squares are
      float32; the cosines of longer ones are NaN); the dtypes may differ.
    stacked: Key at the top of the tree; the leaves under it have a leading
      axis of N layers. None: no leaf has, and `layers` is None.

  Returns:
    float32 sums, see `LayerAlignment`. Paths are joined by '/', and the stacked
    key is part of them.

  Raises:
    ValueError: If structures or shapes differ, a leaf is not floating, no key
      is called `stacked`, or the leaves under it differ in their first axis.

  Example:
    >>> g = {'blocks': {'w': jnp.eye(2)}, 'head': jnp.ones(2)}
    >>> h = {'blocks': {'w': -jnp.eye(2)}, 'head': jnp.ones(2)}
    >>> both = layer_alignment(g, h)
    >>> print(both.total.cosine, both.layers.cosine)
    0.0 [-1. -1.]
    >>> print(both.leaves['blocks/w'].cosine, both.leaves['head'].norm_g)
    [-1. -1.] 1.4142135
  """
  _check_alike(g, h)
  leaves_g = jax.tree_util.tree_leaves_with_path(g)
  if stacked is not None:
    sizes = {
        jnp.shape(x)[:1] for path, x in leaves_g if _is_under(stacked, path)
    }
    if len(sizes) != 1 or sizes == {()}:
      raise ValueError(
          'stacked must be a key at the top of the tree whose leaves have one'
          f' leading axis in common, got {stacked!r}, with leading axes'
          f' {sorted(sizes)}.'
      )
  leaves, layers = {}, None
  total = Alignment(*[jnp.zeros([], jnp.float32)] * 3)
  for (path, x), y in zip(leaves_g, jax.tree.leaves(h), strict=True):
    in_layer = _is_under(stacked, path)
    axes = tuple(range(int(in_layer), jnp.ndim(x)))
    part = Alignment(_dot(x, y, axes), _dot(x, x, axes), _dot(y, y, axes))
    leaves[jax.tree_util.keystr(path, simple=True, separator='/')] = part
    if in_layer:
      layers = part if layers is None else add(layers, part)
    else:
      total = add(total, part)
  if layers is not None:
    total = add(total, jax.tree.map(jnp.sum, layers))
  return LayerAlignment(total, layers, leaves)


def add(a: Alignment, b: Alignment) -> Alignment:
  """Returns the alignment over the parameters of `a` and `b` together."""
  return jax.tree.map(jnp.add, a, b)


def cosine_metrics(
    alignment: LayerAlignment,
    *,
    prefix: str = 'alignment/cosine',
    stacked: str | None = 'blocks',
    matrices: bool = True,
) -> dict[str, jax.Array]:
  """Names all cosines as a file of metrics does: flat, by layer and leaf.

  Args:
    alignment: From `layer_alignment`, without batch axes.
    stacked: As given to `layer_alignment`; left out of the names.

  Returns:
    float32 scalars: `prefix` itself over all parameters, `prefix/layer_00` by
    layer, and `prefix/layer_00/PATH` and `prefix/PATH` by leaf.

  Example:
    >>> g = {'blocks': {'w': jnp.eye(2)}, 'head': jnp.ones(2)}
    >>> list(cosine_metrics(layer_alignment(g, g), prefix='c', matrices=False))
    ['c', 'c/layer_00', 'c/layer_01']
    >>> list(cosine_metrics(layer_alignment(g, g), prefix='c'))[3:]
    ['c/layer_00/w', 'c/layer_01/w', 'c/head']
  """
  metrics = {prefix: alignment.total.cosine}
  if alignment.layers is not None:
    metrics |= _per_layer(prefix, '', alignment.layers.cosine)
  for path, part in alignment.leaves.items() if matrices else ():
    if part.dot.ndim:
      suffix = path.removeprefix(str(stacked))
      metrics |= _per_layer(prefix, suffix, part.cosine)
    else:
      metrics[f'{prefix}/{path}'] = part.cosine
  return metrics


def cycle_statistics(
    cosines_T: jax.typing.ArrayLike,
) -> dict[str, jax.Array]:
  """Describes whether and how fast a series changes its sign.

  A zero belongs to the run before it, and to the first run where it leads. (The
  memorisation-compression cycle: arXiv 2505.08727.)

  Args:
    cosines_T: [T] real, T >= 1; any series of signed numbers.

  Returns:
    Scalars: `sign_changes` int32; `mean_run_positive` and `mean_run_negative`
    float32, mean length in steps of the runs of one sign, 0 if there is none;
    `share_positive` float32, share of the steps in positive runs. A series of
    zeros has no runs. Under jit, where it cannot raise, NaN in the series
    gives -1 changes and NaN elsewhere.

  Raises:
    ValueError: If the series is not one-dimensional, empty, or contains NaN.

  Example:
    >>> for name, value in cycle_statistics([0.2, 0.1, -0.3, 0.4]).items():
    ...   print(name, value)
    sign_changes 2
    mean_run_positive 1.5
    mean_run_negative 1.0
    share_positive 0.75
  """
  x_T = jnp.asarray(cosines_T, jnp.float32)
  ok = x_T.ndim == 1 and x_T.size > 0
  checks.shape('cosines_T', x_T, '[T] with T >= 1', ok)
  if not isinstance(x_T, jax.core.Tracer) and jnp.any(jnp.isnan(x_T)):
    raise ValueError('cosines_T must not contain NaN, got some.')
  # Named here: jit would sort the keys of a dict.
  return dict(zip(_CYCLE, _cycle_statistics(x_T), strict=True))


@jax.jit
def _cycle_statistics(x_T):
  sign_T = jnp.sign(x_T)
  steps_T = jnp.arange(x_T.size)
  # The latest step that has a sign; before the first, the first itself.
  signed_T = jnp.where(sign_T != 0, steps_T, jnp.argmax(sign_T != 0))
  sign_T = sign_T[jax.lax.cummax(signed_T)]
  starts_T = jnp.concatenate([jnp.ones(1, bool), sign_T[1:] != sign_T[:-1]])

  def mean_run(mine_T):
    runs = jnp.sum(starts_T & mine_T)
    return jnp.sum(mine_T) / jnp.maximum(runs, 1)

  bad = jnp.any(jnp.isnan(x_T))
  poison = jnp.where(bad, jnp.nan, 0.0)
  changes = jnp.sum(starts_T[1:], dtype=jnp.int32)
  return (
      jnp.where(bad, -1, changes),
      mean_run(sign_T > 0) + poison,
      mean_run(sign_T < 0) + poison,
      jnp.mean(sign_T > 0) + poison,
  )


def _per_layer(prefix, suffix, values_N):
  return {
      f'{prefix}/layer_{n:02d}{suffix}': values_N[n]
      for n in range(values_N.shape[0])
  }


def _is_under(key, path):
  return bool(path) and jax.tree_util.keystr(path[:1], simple=True) == key


def _cosine(both: Alignment) -> jax.Array:
  """The cosine [...] of directions, NaN where a norm is not finite."""
  one = lambda norm: jnp.where(norm == 0, 1.0, norm)
  # Divided one by one: the product of two norms may overflow or underflow.
  cosine = both.dot / one(both.norm_g) / one(both.norm_h)
  finite = jnp.isfinite(both.norm_g) & jnp.isfinite(both.norm_h)
  return jnp.where(finite, jnp.clip(cosine, -1.0, 1.0), jnp.nan)


def _to_unit(tree: PyTree) -> tuple[PyTree, jax.Array]:
  """A tree with its largest entry near 1, and the power of two it took."""
  leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.size(leaf)]
  if not leaves:
    return tree, jnp.ones([])
  largest = [jnp.max(jnp.abs(leaf)).astype(jnp.float32) for leaf in leaves]
  scale = gram.to_unit(jnp.stack(largest), axis=None)[0]
  scaled = lambda leaf: jnp.asarray(leaf, jnp.float32) * scale
  return jax.tree.map(scaled, tree), scale


def _dot(x, y, axes=None):
  # Products and a sum, not jnp.vdot: a TPU would multiply in bfloat16.
  x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  return jnp.sum(x * y, axis=axes)


def _check_alike(g, h):
  """Raises ValueError unless both are floating trees of one structure."""
  if jax.tree.structure(g) != jax.tree.structure(h):
    raise ValueError(
        'h must have the tree structure of g,'
        f' {jax.tree.structure(g)}, got {jax.tree.structure(h)}.'
    )

  def check(path, x, y):
    where = jax.tree_util.keystr(path)
    expected = jnp.shape(x)
    checks.shape(f'h{where}', y, expected, jnp.shape(y) == expected)
    checks.floating(f'g{where}', x)
    checks.floating(f'h{where}', y)

  jax.tree_util.tree_map_with_path(check, g, h)
