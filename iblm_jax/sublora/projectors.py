"""Random linear maps P from d numbers to a tree of D parameters.

Columns of P have (nearly) unit norm: one unit step in one of the d numbers
moves the D parameters by a total of one, each by about D^(-1/2). The learning
rate of the d numbers is therefore far above that of weights. (arXiv 2312.17173,
sections 2 and 3; Li et al., arXiv 1804.08838.)
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from iblm_jax.sublora import (
    dense,
    fastfood,
    kron,
    paths,
    prng,
    rdkronqr,
    sparse,
)
from iblm_jax.sublora import layout as layout_lib
from iblm_jax.typing import PyTree

KINDS = {
    'kron': kron.KIND,
    'rdkronqr': rdkronqr.KIND,
    'fastfood': fastfood.KIND,
    'sparse': sparse.KIND,
    'dense': dense.KIND,
}
ENTRIES = ('normal', 'sign')

# The most balanced d1 d2 = d may not be more unequal than this.
_MOST_UNEQUAL = 16


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=['factors'],
    meta_fields=['layout', 'treedef', 'direct'],
)
@dataclasses.dataclass(frozen=True)
class Projector:
  """A linear map P: a pytree, so an argument of compiled functions.

  Attributes:
    factors: Arrays of P, or the key they are drawn from at each use.
    layout: Static description of the part that is projected.
    treedef: Structure of the whole tree.
    direct: For each leaf of the tree None, or the shape of a leaf that takes
      its own slice of w as it is.
  """

  factors: layout_lib.Factors
  layout: layout_lib.Layout
  treedef: jax.tree_util.PyTreeDef
  direct: tuple[tuple[int, ...] | None, ...]

  @property
  def size(self) -> int:
    """Length d of w: entries of direct leaves and projected numbers."""
    return self._num_direct + (self.layout.size if self.layout.leaves else 0)

  @property
  def num_parameters(self) -> int:
    """Entries of the tree, D."""
    return self._num_direct + self.layout.num_rows

  @property
  def nbytes(self) -> int:
    """Bytes that the factors hold."""
    return sum(
        0 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.nbytes
        for x in jax.tree.leaves(self.factors)
    )

  @property
  def _num_direct(self) -> int:
    return sum(math.prod(shape) for shape in self.direct if shape is not None)

  def apply(self, w_d: jax.Array) -> PyTree:
    """Returns P w: the float32 tree to be added to the initial parameters.

    Raises:
      ValueError: If `w_d` is not floating [d].
    """
    if w_d.shape != (self.size,) or not jnp.issubdtype(
        w_d.dtype, jnp.floating
    ):
      raise ValueError(
          f'w must be floating with shape ({self.size},), got'
          f' {w_d.dtype}{list(w_d.shape)}.'
      )
    w_d = w_d.astype(jnp.float32)
    shapes = [shape for shape in self.direct if shape is not None]
    direct = iter(layout_lib.unflat(w_d[: self._num_direct], shapes))
    projected = iter(())
    if self.layout.leaves:
      w_d = w_d[self._num_direct :]
      projected = iter(_apply(self.layout, self.factors, w_d))
    return self.treedef.unflatten(
        next(projected if shape is None else direct) for shape in self.direct
    )

  def transpose(self, tree: PyTree) -> jax.Array:
    """Returns Pᵀ g, float32 [d], of a tree like the parameters.

    Raises:
      ValueError: If the tree or a leaf's shape is another.
    """
    leaves, treedef = jax.tree.flatten(tree)
    if treedef != self.treedef:
      raise ValueError(f'tree must be {self.treedef}, got {treedef}.')
    shapes = iter(leaf.shape for leaf in self.layout.leaves)
    for leaf, shape in zip(leaves, self.direct, strict=True):
      expected = next(shapes) if shape is None else shape
      if leaf.shape != expected:
        raise ValueError(
            f'tree must have a leaf of shape {expected}, got {leaf.shape}.'
        )
    pairs = list(zip(leaves, self.direct, strict=True))
    projected = tuple(leaf for leaf, shape in pairs if shape is None)
    parts = [layout_lib.flat([x]) for x, shape in pairs if shape is not None]
    if projected:
      parts.append(_transpose(self.layout, self.factors, projected))
    return jnp.concatenate(parts)


# The transpose of a product in another order of multiplication, or of a sum
# over devices, is not what autodiff would make of it.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(layout, factors, w_d):
  return KINDS[layout.kind].apply(layout, factors, w_d)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _transpose(layout, factors, leaves):
  return KINDS[layout.kind].transpose(layout, factors, leaves)


_apply.defvjp(
    lambda layout, factors, w_d: (_apply(layout, factors, w_d), factors),
    lambda layout, factors, leaves: (None, _transpose(layout, factors, leaves)),
)
_transpose.defvjp(
    lambda layout, factors, leaves: (
        _transpose(layout, factors, leaves), factors
    ),
    lambda layout, factors, w_d: (None, _apply(layout, factors, w_d)),
)


def make_projector(
    kind: str,
    params_tree: PyTree,
    dims: int | tuple[int, int],
    key: jax.Array,
    *,
    hold: bool = True,
    entries: str = 'normal',
    taps: int = 4,
    stacked: str = paths.STACKED,
    direct: tuple[str, ...] = (),
) -> Projector:
  """Makes a random projector onto a tree of parameters.

  P is a function of the kind, the leaves' paths and shapes, `dims`, the options
  below and the key: never of devices or of how leaves are sharded. Leaves that
  carry a NamedSharding give 'kron' and 'sparse' factors that lie where the
  leaves lie: `apply` then communicates nothing and `transpose` sums d numbers
  over devices, once. (An axis that is cut into two, see `kron.choose_cut`, must
  be split over a divisor of its first part; otherwise it is gathered.) The
  other kinds treat the tree as one vector.

  Args:
    kind: 'kron' (Kronecker factors for each leaf; the default choice),
      'rdkronqr' (as in the paper's public code), 'fastfood', 'sparse' or
      'dense' (small sizes only).
    params_tree: Arrays or ShapeDtypeStructs; only paths, shapes and shardings
      are read.
    dims: d, or (d1, d2) with d1 d2 = d: the numbers that are projected, so
      without those of direct leaves. 'kron' takes the most balanced factors of
      an int.
    key: One typed threefry2x32 key.
    hold: False draws factors anew at each use, in the memory of one use;
      'dense' always does so, 'rdkronqr' cannot.
    entries: For 'kron': 'normal', or 'sign' (±1, int8): columns of exactly unit
      norm, a quarter of the memory, drawn with 1 / 32 of the random bits, and
      the same bits on every backend.
    taps: For 'sparse': s, numbers of w that a parameter is a sum of.
    stacked: Pattern of paths whose leading axis counts layers; each layer then
      has factors of its own.
    direct: Patterns of paths of leaves that are not projected: each takes its
      own slice of w, before the projected numbers, in the order of the leaves.

  Raises:
    ValueError: If an option is unknown or out of range, `dims` (as an int, for
      'kron') has no two balanced factors, a pattern matches nothing, or the
      tree has no entries.

  Example:
    >>> params = {'kernel': jnp.ones([8, 4]), 'bias': jnp.ones(4)}
    >>> projector = make_projector('kron', params, 6, jax.random.key(0))
    >>> projector.layout.dims
    (2, 3)
    >>> jax.tree.map(jnp.shape, projector.apply(jnp.zeros(6)))
    {'bias': (4,), 'kernel': (8, 4)}
  """
  for name, value, choices in (
      ('kind', kind, tuple(KINDS)), ('entries', entries, ENTRIES)
  ):
    if value not in choices:
      raise ValueError(f'{name} must be one of {choices}, got {value!r}.')
  paths.check_count('taps', taps)
  paths.check_regexes('stacked', (stacked,))
  paths.check_regexes('direct', direct)
  prng.check_key(key)
  names, leaves, treedef = paths.flatten(params_tree)
  _check_tree(names, leaves, stacked)
  paths.check_patterns('direct', direct, names)

  mesh, specs = layout_lib.sharding_of(leaves)
  is_direct = [paths.matches(name, direct) for name in names]
  projected = tuple(
      layout_lib.Leaf(
          name,
          tuple(leaf.shape),
          leaf.shape[0] if paths.matches(name, (stacked,)) else None,
          spec,
      )
      for name, leaf, spec, skip in zip(
          names, leaves, specs, is_direct, strict=True
      )
      if not skip
  )
  layout = layout_lib.Layout(
      kind, _dims(kind, dims), projected, mesh, entries, hold, taps
  )
  factors: layout_lib.Factors = ()
  if projected:
    if not (hold or KINDS[kind].redraws):
      raise ValueError(f'hold must be True for {kind=}, got hold=False.')
    factors = KINDS[kind].draw(layout, key) if hold else key
  shapes = tuple(
      tuple(leaf.shape) if skip else None
      for leaf, skip in zip(leaves, is_direct, strict=True)
  )
  return Projector(factors, layout, treedef, shapes)


def _dims(kind, dims) -> tuple[int, int]:
  if isinstance(dims, tuple):
    if len(dims) != 2:
      raise ValueError(f'dims must be an int or two, got {dims!r}.')
    for size in dims:
      paths.check_count('dims', size)
    return dims
  paths.check_count('dims', dims)
  d1 = next(a for a in range(math.isqrt(dims), 0, -1) if dims % a == 0)
  if kind == 'kron' and dims // d1 > _MOST_UNEQUAL * d1:
    side = max(round(math.sqrt(dims)), 1)
    raise ValueError(
        f"dims must have two balanced factors for kind='kron', got {dims} ="
        f' {d1} x {dims // d1}; take ({side}, {round(dims / side)}), say.'
    )
  return d1, dims // d1


def _check_tree(names, leaves, stacked):
  for name, leaf in zip(names, leaves, strict=True):
    if 0 in leaf.shape:
      raise ValueError(
          f'params_tree must have entries in every leaf, got {name} with'
          f' shape {leaf.shape}.'
      )
    if not leaf.shape and paths.matches(name, (stacked,)):
      raise ValueError(
          f'stacked must match leaves with an axis of layers, got {name}'
          ' without axes.'
      )
  if not leaves:
    raise ValueError('params_tree must have a leaf, got none.')
  ids = {prng.path_id(name) for name in names}
  if len(ids) < len(names) or len(set(names)) < len(names):
    raise ValueError('params_tree has two paths with the same CRC-32.')
