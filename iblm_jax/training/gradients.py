"""Computes gradients of the two losses: summed over micro-batches, or apart."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.objectives import iblm

# (params, batch) -> Losses and the entropy of every layer.
LossFunction = Callable[[Any, Mapping[str, jax.Array]], Any]


def separate(
    losses: LossFunction,
    params: Any,
    batch: Mapping[str, jax.Array],
    *,
    halves: bool = False,
) -> tuple[iblm.Losses, jax.Array | None, iblm.Losses]:
  """Computes the gradient of each loss by itself, from one linearisation.

  Args:
    losses: `(params, batch) -> (Losses, entropy_N)`.
    params: Parameters of the model.
    batch: Arrays [B, L].
    halves: Take the even and the odd rows apart: two linearisations of half
      the size, so that no work is added. The entropy is then the mean over
      halves.

  Returns:
    The losses of the batch, the entropy of every layer (None if not measured),
    and `Losses` of gradient trees; with `halves` their leaves have a leading
    axis of 2, and `whole` puts them together.
  """
  if not halves:
    return _separate(losses, params, batch)
  value, entropy_N, grads = jax.lax.map(
      lambda half: _separate(losses, params, half), split(batch, 2)
  )
  mean = lambda x: jnp.mean(x, axis=0)
  value = iblm.Losses(jnp.sum(value.main), *jax.tree.map(mean, value[1:]))
  return value, jax.tree.map(mean, entropy_N), grads


def whole(halves: iblm.Losses) -> iblm.Losses:
  """Puts the gradients of halves together, see `separate`.

  The cross-entropy of a half is divided by the targets of the whole batch, so
  its gradients add; entropies are averaged.
  """
  total = lambda x: jnp.sum(x, axis=0)
  mean = lambda x: jnp.mean(x, axis=0)
  rest = jax.tree.map(mean, halves[1:])
  return iblm.Losses(jax.tree.map(total, halves.main), *rest)


def accumulated(
    losses: LossFunction,
    params: Any,
    batch: Mapping[str, jax.Array],
    aux_cotangent: Callable[[jax.Array], jax.Array],
    parts: int,
    *,
    separate: bool = False,
) -> tuple[iblm.Losses, jax.Array | None, Any, iblm.Losses | None]:
  """Sums losses and gradients over micro-batches of interleaved rows.

  Args:
    losses: See `separate`.
    params: Parameters of the model.
    batch: Arrays [B, L].
    aux_cotangent: Gives the weight of the entropy's gradient from its value in
      a micro-batch.
    parts: The number of micro-batches; it divides B.
    separate: Give the gradient of each loss by itself, too.

  Returns:
    Losses and entropy of every layer; the gradient to descend; and `Losses` of
    gradient trees, None unless `separate`.
  """

  def part(total, micro):
    if separate:
      value, entropy_N, apart = _separate(losses, params, micro)
      slope = aux_cotangent(value.aux)
      grads = jax.tree.map(
          lambda g, h: g + slope / parts * h, apart.main, apart.aux
      )
    else:
      apart = None
      value, pull_back, entropy_N = jax.vjp(
          lambda p: losses(p, micro), params, has_aux=True
      )
      cotangent = aux_cotangent(value.aux) / parts
      (grads,) = pull_back(iblm.Losses(jnp.ones([], jnp.float32), cotangent))
    new = (value, entropy_N, grads, apart)
    return jax.tree.map(jnp.add, total, new), None

  micro = split(batch, parts)
  value, entropy_N = jax.eval_shape(
      losses, params, jax.tree.map(lambda a: a[0], micro)
  )
  apart = jax.tree.map(lambda _: params, value) if separate else None
  zeros = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      (value, entropy_N, params, apart),
  )
  (value, entropy_N, grads, apart), _ = jax.lax.scan(part, zeros, micro)
  mean = lambda x: x / parts
  average = lambda v: iblm.Losses(v.main, *jax.tree.map(mean, v[1:]))
  if apart is not None:
    apart = average(apart)
  return average(value), jax.tree.map(mean, entropy_N), grads, apart


def split(
    batch: Mapping[str, jax.Array], parts: int
) -> dict[str, jax.Array]:
  """Splits rows [B, ...] into [parts, B / parts, ...].

  Row b goes to part b % parts: every device keeps some rows of each part.
  """

  def rows(array):
    micro = array.reshape(array.shape[0] // parts, parts, *array.shape[1:])
    return micro.swapaxes(0, 1)

  return jax.tree.map(rows, dict(batch))


def _separate(losses, params, batch):
  value, pull_back, entropy_N = jax.vjp(
      lambda p: losses(p, batch), params, has_aux=True
  )
  names = [name for name, v in zip(value._fields, value, strict=True)
           if v is not None]
  one_hot = lambda name: iblm.Losses(
      **{n: jnp.asarray(n == name, jnp.float32) for n in names}
  )
  grads = {name: pull_back(one_hot(name))[0] for name in names}
  return value, entropy_N, iblm.Losses(**grads)
