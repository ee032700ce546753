"""Next-token cross-entropy as sums and counts, so that means never mislead."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class TokenSums(NamedTuple):
  """Sums over the counted tokens; add them up, divide at the end."""

  nll: jax.Array  # float32 scalar, nats, summed over counted targets
  tokens: jax.Array  # float32 scalar, number of counted targets
  correct: jax.Array  # float32 scalar, targets that are the arg max
  exact: jax.Array  # float32 scalar, rows whose counted targets all are
  rows: jax.Array  # float32 scalar, rows with at least one counted target


def token_nll(logits_BxLxV: jax.Array, targets_BxL: jax.Array) -> jax.Array:
  """Returns the negative log-likelihood of every target.

  Args:
    logits_BxLxV: Floating; computed with in float32.
    targets_BxL: Integer, in [0, V).

  Returns:
    float32 [B, L], nats.

  Example:
    >>> nll_BxL = token_nll(jnp.zeros([1, 1, 2]), jnp.zeros([1, 1], int))
    >>> round(float(nll_BxL[0, 0]), 3)
    0.693
  """
  logits_BxLxV = logits_BxLxV.astype(jnp.float32)
  # A comparison instead of a gather: it fuses, has no scatter in its gradient
  # and needs no collective but a sum when the vocabulary is sharded.
  vocab_V = jnp.arange(logits_BxLxV.shape[-1])
  hit_BxLxV = targets_BxL[..., None] == vocab_V[None, None, :]
  target_BxL = jnp.sum(jnp.where(hit_BxLxV, logits_BxLxV, 0.0), axis=-1)
  return jax.nn.logsumexp(logits_BxLxV, axis=-1) - target_BxL


def token_sums(
    logits_BxLxV: jax.Array, targets_BxL: jax.Array, loss_mask_BxL: jax.Array
) -> TokenSums:
  """Sums cross-entropy, accuracy and exact match over one batch.

  Args:
    logits_BxLxV: Floating.
    targets_BxL: Integer, in [0, V).
    loss_mask_BxL: bool, targets that count.

  Returns:
    `TokenSums`; a batch without counted targets gives zeros.

  Example:
    >>> sums = token_sums(jnp.zeros([1, 2, 4]), jnp.zeros([1, 2], int),
    ...                   jnp.array([[True, False]]))
    >>> float(sums.tokens), round(float(sums.nll), 3)
    (1.0, 1.386)
  """
  mask_BxL = loss_mask_BxL.astype(jnp.float32)
  nll_BxL = token_nll(logits_BxLxV, targets_BxL)
  hit_BxL = jnp.argmax(logits_BxLxV, axis=-1) == targets_BxL
  counted_B = jnp.any(loss_mask_BxL, axis=-1)
  exact_B = counted_B & jnp.all(hit_BxL | ~loss_mask_BxL, axis=-1)
  return TokenSums(
      nll=jnp.sum(jnp.where(loss_mask_BxL, nll_BxL, 0.0)),
      tokens=jnp.sum(mask_BxL),
      correct=jnp.sum(mask_BxL * hit_BxL),
      exact=jnp.sum(exact_B.astype(jnp.float32)),
      rows=jnp.sum(counted_B.astype(jnp.float32)),
  )
