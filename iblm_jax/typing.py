"""Types that several packages name: trees, batches, functions of models."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import jax

# A tree of arrays as JAX knows it: nested dicts, tuples, dataclasses.
PyTree: TypeAlias = Any
# Arrays [B, L] of one batch, by name.
Batch: TypeAlias = Mapping[str, jax.Array]


class Outputs(Protocol):
  """What a forward pass returns; the last two only where they are collected."""

  @property
  def logits_BxLxV(self) -> jax.Array:
    """Logits, floating."""

  @property
  def entropy(self) -> jax.Array | None:
    """Entropy of every layer, float32 [N], nats."""

  @property
  def log_norm(self) -> jax.Array | None:
    """Logarithm of the norm of every layer's output, float32 [N]."""


class ApplyFn(Protocol):
  """A model's forward pass as the objectives call it."""

  def __call__(
      self,
      params: PyTree,
      tokens_BxL: jax.Array,
      /,
      *,
      mask: jax.Array,
      segment_ids: jax.Array,
      positions: jax.Array,
      collect: str | None,
  ) -> Outputs:
    """Returns logits and what `collect` names of every layer."""
    ...
