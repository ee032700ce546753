"""From the entropy of each layer to one scalar, and the floor under it.

A reduction is a pure function `(entropy_N, weights_N) -> scalar`. Layers with
weight zero are ignored. Selections (which layer, which pair) are piecewise
constant, so their gradient reaches only the entropies that were selected.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def _mean(entropy_N, weights_N):
  """Averages the active layers (the reference's `naive`)."""
  total = jnp.sum(weights_N)
  return jnp.sum(weights_N * entropy_N) / jnp.maximum(total, 1e-30)


def _max(entropy_N, weights_N):
  return entropy_N[jnp.argmax(jnp.where(weights_N > 0, entropy_N, -jnp.inf))]


def _min(entropy_N, weights_N):
  return entropy_N[jnp.argmin(jnp.where(weights_N > 0, entropy_N, jnp.inf))]


def _rises(entropy_N, weights_N):
  """Returns what each layer adds to the one before, and which pairs count."""
  pair_P = (weights_N[1:] > 0) & (weights_N[:-1] > 0)
  return entropy_N[1:] - entropy_N[:-1], pair_P


def _spike(entropy_N, weights_N):
  """Takes the layer after the largest drop between neighbours."""
  rise_P, pair_P = _rises(entropy_N, weights_N)
  return entropy_N[1 + jnp.argmax(jnp.where(pair_P, -rise_P, -jnp.inf))]


def _decay(entropy_N, weights_N):
  """Takes the layer after the largest rise between neighbours."""
  rise_P, pair_P = _rises(entropy_N, weights_N)
  return entropy_N[1 + jnp.argmax(jnp.where(pair_P, rise_P, -jnp.inf))]


def _bottleneck(entropy_N, weights_N, *, k=2):
  """Averages the (up to) k layers that follow the largest drops."""
  rise_P, pair_P = _rises(entropy_N, weights_N)
  drop_P = jnp.where(pair_P, -jax.lax.stop_gradient(rise_P), -jnp.inf)
  drop_K, index_K = jax.lax.top_k(drop_P, min(k, drop_P.size))
  chosen_K = jnp.isfinite(drop_K)
  kept_K = jnp.where(chosen_K, entropy_N[1 + index_K], 0.0)
  return jnp.sum(kept_K) / jnp.maximum(jnp.sum(chosen_K), 1)


def _decrease(entropy_N, weights_N):
  """Averages the positive rises: 0 where entropy never rises."""
  rise_P, pair_P = _rises(entropy_N, weights_N)
  rising_P = pair_P & (rise_P > 0)
  total = jnp.sum(jnp.where(rising_P, rise_P, 0.0))
  return total / jnp.maximum(jnp.sum(rising_P), 1)


def _valley(entropy_N, weights_N):
  """Averages local minima among active layers; ends have one neighbour."""
  high_N = jnp.where(weights_N > 0, jax.lax.stop_gradient(entropy_N), jnp.inf)
  before_N = jnp.concatenate([jnp.full([1], jnp.inf), high_N[:-1]])
  after_N = jnp.concatenate([high_N[1:], jnp.full([1], jnp.inf)])
  low_N = (weights_N > 0) & (high_N <= before_N) & (high_N <= after_N)
  total = jnp.sum(jnp.where(low_N, entropy_N, 0.0))
  return total / jnp.maximum(jnp.sum(low_N), 1)


REDUCTIONS: dict[str, Callable[..., jax.Array]] = {
    reduction.__name__.removeprefix('_'): reduction
    for reduction in (
        _mean, _max, _min, _spike, _decay, _bottleneck, _decrease, _valley
    )
}

# These compare neighbouring layers, so one active layer at a time is useless.
PAIRWISE = frozenset({'spike', 'decay', 'bottleneck', 'decrease', 'valley'})


def reduce_entropy(
    name: str, entropy_N: jax.Array, weights_N: jax.Array
) -> jax.Array:
  """Reduces per-layer entropies to the auxiliary loss A of the gate.

  Args:
    name: One of `REDUCTIONS` ('mean' is what the public code calls naive).
    entropy_N: float32, nats.
    weights_N: float32, >= 0, from `layer_weights`.

  Returns:
    float32 scalar, nats. Without an active pair, the reductions that compare
    neighbours return the entropy of some layer or 0; the config refuses such
    combinations.

  Raises:
    ValueError: If the name is unknown or the shapes differ.

  Example:
    >>> entropy_N = jnp.array([2.0, 1.0, 3.0, 2.5])
    >>> float(reduce_entropy('spike', entropy_N, jnp.ones(4)))
    1.0

  References:
    arXiv 2505.08727 and its public code.
  """
  if name not in REDUCTIONS:
    raise ValueError(
        f'reduction must be one of {sorted(REDUCTIONS)}, got {name!r}.'
    )
  if entropy_N.ndim != 1 or entropy_N.shape != weights_N.shape:
    raise ValueError(
        'entropy_N and weights_N must be vectors of the same length, got'
        f' shapes {entropy_N.shape} and {weights_N.shape}.'
    )
  return REDUCTIONS[name](entropy_N, weights_N)


def apply_floor(
    auxiliary: jax.typing.ArrayLike,
    *,
    kind: str,
    at: float = 1e-5,
    sharpness: float = 0.1,
) -> jax.Array:
  """Keeps the weighted auxiliary loss from falling below a floor.

  Args:
    auxiliary: Scalar, lambda * A in nats.
    kind: 'none', 'max' (`max(x, at)`, no gradient below) or 'softplus'
      (`at + s * softplus((x - at) / s)`, a smooth version).
    at: The floor, nats.
    sharpness: s of the softplus, > 0.

  Returns:
    float32 scalar.

  Raises:
    ValueError: If the kind is unknown.

  Example:
    >>> float(apply_floor(-1.0, kind='max', at=0.5))
    0.5
  """
  auxiliary = jnp.asarray(auxiliary, jnp.float32)
  match kind:
    case 'none':
      return auxiliary
    case 'max':
      return jnp.maximum(auxiliary, at)
    case 'softplus':
      return at + sharpness * jax.nn.softplus((auxiliary - at) / sharpness)
    case _:
      raise ValueError(
          f"floor must be 'none', 'max' or 'softplus', got {kind!r}."
      )
