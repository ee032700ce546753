"""Which tokens a memory helps with, and what each token adds to a text.

The functions take logits, or callables in place of models, so that they serve
models of any library.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from iblm_jax.analysis import retrieval
from iblm_jax.information import checks
from iblm_jax.objectives import causal

METRICS = ('l1', 'cosine', 'nll')


def occlusion(
    with_BxLxV: jax.Array,
    without_BxLxV: jax.Array,
    targets_BxL: jax.Array,
    mask_BxL: jax.Array,
    metric: str = 'l1',
) -> jax.Array:
  """Measures how much a memory changes the prediction of every token.

  The model without its memory has zeros in place of the memory, and nothing
  attends to them. Logits are compared as they are: a constant that is added to
  all V of them changes 'l1' and 'cosine', although the prediction stays the
  same. 'nll' depends on the prediction alone.

  Args:
    with_BxLxV: Floating [B, L, V], logits of the model with its memory, without
      the output at the memory's own position.
    without_BxLxV: Floating [B, L, V], logits of the same model without it.
    targets_BxL: int [B, L] in [0, V), the tokens that are predicted. Only 'nll'
      reads them.
    mask_BxL: bool [B, L], True for targets that count.
    metric: 'l1' is the sum over V of the absolute differences of the logits.
      'cosine' is 1 minus the cosine of the logits, computed as half the squared
      distance of the unit vectors, which loses no digits where they nearly
      agree. A vector of zeros has distance 0 to another one and 1/2 to any
      other vector. 'nll' is the absolute difference of the negative
      log-likelihoods in nats.

  Returns:
    float32 [B, L] >= 0; 0 where masked out.

  Raises:
    ValueError: The metric is unknown, or the logits have different shapes.

  Example:
    >>> with_BxLxV = jnp.array([[[1.0, 0.0], [2.0, 2.0]]])
    >>> print(occlusion(with_BxLxV, jnp.zeros([1, 2, 2]),
    ...                 jnp.zeros([1, 2], int), jnp.ones([1, 2], bool)))
    [[1. 4.]]

  References:
    arXiv 2602.13466; arXiv 2511.10618.
  """
  if metric not in METRICS:
    raise ValueError(f'metric must be one of {METRICS}, got {metric!r}.')
  if with_BxLxV.shape != without_BxLxV.shape or with_BxLxV.ndim != 3:
    raise ValueError(
        'with_BxLxV and without_BxLxV must have one shape [B, L, V], got'
        f' {with_BxLxV.shape} and {without_BxLxV.shape}.'
    )
  if metric == 'nll':
    score_BxL = jnp.abs(
        causal.token_nll(with_BxLxV, targets_BxL)
        - causal.token_nll(without_BxLxV, targets_BxL)
    )
  elif metric == 'cosine':
    difference_BxLxV = retrieval.unit_vectors(
        with_BxLxV
    ) - retrieval.unit_vectors(without_BxLxV)
    score_BxL = jnp.sum(difference_BxLxV**2, axis=-1) / 2
  else:
    difference_BxLxV = with_BxLxV.astype(jnp.float32) - without_BxLxV.astype(
        jnp.float32
    )
    score_BxL = jnp.sum(jnp.abs(difference_BxLxV), axis=-1)
  return jnp.where(mask_BxL, score_BxL, 0.0)


def scale_scores(score_BxL: jax.Array, mask_BxL: jax.Array) -> jax.Array:
  """Scales the scores of every row to [0, 1], for display.

  The result is (score - min) / (max - min) over the counted tokens of a row.
  One plot of the public code divides by the maximum instead of the range, so
  that its largest score is below 1 if the smallest is above 0.

  Args:
    score_BxL: Floating [B, L].
    mask_BxL: bool [B, L], True for tokens that count.

  Returns:
    float32 [B, L] in [0, 1]; 0 where masked out, and in rows whose counted
    scores are all the same.

  Raises:
    ValueError: The arrays do not have one shape [B, L].

  Example:
    >>> print(scale_scores(jnp.array([[2.0, 3.0, 4.0, -9.0]]),
    ...                    jnp.array([[True, True, True, False]])))
    [[0.  0.5 1.  0. ]]

  References:
    arXiv 2602.13466.
  """
  _check_rows('score_BxL', score_BxL, mask_BxL)
  score_BxL = score_BxL.astype(jnp.float32)
  low_Bx1, high_Bx1 = (
      reduce(jnp.where(mask_BxL, score_BxL, fill), axis=-1, keepdims=True)
      for reduce, fill in ((jnp.min, jnp.inf), (jnp.max, -jnp.inf))
  )
  range_Bx1 = high_Bx1 - low_Bx1
  flat_Bx1 = range_Bx1 <= 0  # `range > 0` would hide NaN; -inf: none counts.
  scaled_BxL = (score_BxL - low_Bx1) / jnp.where(flat_Bx1, 1.0, range_Bx1)
  return jnp.where(mask_BxL & ~flat_Bx1, scaled_BxL, 0.0)


def shift_entropy(
    nll_of: Callable[[jax.Array, jax.Array], jax.Array],
    tokens_BxL: jax.Array,
    mask_BxL: jax.Array,
    *,
    pad_id: int = 0,
) -> jax.Array:
  """Measures what each token adds to the code length of the text up to it.

  Let S_k be the summed nll of a row that is moved k positions to the right, so
  that its last k tokens are dropped and k positions of padding are added at the
  left. The token at position p (from 0) is the last one of S_k for
  k = L - 1 - p, and is dropped in the next sum. Its score is

      H_p = S_(L-1-p) - S_(L-p),    S_k = 0 where no valid token is left.

  So the scores of a row that is padded at the left or not at all add up to S_0.
  For a causal model that does not read absolute positions, H_p is the nll of
  that token. A model that sees the whole text in a memory has no such nll. For
  it H_p is how much more the text costs with the token than without, each with
  a new memory, and can be negative.

  It takes L forward passes, one after the other, and the memory of one. The
  public code runs two for each k, and counts padding among the targets.

  Args:
    nll_of: Maps tokens, int [B, L], and their mask, bool [B, L], to the summed
      nll of the valid tokens, floating [B] in nats. It is traced once, under
      `jax.lax.map`.
    tokens_BxL: int [B, L].
    mask_BxL: bool [B, L], True for valid tokens, in any pattern. Rows padded at
      the left and at the right get the same scores if `nll_of` does not read
      masked tokens.
    pad_id: The token of the padding that is added; its mask is False.

  Returns:
    float32 [B, L], nats; 0 where masked out. They are differences of sums, and
    float32 has steps of 0.001 beyond 8192 nats a row.

  Raises:
    ValueError: The arrays do not have one shape [B, L], or `nll_of` returns
      another shape than [B].

  Example:
    >>> tokens_BxL = jnp.array([[3, 1, 2]])
    >>> nll_of = lambda tokens, mask: jnp.sum(tokens * mask, axis=-1) ** 2.0
    >>> print(shift_entropy(nll_of, tokens_BxL, tokens_BxL > 0))
    [[ 9.  7. 20.]]

  References:
    arXiv 2511.10618 and the public code of arXiv 2602.13466.
  """
  _check_rows('tokens_BxL', tokens_BxL, mask_BxL)
  batch, length = tokens_BxL.shape
  mask_BxL = mask_BxL.astype(bool)
  place_L = jnp.arange(length)

  def total_nll(shift):
    kept_1xL = (place_L >= shift)[None, :]
    moved_BxL = jnp.where(kept_1xL, jnp.roll(tokens_BxL, shift, 1), pad_id)
    valid_BxL = kept_1xL & jnp.roll(mask_BxL, shift, 1)
    nll_B = nll_of(moved_BxL, valid_BxL)
    if nll_B.shape != (batch,):
      raise ValueError(
          f'nll_of must return shape {(batch,)}, got {nll_B.shape}.'
      )
    # Of nothing a model may return anything, NaN included.
    return jnp.where(jnp.any(valid_BxL, axis=-1), nll_B, 0.0).astype(
        jnp.float32
    )

  total_LxB = jax.lax.map(total_nll, place_L)
  next_LxB = jnp.concatenate([total_LxB[1:], jnp.zeros((1, batch))])
  entropy_BxL = (total_LxB - next_LxB)[::-1].T
  return jnp.where(mask_BxL, entropy_BxL, 0.0)


def gradient_times_input(
    nll_of_memory: Callable[[jax.Array], jax.Array], memory_BxD: jax.Array
) -> jax.Array:
  """Estimates to first order how a memory changes the nll of every token.

  The score of token t is Σ_d m_d ∂nll_t / ∂m_d, the derivative of nll_t along
  m. One forward pass with tangents gives it for all tokens, where the public
  code runs a backward pass for each. Removing the memory changes nll_t by about
  minus the score.

  Args:
    nll_of_memory: Maps memories [B, D] to nll [B, L] in nats, each row from its
      own memory alone. It needs forward-mode derivatives by the memory, which
      functions with a `jax.custom_vjp`, such as fused attention, do not have.
    memory_BxD: Floating [B, D]. The sum is also over further axes, such as
      slots.

  Returns:
    float32 [B, L], nats; negative where the memory lowers the nll.

  Raises:
    ValueError: The memories are not floating.

  Example:
    >>> nll_of_memory = lambda m_BxD: m_BxD**2 @ jnp.array([[1.0], [10.0]])
    >>> print(gradient_times_input(nll_of_memory, jnp.array([[3.0, 1.0]])))
    [[38.]]

  References:
    arXiv 2602.13466.
  """
  checks.floating('memory_BxD', memory_BxD)
  _, change_BxL = jax.jvp(nll_of_memory, (memory_BxD,), (memory_BxD,))
  return change_BxL.astype(jnp.float32)


def _check_rows(name, x_BxL, mask_BxL):
  if x_BxL.ndim != 2 or x_BxL.shape[1] < 1 or mask_BxL.shape != x_BxL.shape:
    raise ValueError(
        f'{name} and mask_BxL must have one shape [B, L] with L >= 1, got'
        f' {x_BxL.shape} and {mask_BxL.shape}.'
    )
