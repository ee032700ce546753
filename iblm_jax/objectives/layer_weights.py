"""Which layers carry the entropy loss at a step, and how strongly.

A schedule is a pure function of a step, which may be traced, and the numbers
0 .. A-1 of the layers that take part: `skip_first .. N - skip_last - 1`. It
returns their weights, float32 in [0, 1]. Options and their meaning follow the
public code of arXiv 2505.08727; where a shape has a centre, ours is the middle
of the layers that take part (the reference's lies half a layer further out, so
its weights are not symmetric).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def _all_middle(step, index_A):
  del step
  return jnp.ones(index_A.shape, jnp.float32)


def _rotate(step, index_A):
  return (index_A == step % index_A.size).astype(jnp.float32)


def _progressive(step, index_A):
  """Grows from the centre by one layer on each side, then restarts."""
  radius = step % (index_A.size // 2 + 1)
  distance_A = jnp.abs(index_A - index_A.size // 2)
  return (distance_A <= radius).astype(jnp.float32)


def _squared_distance(index_A):
  """Returns 0 at the centre of the layers, 1 at both ends."""
  half = max((index_A.size - 1) / 2, 0.5)
  return ((index_A - (index_A.size - 1) / 2) / half) ** 2


def _weighted_valley(step, index_A):
  """Weighs the middle most, which carves a valley of entropy there."""
  del step
  return (1.0 - 0.7 * _squared_distance(index_A)).astype(jnp.float32)


def _weighted_mountain(step, index_A):
  del step
  return (0.3 + 0.7 * _squared_distance(index_A)).astype(jnp.float32)


def _alternating(step, index_A):
  return (index_A % 2 == step % 2).astype(jnp.float32)


def _block(step, index_A):
  """Takes three groups of neighbours in turn; the last has the rest."""
  size = max(index_A.size // 3, 1)
  block_A = jnp.minimum(index_A // size, 2)
  return (block_A == step % 3).astype(jnp.float32)


def _slope(step, index_A):
  """Falls from 1.0 at the first layer that takes part to 0.1 at the last."""
  del step
  return (1.0 - 0.9 * index_A / max(index_A.size - 1, 1)).astype(jnp.float32)


SCHEDULES: dict[str, Callable[..., jax.Array]] = {
    schedule.__name__.removeprefix('_'): schedule
    for schedule in (
        _all_middle, _rotate, _progressive, _weighted_valley,
        _weighted_mountain, _alternating, _block, _slope,
    )
}


def check_schedule(
    name: str, num_layers: int, skip_first: int, skip_last: int
) -> int:
  """Returns how many layers take part; touches no device.

  Raises:
    ValueError: If the name is unknown or too few layers are left.
  """
  if name not in SCHEDULES:
    raise ValueError(
        f'layer schedule must be one of {sorted(SCHEDULES)}, got {name!r}.'
    )
  active = num_layers - skip_first - skip_last
  needed = 3 if name == 'block' else 1
  if skip_first < 0 or skip_last < 0 or active < needed:
    raise ValueError(
        'skip_first and skip_last must be >= 0 and leave at least'
        f' {needed} of the {num_layers} layers to layer schedule {name!r},'
        f' got {skip_first=}, {skip_last=}.'
    )
  return active


def layer_weights(
    name: str,
    step: jax.typing.ArrayLike,
    *,
    num_layers: int,
    skip_first: int = 1,
    skip_last: int = 1,
) -> jax.Array:
  """Returns the weight of every layer's entropy at a step, float32 [N].

  Args:
    name: One of `SCHEDULES`.
    step: Integer scalar >= 0, may be traced; the number of the update.

  Raises:
    ValueError: If the name is unknown or no layer is left.

  Example:
    >>> layer_weights('rotate', 4, num_layers=5).tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0]

  References:
    arXiv 2505.08727 and its public code (layer masks).
  """
  active = check_schedule(name, num_layers, skip_first, skip_last)
  weights_A = SCHEDULES[name](jnp.asarray(step, jnp.int32), jnp.arange(active))
  return jnp.pad(weights_A, (skip_first, skip_last))
