"""What every model family returns from `apply`."""

from typing import NamedTuple

import jax


class Outputs(NamedTuple):
  """Result of `apply`.

  Attributes:
    logits_BxLxV: float32 [B, L, V].
    hidden: [N, B, L, D] in the compute dtype, the residual stream after each
      block; None unless `collect='hidden'`.
    entropy: float32 [N], nats, the matrix-based entropy of the residual stream
      after each block; None unless `collect='entropy'`.
  """

  logits_BxLxV: jax.Array
  hidden: jax.Array | None = None
  entropy: jax.Array | None = None
