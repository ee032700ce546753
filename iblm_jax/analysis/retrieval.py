"""Retrieval with embeddings: contrastive loss, and queries cut from texts."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax.information import checks


class RetrievalSums(NamedTuple):
  """Sums over the counted queries, to be added up and divided at the end."""

  nll: jax.Array  # float32 scalar, nats, summed over counted queries
  correct: jax.Array  # float32 scalar, queries whose positive ranks first
  queries: jax.Array  # float32 scalar, number of counted queries


def infonce(
    query_QxD: jax.Array,
    key_KxD: jax.Array,
    positive_Q: jax.Array,
    *,
    temperature: float = 0.02,
    mask_K: jax.Array | None = None,
) -> RetrievalSums:
  """Finds the key of each query among all keys by cosine similarity.

  With s_k the cosine of query and key k, and s_+ that of the query and its own
  key, nll = -log(exp(s_+ / τ) / Σ_k exp(s_k / τ)). The sum is over all counted
  keys. By chance the nll is ln K nats, and 1 of K queries is correct. All is
  computed in float32.

  Args:
    query_QxD: Floating [Q, D]. A vector of zeros has cosine 0 with any other.
    key_KxD: Floating [K, D].
    positive_Q: Int [Q], the index of each query's key.
    temperature: τ > 0; static.
    mask_K: Bool [K], True for keys that count; None for all. Queries whose key
      is masked out, or whose index is not in [0, K), are not counted.

  Returns:
    `RetrievalSums`, which are zeros without a counted query. Of keys with equal
    cosines the first ranks first. The gradient at zero vectors is 0.

  Raises:
    ValueError: The temperature is out of its range, or a shape or dtype differs
      from those above.

  Example:
    >>> sums = infonce(jnp.eye(3), 2 * jnp.eye(3), jnp.arange(3))
    >>> float(sums.correct), float(sums.queries), float(sums.nll) < 1e-6
    (3.0, 3.0, True)

  References:
    arXiv 2602.13466, whose public code keeps the keys of a batch and uses one
    query at a time (chance 1 / (B - 1)); van den Oord et al., arXiv 1807.03748.
  """
  if not (temperature > 0 and math.isfinite(temperature)):
    raise ValueError(
        f'temperature must be a number > 0, got {temperature!r}.'
    )
  if mask_K is None:
    mask_K = jnp.ones(key_KxD.shape[:1], bool)
  _check(query_QxD, key_KxD, positive_Q, mask_K)
  mask_K = mask_K.astype(bool)
  # A NaN that is masked out later would still reach the gradient.
  key_KxD = jnp.where(mask_K[:, None], key_KxD, 0.0)
  cosine_QxK = jnp.einsum(
      'qd,kd->qk',
      unit_vectors(query_QxD),
      unit_vectors(key_KxD),
      precision='highest',
  )
  # Where no key counts, -inf would make a NaN on the way to the gradient.
  score_QxK = jnp.where(
      mask_K[None, :], cosine_QxK / temperature, jnp.finfo(jnp.float32).min
  )
  key_K = jnp.arange(key_KxD.shape[0])
  hit_QxK = (positive_Q[:, None] == key_K[None, :]) & mask_K[None, :]
  counted_Q = jnp.any(hit_QxK, axis=-1)
  score_Q = jnp.sum(jnp.where(hit_QxK, score_QxK, 0.0), axis=-1)
  nll_Q = jax.nn.logsumexp(score_QxK, axis=-1) - score_Q
  correct_Q = counted_Q & (jnp.argmax(score_QxK, axis=-1) == positive_Q)
  return RetrievalSums(
      nll=jnp.sum(jnp.where(counted_Q, nll_Q, 0.0)),
      correct=jnp.sum(correct_Q, dtype=jnp.float32),
      queries=jnp.sum(counted_Q, dtype=jnp.float32),
  )


def draw_queries(
    key: jax.Array,
    tokens_BxL: jax.Array,
    mask_BxL: jax.Array,
    *,
    width: int = 7,
    bag: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Cuts a random query out of each row.

  The query depends on the valid tokens of a row and their order, and not on the
  positions of its padding.

  Args:
    tokens_BxL: Int [B, L].
    mask_BxL: Bool [B, L], True for valid tokens, in any pattern.
    width: Number of tokens of a query, at least 1; static.
    bag: Whether to draw `width` valid tokens with replacement, instead of an
      n-gram of that many; static.

  Returns:
    Tokens [B, width], of the dtype of `tokens_BxL`, and their mask, bool
    [B, width]. An n-gram begins at each position where it fits with equal
    probability. A row with fewer valid tokens gives all of them, followed by
    zeros with mask False. A bag is full unless its row is empty.

  Raises:
    ValueError: The width is below 1, or the arrays do not have one shape [B, L]
      with L >= 1.

  Example:
    >>> tokens_BxL = jnp.array([[0, 5, 6, 0, 7]])
    >>> query, mask = draw_queries(
    ...     jax.random.key(0), tokens_BxL, tokens_BxL > 0, width=4)
    >>> print(query, mask)
    [[5 6 7 0]] [[ True  True  True False]]

  References:
    arXiv 2602.13466 (width 7).
  """
  if width < 1:
    raise ValueError(f'width must be at least 1, got {width!r}.')
  shape = tokens_BxL.shape
  if len(shape) != 2 or shape[1] < 1 or mask_BxL.shape != shape:
    raise ValueError(
        'tokens_BxL and mask_BxL must have one shape [B, L] with L >= 1, got'
        f' {shape} and {mask_BxL.shape}.'
    )
  seen_BxL = jnp.cumsum(mask_BxL.astype(jnp.int32), axis=-1)
  count_Bx1 = seen_BxL[:, -1:]
  if bag:
    rank_BxW = jax.random.randint(
        key, (shape[0], width), 0, jnp.maximum(count_Bx1, 1)
    )
  else:
    places_Bx1 = jnp.maximum(count_Bx1 - width, 0) + 1
    start_Bx1 = jax.random.randint(key, (shape[0], 1), 0, places_Bx1)
    rank_BxW = start_Bx1 + jnp.arange(width)[None, :]
  valid_BxW = rank_BxW < count_Bx1
  # The valid token number r is the first one that r + 1 are seen up to.
  index_BxW = jax.vmap(jnp.searchsorted)(seen_BxL, rank_BxW + 1)
  index_BxW = jnp.minimum(index_BxW, shape[1] - 1)
  query_BxW = jnp.take_along_axis(tokens_BxL, index_BxW, axis=1)
  return jnp.where(valid_BxW, query_BxW, 0), valid_BxW


