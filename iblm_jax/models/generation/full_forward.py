"""Sampling from any model of next tokens: the whole row again for every token.

It keeps no state between tokens, so a family needs nothing for it but `apply`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from iblm_jax.models import families
from iblm_jax.models.generation import decoding


def check_sampling(
    cfg: families.ModelConfig,
    prompt_length: int,
    num_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
) -> None:
  """Raises ValueError for arguments that `sample` cannot use."""
  families.check_predicts_next(cfg, 'sampling')
  decoding.check_options(
      cfg.vocab_size,
      prompt_length,
      num_tokens,
      temperature=temperature,
      top_k=top_k,
  )
  total, longest = prompt_length + num_tokens, families.lengths(cfg).longest
  if longest is not None and total > longest:
    raise ValueError(
        f'prompt and continuation have {total} tokens, more than the {longest}'
        ' of the longest row that fits the model.'
    )


def sample(
    params: Any,
    prompt_BxT: jax.Array,
    cfg: families.ModelConfig,
    rng: jax.Array,
    *,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    allowed_V: jax.Array | None = None,
) -> jax.Array:
  """Continues prompts as `decoding.sample` does; int32 [B, num_tokens].

  Raises:
    ValueError: See `check_sampling`.
  """
  length = prompt_BxT.shape[1]
  options = dict(temperature=temperature, top_k=top_k)
  check_sampling(cfg, length, num_tokens, **options)
  size = families.lengths(cfg).fixed or length + num_tokens
  room = ((0, 0), (0, size - length))
  tokens_BxS = jnp.pad(prompt_BxT.astype(jnp.int32), room)

  def step(token_B, state):
    tokens_BxS, count = state
    tokens_BxS = jax.lax.dynamic_update_index_in_dim(
        tokens_BxS, token_B, count, axis=1
    )
    count = count + 1
    return next_logits(params, tokens_BxS, count, cfg), (tokens_BxS, count)

  count = jnp.int32(length)
  return decoding.sample_steps(
      step,
      next_logits(params, tokens_BxS, count, cfg),
      (tokens_BxS, count),
      rng,
      num_tokens=num_tokens,
      allowed_V=allowed_V,
      **options,
  )


def next_logits(
    params: Any, tokens_BxS: jax.Array, count: jax.Array,
    cfg: families.ModelConfig,
) -> jax.Array:
  """Computes the logits [B, V] of the token after the first `count`."""
  mask_S = jnp.arange(tokens_BxS.shape[1]) < count
  mask_BxS = jnp.broadcast_to(mask_S, tokens_BxS.shape)
  found = families.apply(params, tokens_BxS, cfg, mask=mask_BxS)
  return jax.lax.dynamic_index_in_dim(
      found.logits_BxLxV, count - 1, axis=1, keepdims=False
  )
