"""What every model family returns from `apply`."""

from typing import NamedTuple

import jax

# What `apply` can be asked to collect from every layer.
COLLECT = (None, 'hidden', 'entropy', 'entropy_and_norm')


class Collected(NamedTuple):
  """What is kept of the residual stream, stacked over layers.

  Attributes:
    hidden: [N, B, L, D] in the compute dtype, the residual stream after each
      block; None unless `collect='hidden'`.
    entropy: float32 [N], nats, its matrix-based entropy; None unless `collect`
      is 'entropy' or 'entropy_and_norm'.
    log_norm: float32 [N], log of its root mean square entry over valid tokens
      (the Frobenius norm up to a constant); None unless
      `collect='entropy_and_norm'`.
  """

  hidden: jax.Array | None = None
  entropy: jax.Array | None = None
  log_norm: jax.Array | None = None


class Outputs(NamedTuple):
  """Result of `apply`.

  Attributes:
    logits_BxLxV: float32 [B, L, V].
    hidden: see `Collected`.
    entropy: see `Collected`.
    log_norm: see `Collected`.
  """

  logits_BxLxV: jax.Array
  hidden: jax.Array | None = None
  entropy: jax.Array | None = None
  log_norm: jax.Array | None = None
