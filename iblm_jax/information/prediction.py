"""How sure next-token distributions are, and how right."""

import jax
import jax.numpy as jnp

from iblm_jax.information import checks


def prediction_entropy(
    logits: jax.Array, *, base: float | None = None
) -> jax.Array:
  """Computes the Shannon entropy of the distributions that logits give.

  Args:
    logits: [..., V] floating.
    base: Base of the logarithm; None for nats, 2 for bits.

  Returns:
    [...] float32 in [0, log V].

  Raises:
    ValueError: If `logits` are not floating, or `base` is out of range.

  Example:
    >>> print(f'{prediction_entropy(jnp.zeros([16]), base=2):.3f}')
    4.000
  """
  checks.floating('logits', logits)
  nats = checks.nats_per_unit(base)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  # A logit of -inf has probability 0 and adds nothing.
  terms = jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * log_p, 0.0)
  terms = jnp.where(jnp.isnan(log_p), jnp.nan, terms)
  return jnp.maximum(-jnp.sum(terms, axis=-1), 0.0) / nats


def perplexity(cross_entropy: jax.typing.ArrayLike) -> jax.Array:
  """Returns exp(CE), the perplexity of a cross-entropy in nats per token.

  It depends on the tokenizer; `bits_per_byte` does not.

  Example:
    >>> print(perplexity(0.0))
    1.0
  """
  return jnp.exp(jnp.asarray(cross_entropy, jnp.float32))
