"""The projector of Kronecker factors for each leaf: no D x d matrix.

With w reshaped to W [d1, d2], a leaf of n1 x n2 entries gets A W Bᵀ / √D with
random A [n1, d1] and B [n2, d2]; layers that are stacked have factors of their
own. Rows of A and B lie where the leaf's own axes lie: the product needs no
communication, the transpose one sum of d numbers over devices.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from iblm_jax.sublora import layout as layout_lib
from iblm_jax.sublora import prng

# Reading a number of a factor takes about as long as this many FLOP.
_FLOPS_PER_NUMBER = 20
# An axis that is cut in two can still be split over devices that divide its
# first part; more than this many are not provided for.
_MOST_DEVICES = 32
# On a mesh, leaves with no more numbers than this in their factors are drawn by
# one program, in which each device draws all of them.
_DRAWN_TOGETHER = 2**20


class Cut(NamedTuple):
  """Grouping of the axes of a matrix into rows and columns.

  Attributes:
    rows: Axes of A; the last is the first part of an axis if one `is_cut`.
    cols: Axes of B; the first is then the second part of that axis.
    is_cut: Whether an axis of the matrix is cut in two.
  """

  rows: tuple[int, ...]
  cols: tuple[int, ...]
  is_cut: bool


def _cuts(shape: tuple[int, ...]) -> Iterator[Cut]:
  for axis in range(len(shape) + 1):
    yield Cut(shape[:axis], shape[axis:], False)
  for axis, size in enumerate(shape):
    for part in range(2, size):
      if size % part == 0:
        yield Cut(
            (*shape[:axis], part), (size // part, *shape[axis + 1 :]), True
        )


@functools.cache
def choose_cut(shape: tuple[int, ...], dims: tuple[int, int]) -> Cut:
  """Chooses the 2-D form of an array for factors of `dims` columns.

  First the largest rank min(n1, d1) min(n2, d2) of the leaf's part of P. Of
  equals, one that cuts no axis in two; of those that do, one that can still be
  split over the most devices (up to 32). Of equals, the least work.

  Args:
    shape: Shape of one layer.
    dims: (d1, d2).

  Returns:
    The cut; a function of the arguments alone, never of a mesh.

  Example:
    >>> choose_cut((768, 12, 64), (200, 250))
    Cut(rows=(768,), cols=(12, 64), is_cut=False)
    >>> choose_cut((50304, 4), (200, 250))
    Cut(rows=(384,), cols=(131, 4), is_cut=True)
  """
  d1, d2 = dims

  def preference(cut):
    n1, n2 = math.prod(cut.rows), math.prod(cut.cols)
    devices = math.gcd(cut.rows[-1], _MOST_DEVICES) if cut.is_cut else 0
    work = 2 * min(
        n1 * d2 * (d1 + n2), n2 * d1 * (d2 + n1)
    ) + _FLOPS_PER_NUMBER * (n1 * d1 + n2 * d2)
    return -min(n1, d1) * min(n2, d2), cut.is_cut, -devices, work

  return min(_cuts(shape), key=preference)


def multiply(
    a_LxNxI: jax.Array, w_IxJ: jax.Array, b_LxMxJ: jax.Array
) -> jax.Array:
  """Computes A W Bᵀ [L, N, M] of every layer, the smaller side first.

  Example:
    >>> a = jnp.array([[[1.0, 2], [3, 4], [5, 6]]])
    >>> b = jnp.array([[[1.0, 0], [0, 1], [1, 1]]])
    >>> w = jnp.array([[1.0, 2], [3, 4]])
    >>> multiply(a, w, b).reshape(-1).astype(int).tolist()
    [7, 10, 17, 15, 22, 37, 23, 34, 57]
  """
  (n1, d1), (n2, d2) = a_LxNxI.shape[1:], b_LxMxJ.shape[1:]
  if n1 * d2 * (d1 + n2) <= n2 * d1 * (d2 + n1):
    x_LxNxJ = _rows(a_LxNxI, w_IxJ)
    return _einsum('lnj,lmj->lnm', x_LxNxJ, b_LxMxJ)
  y_LxMxI = _rows(b_LxMxJ, w_IxJ.T)
  return _einsum('lni,lmi->lnm', a_LxNxI, y_LxMxI)


def multiply_transpose(
    a_LxNxI: jax.Array, g_LxNxM: jax.Array, b_LxMxJ: jax.Array
) -> jax.Array:
  """Computes the sum of Aᵀ G B [I, J] over layers, the smaller side first."""
  (n1, d1), (n2, d2) = a_LxNxI.shape[1:], b_LxMxJ.shape[1:]
  if n1 * d2 * (n2 + d1) <= n2 * d1 * (n1 + d2):
    x_LxNxJ = _einsum('lnm,lmj->lnj', g_LxNxM, b_LxMxJ)
    return _columns(a_LxNxI, x_LxNxJ)
  y_LxMxI = _einsum('lnm,lni->lmi', g_LxNxM, a_LxNxI)
  return _columns(y_LxMxI, b_LxMxJ)


def _einsum(subscripts, x, y):
  return jnp.einsum(subscripts, x, y, precision='highest')


def _rows(x_LxNxI, w_IxJ):
  """Multiplies the rows of all layers at once."""
  rows = einops.rearrange(x_LxNxI, 'l n i -> (l n) i')
  product = jnp.matmul(rows, w_IxJ, precision='highest')
  return einops.rearrange(product, '(l n) j -> l n j', n=x_LxNxI.shape[1])


def _columns(x_LxNxI, y_LxNxJ):
  """Multiplies, and sums over the rows of all layers."""
  x = einops.rearrange(x_LxNxI, 'l n i -> (l n) i')
  y = einops.rearrange(y_LxNxJ, 'l n j -> (l n) j')
  # Transposed here: otherwise XLA adds up in another order.
  return jnp.matmul(x.T, y, precision='highest')


def _request(layout, leaf):
  """Returns path, layers and rows of both factors of a leaf."""
  cut = choose_cut(leaf.matrix_shape, layout.dims)
  layers = leaf.layers or 1
  return (
      (f'{leaf.path}:rows', layers, cut.rows),
      (f'{leaf.path}:columns', layers, cut.cols),
  )


def _draw(layout, key):
  requests = [_request(layout, leaf) for leaf in layout.leaves]
  if layout.mesh is None:
    return _draw_whole(layout, key, requests)
  shardings = [
      tuple(NamedSharding(layout.mesh, s) for s in _specs(layout, leaf)[0])
      for leaf in layout.leaves
  ]
  small = [
      i for i, request in enumerate(requests)
      if _numbers(layout, request) <= _DRAWN_TOGETHER
  ]
  drawn = _draw_whole(
      layout, key, [requests[i] for i in small], [shardings[i] for i in small]
  )
  pairs = dict(zip(small, drawn, strict=True))
  for i, leaf in enumerate(layout.leaves):
    if i not in pairs:
      # Never whole on one device.
      draw = functools.partial(_draw_leaf, layout, leaf)
      pairs[i] = prng.run_once(draw, key, out_shardings=shardings[i])
  return tuple(pairs[i] for i in range(len(requests)))


def _numbers(layout, request):
  """Returns how many numbers both factors of a leaf hold."""
  sides = zip(request, layout.dims, strict=True)
  return sum(layers * math.prod(axes) * d for (_, layers, axes), d in sides)


def _draw_whole(layout, key, requests, shardings=None):
  """Draws pairs of factors, in one program if that draws little in vain."""
  if not requests:
    return ()
  d1, d2 = layout.dims
  a_s, b_s = (list(side) for side in zip(*requests, strict=True))
  to_a = to_b = to = None
  if shardings is not None:
    to_a, to_b = (list(side) for side in zip(*shardings, strict=True))
    to = to_a + to_b
  if max(d1, d2) > 2 * min(d1, d2):
    a_s = prng.draw_all(key, a_s, d1, layout.entries, to_a)
    b_s = prng.draw_all(key, b_s, d2, layout.entries, to_b)
  else:
    # A row begins with the same numbers whatever its width.
    rows = prng.draw_all(key, a_s + b_s, max(d1, d2), layout.entries, to)
    a_s = [x[..., :d1] for x in rows[: len(requests)]]
    b_s = [x[..., :d2] for x in rows[len(requests) :]]
  return tuple(zip(a_s, b_s, strict=True))


def _draw_leaf(layout, leaf, key):
  request = _request(layout, leaf)
  if layout.mesh is None:
    return _draw_whole(layout, key, [request])[0]
  return tuple(
      prng.draw_leaf(key, path, layers, axes, width, layout.entries)
      for (path, layers, axes), width in zip(request, layout.dims, strict=True)
  )


def _specs(layout, leaf):
  spec = layout_lib.whole_spec(leaf.spec, len(leaf.shape))
  layer, axes = (None, spec) if leaf.layers is None else (spec[0], spec[1:])
  cut = choose_cut(leaf.matrix_shape, layout.dims)
  rows, cols = axes[:len(cut.rows)], axes[len(cut.rows):]
  if cut.is_cut:
    # The parts of the axis that devices hold are runs of its first part.
    mesh = layout.mesh
    if mesh and cut.rows[-1] % layout_lib.pieces(rows[-1], mesh):
      rows = (*rows[:-1], None)
    axes = (*rows, *cols)
    cols = (None, *cols)
  leading = () if leaf.layers is None else (layer,)
  factor_specs = (
      PartitionSpec(layer, *rows, None), PartitionSpec(layer, *cols, None)
  )
  return factor_specs, PartitionSpec(*leading, *axes)


def _matrices(pair):
  return tuple(
      einops.rearrange(x, 'l ... d -> l (...) d').astype(jnp.float32)
      for x in pair
  )


def _apply_leaf(layout, leaf, pair, w_d):
  a, b = _matrices(pair)
  rows, cols = pair[0].shape[1:-1], pair[1].shape[1:-1]
  shape = (*rows, *cols)
  if choose_cut(leaf.matrix_shape, layout.dims).is_cut:
    shape = (*rows[:-1], rows[-1] * cols[0], *cols[1:])
  if leaf.layers is not None:
    shape = (a.shape[0], *shape)
  return multiply(a, w_d.reshape(layout.dims), b).reshape(shape)


def _transpose_leaf(layout, leaf, pair, entries):
  del layout, leaf
  a, b = _matrices(pair)
  g = entries.astype(jnp.float32).reshape(a.shape[:2] + b.shape[1:2])
  return multiply_transpose(a, g, b).reshape(-1)


KIND = layout_lib.local_kind(
    _draw, _draw_leaf, _specs, _apply_leaf, _transpose_leaf,
    lambda layout: 1 / math.sqrt(layout.num_rows),
)