def unit_vectors(x_NxD: jax.Array) -> jax.Array:
  """Scales vectors to length 1; zeros stay zeros.

  Args:
    x_NxD: Floating [..., D] of any scale; squares neither overflow nor vanish.

  Returns:
    float32 [..., D], with gradient 0 at zeros.

  Example:
    >>> print(unit_vectors(jnp.array([[3e-30, 4e-30], [0.0, 0.0]])))
    [[0.6 0.8]
     [0.  0. ]]
  """
  x_NxD = x_NxD.astype(jnp.float32)
  # The direction does not depend on the scale, so neither does its gradient.
  scale_Nx1 = jax.lax.stop_gradient(
      jnp.max(jnp.abs(x_NxD), axis=-1, keepdims=True)
  )
  zero_Nx1 = scale_Nx1 == 0
  x_NxD = x_NxD / jnp.where(zero_Nx1, 1.0, scale_Nx1)
  square_Nx1 = jnp.sum(x_NxD**2, axis=-1, keepdims=True)
  length_Nx1 = jnp.sqrt(jnp.where(zero_Nx1, 1.0, square_Nx1))
  return jnp.where(zero_Nx1, 0.0, x_NxD / length_Nx1)


def _check(query_QxD, key_KxD, positive_Q, mask_K):
  checks.one_width(query_QxD=query_QxD, key_KxD=key_KxD)
  checks.like_rows('positive_Q', positive_Q, query_QxD.shape[:1])
  if not jnp.issubdtype(positive_Q.dtype, jnp.integer):
    raise ValueError(
        f'positive_Q must be integers, got dtype {positive_Q.dtype}.'
    )
  checks.like_rows('mask_K', mask_K, key_KxD.shape[:1])
