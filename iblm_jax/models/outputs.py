"""What every model family returns from `apply`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.information import entropy

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


def measure(
    x_BxLxD: jax.Array,
    collect: str | None,
    cfg: entropy.EntropyConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> Collected:
  """Keeps what was asked for of the states of one layer.

  Args:
    x_BxLxD: States after the layer.
    collect: One of `COLLECT`.
    cfg: How the entropy is measured.
    mask: bool [B, L], the valid tokens; others are left out of the entropy.
    segment_ids: int [B, L]; windows of the entropy stay within a segment.

  Raises:
    ValueError: `collect` is unknown.
  """
  check_collect(collect)
  if collect is None:
    return Collected()
  if collect == 'hidden':
    return Collected(hidden=x_BxLxD)
  s = entropy.patch_entropy(
      x_BxLxD,
      patch_size=cfg.patch_size,
      alpha=cfg.alpha,
      mask=mask,
      segment_ids=segment_ids,
      center=cfg.center,
      normalize=cfg.normalize,
  )
  if collect == 'entropy':
    return Collected(entropy=s)
  return Collected(entropy=s, log_norm=_log_rms(x_BxLxD, mask))


def of_hidden(
    found: Outputs,
    collect: str | None,
    cfg: entropy.EntropyConfig,
    *,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> Outputs:
  """Makes what was asked for of hidden states that a model always gives.

  Args:
    found: From the `apply` of a family.
    collect: One of `COLLECT`.
    cfg: How the entropy is measured.
    mask: See `measure`.
    segment_ids: See `measure`.

  Returns:
    `found` itself where it holds what was asked for.

  Raises:
    ValueError: `collect` is unknown.
  """
  check_collect(collect)
  if found.hidden is None or collect == 'hidden':
    return found
  kept = Collected()
  if collect is not None:
    kept = jax.lax.map(
        lambda x_BxLxD: measure(
            x_BxLxD, collect, cfg, mask=mask, segment_ids=segment_ids
        ),
        found.hidden,
    )
  return Outputs(found.logits_BxLxV, *kept)


def check(
    found: Any,
    collect: str | None,
    tokens_BxL: jax.Array,
    vocab_size: int,
    num_layers: int,
    name: str,
) -> None:
  """Makes sure that a family's `apply` returned what it was asked for.

  Raises:
    ValueError: It returned another type or other shapes, or no states of layers
      whose entropy is asked for. The message begins with `name`.
  """
  if not isinstance(found, Outputs):
    raise ValueError(
        f'{name} must return models.Outputs, got {type(found).__name__}.'
    )
  wanted = (*tokens_BxL.shape, vocab_size)
  logits = found.logits_BxLxV
  if logits.shape != wanted or not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(
        f'{name} must return floating logits of shape [B, L, V] = {wanted}, got'
        f' {logits.dtype} of shape {logits.shape}.'
    )
  if not num_layers or collect is None or found.entropy is not None:
    return
  # Stacks inside a model may have other lengths than the row.
  shape = None if found.hidden is None else jnp.shape(found.hidden)
  if shape is None or len(shape) != 4 or shape[0] != num_layers:
    raise ValueError(
        f'{name} must return the states of its num_layers={num_layers} layers,'
        f' hidden of shape [N, B, L, D], where they are asked for, got {shape}.'
        ' A config without num_layers has none to measure.'
    )


def check_collect(collect: str | None) -> None:
  """Raises ValueError for what no model can collect."""
  if collect not in COLLECT:
    raise ValueError(f'collect must be one of {COLLECT}, got {collect!r}.')


def _log_rms(x_BxLxD, mask):
  """The log of the root mean square entry of the valid tokens."""
  x_BxLxD = x_BxLxD.astype(jnp.float32)
  count = x_BxLxD.size
  if mask is not None:
    x_BxLxD = jnp.where(mask[..., None], x_BxLxD, 0.0)
    count = x_BxLxD.shape[-1] * jnp.maximum(jnp.sum(mask), 1)
  square = jnp.sum(x_BxLxD * x_BxLxD) / count
  return 0.5 * jnp.log(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))
