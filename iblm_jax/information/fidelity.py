"""How much of a text an embedding gives back, from a probe's cross-entropies.

A probe is a decoder trained to emit all tokens of a text from one vector. These
functions take its cross-entropies in nats per counted token. Float32
throughout.
"""

import math

import jax
import jax.numpy as jnp

from iblm_jax.information import checks


def information_fraction(
    cross_entropy: jax.typing.ArrayLike, vocab_size: int
) -> jax.Array:
  """Returns the share of the tokens' largest entropy that a probe recovers.

  1 - CE / ln V. The paper (arXiv 2602.13466) divides by 9.03 nats at V = 8000,
  the cross-entropy of logits drawn uniformly from [0, 1), ln(V (e - 1)) - 1/2.
  ln V is that of a predictor that knows nothing, and needs no such choice; its
  fractions are smaller by 0.005 CE / ln V there.

  A vector that says nothing does not score 0, since the frequencies of tokens
  cost nothing to know: untrained encoders reach 0.26 to 0.34 in the paper. Use
  `recovered_bits` beside it.

  Args:
    cross_entropy: CE, nats per token, any shape.
    vocab_size: V, at least 2; static.

  Returns:
    float32 of the same shape: 1 for a perfect probe, 0 for the uniform
    prediction, negative for a worse one.

  Raises:
    ValueError: If the vocabulary has fewer than 2 tokens.

  Example:
    >>> print(f'{information_fraction(0.435, 8000):.3f}')
    0.952
  """
  checks.at_least(2, vocab_size=vocab_size)
  return 1 - _nats(cross_entropy) / math.log(vocab_size)


def recovered_bits(
    ce_constant: jax.typing.ArrayLike,
    ce: jax.typing.ArrayLike,
    num_tokens: float,
) -> jax.Array:
  """Returns the bits of a text that a probe reads from its embedding.

  L (CE_constant - CE) / ln 2. The control is the same probe, trained alike on
  a vector that is the same for every text: what it predicts, the embedding
  need not hold.

  If the control has converged, this is at most the sum over tokens of the
  information that the embedding holds of each. What two tokens share counts
  twice, so it can exceed the information that it holds of the text.

  Args:
    ce_constant: CE_constant, nats per token, any shape.
    ce: CE with the embedding, nats per token; shapes broadcast.
    num_tokens: L, counted tokens per embedding, at least 1, a mean where texts
      differ in length; static.

  Returns:
    float32, bits per embedding; negative where the probe does worse than its
    control.

  Raises:
    ValueError: If there is fewer than 1 token.

  Example:
    >>> print(f'{recovered_bits(math.log(4), math.log(2), 16):.3f}')
    16.000
  """
  checks.at_least(1, num_tokens=num_tokens)
  return num_tokens * (_nats(ce_constant) - _nats(ce)) / math.log(2)


def recovered_fraction(
    ce_constant: jax.typing.ArrayLike, ce: jax.typing.ArrayLike
) -> jax.Array:
  """Returns (CE_constant - CE) / CE_constant: what the embedding settles.

  Args:
    ce_constant: nats per token, of the control of `recovered_bits`; any shape.
    ce: nats per token, with the embedding; shapes broadcast.

  Returns:
    float32: 1 for a perfect probe, 0 for one no better than its control,
    negative for a worse one. NaN where both are 0: nothing was left open.

  Example:
    >>> print(recovered_fraction(4.0, 1.0))
    0.75
  """
  ce_constant = _nats(ce_constant)
  return (ce_constant - _nats(ce)) / ce_constant


def bits_per_byte(
    cross_entropy: jax.typing.ArrayLike, bytes_per_token: float
) -> jax.Array:
  """Returns CE / (ln 2 · bytes per token), comparable between tokenizers.

  Args:
    cross_entropy: CE, nats per token, any shape.
    bytes_per_token: Mean over the same tokens, > 0; static.

  Returns:
    float32 of the same shape, bits per byte.

  Raises:
    ValueError: If bytes_per_token is not above 0.

  Example:
    >>> print(f'{bits_per_byte(math.log(16), 4.0):.3f}')
    1.000
  """
  _check_bytes_per_token(bytes_per_token)
  return _nats(cross_entropy) / (math.log(2) * bytes_per_token)


def storage_bits_per_byte(
    num_numbers: float,
    bits_per_number: float,
    num_tokens: float,
    bytes_per_token: float,
) -> float:
  """Returns the bits that an embedding costs per byte of its text.

  It adds to the `bits_per_byte` of a decoder that reads the embedding; times
  ln 2 · bytes per token, it adds to the cross-entropy in nats per token.
  (arXiv 2602.13466.)

  Args:
    num_numbers: Numbers in the embedding, >= 0.
    bits_per_number: Bits of each as stored, >= 0.
    num_tokens: Tokens per embedding, at least 1.
    bytes_per_token: Mean over the text, > 0.

  Raises:
    ValueError: If an argument is out of its range.

  Example:
    >>> storage_bits_per_byte(64, 16, num_tokens=1024, bytes_per_token=4.0)
    0.25
  """
  checks.at_least(
      0, num_numbers=num_numbers, bits_per_number=bits_per_number
  )
  checks.at_least(1, num_tokens=num_tokens)
  _check_bytes_per_token(bytes_per_token)
  return num_numbers * bits_per_number / (num_tokens * bytes_per_token)


def _nats(value):
  return jnp.asarray(value, jnp.float32)


def _check_bytes_per_token(bytes_per_token):
  if not bytes_per_token > 0:  # refuses NaN as well
    raise ValueError(f'bytes_per_token must be > 0, got {bytes_per_token!r}.')
