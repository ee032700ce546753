"""Continues prompts of many lengths in batches of few shapes.

No row is filled up: a batch begins with as many tokens as its shortest prompt
has and goes on token by token, where each row reads its own prompt until that
ends. So positions and attention are those of a row alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from iblm_jax.data import buckets as buckets_lib
from iblm_jax.models import decoder, families
from iblm_jax.models.generation import decoding, full_forward, kv_cache

_MOST_SHAPES = 4
_MULTIPLE = 64  # Rows have so many tokens of room, times a whole number.
_PIECE = 16  # Tokens between two looks at whether all rows have ended.


class _State(NamedTuple):
  """What is carried from token to token."""

  cache: kv_cache.Cache | None  # None where rows are read again
  logits_BxV: jax.Array  # float32, of slot `count`
  tokens_BxS: jax.Array  # int32, prompts and what follows them
  count: jax.Array  # int32 scalar, tokens that have been read


def continuations(
    params: Any,
    prompts: Sequence[Sequence[int]],
    cfg: families.ModelConfig,
    *,
    num_tokens: int,
    has_ended: Callable[[int, list[int]], bool] = lambda number, ids: False,
    max_tokens: int = 4096,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    allowed_V: npt.ArrayLike | None = None,
) -> list[list[int]]:
  """Continues every prompt by up to `num_tokens` tokens.

  Args:
    params: Of the model.
    prompts: Ids of each prompt, at least one.
    cfg: The model. Decoders with attention keep keys and values; others read
      the row again for every token.
    num_tokens: Most tokens to add, >= 1.
    has_ended: `(number of the prompt, its ids so far) -> bool`; asked every few
      tokens, so that more may have been added behind an end.
    max_tokens: Most tokens of a batch, prompts and continuations.
    temperature: >= 0; 0 takes the arg max.
    top_k: Samples among the k most likely tokens only; None for all.
    seed: Of the sampling.
    allowed_V: bool [V], tokens that may be added; None for all.

  Returns:
    The ids that were added, for each prompt.

  Raises:
    ValueError: The model cannot generate, or a prompt is empty or leaves no
      room for so many tokens.

  Example:
    >>> from iblm_jax import models
    >>> cfg = models.DecoderConfig(8, num_layers=1, width=8, num_heads=1)
    >>> params = models.init(jax.random.key(0), cfg)
    >>> added = continuations(params, [[1, 2, 3], [4]], cfg, num_tokens=2)
    >>> [len(ids) for ids in added]
    [2, 2]
  """
  for prompt in prompts:
    full_forward.check_sampling(
        cfg, len(prompt), num_tokens, temperature=temperature, top_k=top_k
    )
  if not prompts:
    return []
  order = np.argsort([len(prompt) for prompt in prompts], kind='stable')
  length_N = np.array([len(prompts[n]) for n in order])
  total_N = length_N + num_tokens
  batches = buckets_lib.buckets(
      total_N,
      max(max_tokens, int(total_N[-1]) + _MULTIPLE),
      max_shapes=_MOST_SHAPES,
      multiple=_MULTIPLE,
  )
  starts = _rounded_down(
      [length_N[b.rows[b.rows >= 0]].min() for b in batches]
  )
  if allowed_V is None:
    allowed_V = np.ones(cfg.vocab_size, bool)
  advance = functools.partial(
      _advance, allowed_V=jnp.asarray(allowed_V), cfg=cfg, steps=_PIECE,
      temperature=temperature, top_k=top_k,
  )
  added: list[list[int]] = [[] for _ in prompts]
  for k, (batch, start) in enumerate(zip(batches, starts, strict=True)):
    numbers = [int(order[row]) for row in batch.rows if row >= 0]
    size, tokens_BxS = _laid_out(prompts, numbers, batch, cfg)
    length_B = np.full(len(batch.rows), size)
    length_B[: len(numbers)] = [len(prompts[n]) for n in numbers]
    state = _begin(params, jnp.asarray(tokens_BxS), cfg, start)
    rng = jax.random.fold_in(jax.random.key(seed), k)
    count, open_rows = start, set(range(len(numbers)))
    while open_rows:
      state = advance(params, *state, jnp.asarray(length_B), rng)
      count = min(count + _PIECE, size)
      tokens_BxS = np.asarray(state.tokens_BxS)
      for row in sorted(open_rows):
        number, first = numbers[row], length_B[row]
        found = tokens_BxS[row, first : min(count, first + num_tokens)].tolist()
        if len(found) == num_tokens or has_ended(number, found):
          added[number] = found
          open_rows.remove(row)
  return added


def _rounded_down(lengths: Sequence[int]) -> list[int]:
  """Gives each batch a start of at most its shortest prompt; few differ."""
  # What is read beyond a start is as what is filled up in a bucket.
  above = max(lengths) + 1
  missing = [above - length for length in lengths]
  ends = buckets_lib.bucket_lengths(missing, max_shapes=_MOST_SHAPES)
  return [above - int(ends[np.searchsorted(ends, m)]) for m in missing]


def _laid_out(prompts, numbers, batch, cfg) -> tuple[int, np.ndarray]:
  """The prompts at the beginnings of rows; a row without one is zeros."""
  known = families.lengths(cfg)
  size = known.fixed or min(batch.length, known.longest or batch.length)
  tokens_BxS = np.zeros([len(batch.rows), size], np.int32)
  for row, number in enumerate(numbers):
    tokens_BxS[row, : len(prompts[number])] = prompts[number]
  return size, tokens_BxS


def _has_cache(cfg: families.ModelConfig) -> bool:
  return isinstance(cfg, decoder.DecoderConfig) and cfg.mixer is None


@functools.partial(jax.jit, static_argnums=(2, 3))
def _begin(params, tokens_BxS, cfg, start) -> _State:
  """Reads the first `start` tokens of every row."""
  count = jnp.int32(start)
  if not _has_cache(cfg):
    logits_BxV = full_forward.next_logits(params, tokens_BxS, count, cfg)
    return _State(None, logits_BxV, tokens_BxS, count)
  logits_BxV, cache = decoding.prefill(
      params, tokens_BxS[:, :start], cfg, tokens_BxS.shape[1]
  )
  return _State(cache, logits_BxV, tokens_BxS, count)


@functools.partial(
    jax.jit,
    static_argnames=('cfg', 'steps', 'temperature', 'top_k'),
    donate_argnames='cache',  # not what the host has a view of
)
def _advance(
    params, cache, logits_BxV, tokens_BxS, count, length_B, rng,
    *, allowed_V, cfg, steps, temperature, top_k,
) -> _State:
  """Reads the next tokens: of the prompt, or those that are picked."""
  has_cache = _has_cache(cfg)
  read = kv_cache.layers_apart(params) if has_cache else params

  def one(_, state):
    cache, logits_BxV, tokens_BxS, count = state
    picked_B = decoding.pick(
        logits_BxV,
        jax.random.fold_in(rng, count),
        temperature=temperature,
        top_k=top_k,
        allowed_V=allowed_V,
    )
    given_B = jax.lax.dynamic_index_in_dim(
        tokens_BxS, count, axis=1, keepdims=False
    )
    token_B = jnp.where(count < length_B, given_B, picked_B)
    tokens_BxS = jax.lax.dynamic_update_index_in_dim(
        tokens_BxS, token_B, count, axis=1
    )
    if has_cache:
      logits_Bx1xV, cache = decoding.extend(read, token_B[:, None], cache, cfg)
      logits_BxV = logits_Bx1xV[:, 0]
    else:
      logits_BxV = full_forward.next_logits(read, tokens_BxS, count + 1, cfg)
    return _State(cache, logits_BxV, tokens_BxS, count + 1)

  room = tokens_BxS.shape[1] - count
  start = _State(cache, logits_BxV, tokens_BxS, count)
  return jax.lax.fori_loop(0, jnp.minimum(steps, room), one, start)
