"""The projector of the paper's public code, to compare with; not sharded.

With k = ⌊√D⌋ and e = ⌊√d⌋: Q1 ⊗ Q2 for the first e² coordinates and k² rows (Q
orthonormal, [k, e]), a dense block for what is left over, then a permutation of
all rows. (arXiv 2312.17173.) What it leaves over is a defect: if D is a square,
coordinates that are left over would act on nothing, which is refused here; if d
is one, D - k² rows stay at their initial values.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.sublora import kron, prng
from iblm_jax.sublora import layout as layout_lib


def _sizes(layout):
  k, e = math.isqrt(layout.num_rows), math.isqrt(layout.size)
  return k, e, layout.num_rows - k * k, layout.size - e * e


def _draw(layout, key):
  k, e, rows, columns = _sizes(layout)
  if e > k:
    raise ValueError(
        f'dims must give at most D={layout.num_rows} numbers, got'
        f' {layout.size}.'
    )
  if columns and not rows:
    raise ValueError(
        f"kind='rdkronqr' with D={layout.num_rows} = {k}²: {columns} of the"
        f' {layout.size} coordinates would act on nothing; dims must give a'
        ' square.'
    )

  def draw(width, entries, **rows):
    requests = [(f'rdkronqr:{name}', 1, (n,)) for name, n in rows.items()]
    drawn = prng.draw_all(key, requests, width, entries)
    return [np.asarray(x[0]) for x in drawn]

  first, second = (
      # On the host, in float64.
      np.linalg.qr(x.astype(np.float64))[0].astype(np.float32)
      for x in draw(e, 'normal', first=k, second=k)
  )
  left = np.zeros((0, columns), np.float32)
  if rows and columns:
    (block,) = draw(columns, 'normal', **{'left over': rows})
    left = block / np.float32(math.sqrt(rows))
  (order,) = draw(1, 'bits', order=layout.num_rows)
  permutation = np.argsort(order.ravel(), kind='stable')
  return jax.tree.map(jnp.asarray, {
      'first': first,
      'second': second,
      'left_over': left,
      'permutation': permutation.astype(np.int32),
      'inverse': np.argsort(permutation).astype(np.int32),
  })


def _apply(layout, f, w_d):
  _, e, rows, columns = _sizes(layout)
  w_ExE = w_d[: e * e].reshape(e, e)
  main = kron.multiply(f['first'][None], w_ExE, f['second'][None]).reshape(-1)
  rest = jnp.zeros(rows, jnp.float32)
  if columns:
    rest = jnp.matmul(f['left_over'], w_d[e * e :], precision='highest')
  return jnp.concatenate([main, rest])[f['permutation']]


def _transpose(layout, f, g_D):
  k, _, _, columns = _sizes(layout)
  g = g_D[f['inverse']]
  main = kron.multiply_transpose(
      f['first'][None], g[: k * k].reshape(1, k, k), f['second'][None]
  ).reshape(-1)
  if not columns:
    return main
  rest = jnp.matmul(g[k * k :], f['left_over'], precision='highest')
  return jnp.concatenate([main, rest])


KIND = layout_lib.flat_kind(_draw, _apply, _transpose, redraws=False)
