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

from iblm_jax.sublora import kron
from iblm_jax.sublora import layout as plan_lib
from iblm_jax.sublora import prng as draws


def _sizes(plan):
  k, e = math.isqrt(plan.num_rows), math.isqrt(plan.size)
  return k, e, plan.num_rows - k * k, plan.size - e * e


def _draw(plan, key):
  k, e, rows, columns = _sizes(plan)
  if not plan.hold:
    raise ValueError("hold must be True for kind='rdkronqr', got hold=False.")
  if e > k:
    raise ValueError(
        f'dims must give at most D={plan.num_rows} numbers, got {plan.size}.'
    )
  if columns and not rows:
    raise ValueError(
        f"kind='rdkronqr' with D={plan.num_rows} = {k}²: {columns} of the"
        f' {plan.size} coordinates would act on nothing; dims must give a'
        ' square.'
    )
  # One program draws all; QR on the host, in float64.
  gauss = draws.draw_all(
      key, [('rdkronqr:first', 1, (k,)), ('rdkronqr:second', 1, (k,))], e,
      'normal',
  )
  (order,) = draws.draw_all(
      key, [('rdkronqr:order', 1, (plan.num_rows,))], 1, 'bits'
  )
  left = np.zeros((0, columns), np.float32)
  if rows and columns:
    (block,) = draws.draw_all(
        key, [('rdkronqr:left over', 1, (rows,))], columns, 'normal'
    )
    left = np.asarray(block[0]) / np.float32(math.sqrt(rows))
  first, second = (
      np.linalg.qr(np.asarray(x[0], np.float64))[0].astype(np.float32)
      for x in gauss
  )
  permutation = np.argsort(np.asarray(order).ravel(), kind='stable')
  return jax.tree.map(jnp.asarray, {
      'first': first,
      'second': second,
      'left_over': left,
      'permutation': permutation.astype(np.int32),
      'inverse': np.argsort(permutation).astype(np.int32),
  })


def _apply(plan, f, w_d):
  _, e, rows, columns = _sizes(plan)
  w_ExE = w_d[: e * e].reshape(e, e)
  main = kron.multiply(f['first'][None], w_ExE, f['second'][None]).reshape(-1)
  rest = jnp.zeros(rows, jnp.float32)
  if columns:
    rest = jnp.matmul(f['left_over'], w_d[e * e :], precision='highest')
  theta = jnp.concatenate([main, rest])[f['permutation']]
  return plan_lib.unflat(plan, theta)


def _transpose(plan, f, leaves):
  k, _, _, columns = _sizes(plan)
  g = plan_lib.flat(leaves)[f['inverse']]
  main = kron.multiply_transpose(
      f['first'][None], g[: k * k].reshape(1, k, k), f['second'][None]
  ).reshape(-1)
  if not columns:
    return main
  rest = jnp.matmul(g[k * k :], f['left_over'], precision='highest')
  return jnp.concatenate([main, rest])


KIND = plan_lib.Kind(_draw, _apply, _transpose)
