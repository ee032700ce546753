"""Whether embeddings of altered texts say which text they are of.

Each function takes embeddings of n texts, each altered in several ways: views.
They are the measures of invariance to augmentation of arXiv 2502.02013.
"""

import jax
import jax.numpy as jnp

from iblm_jax.analysis import retrieval
from iblm_jax.information import checks, gram, jacobi, spectral, spectrum


def replace_tokens(
    key: jax.Array,
    tokens_BxL: jax.Array,
    mask_BxL: jax.Array,
    *,
    rate: float = 0.1,
) -> jax.Array:
  """Alters rows: some tokens are replaced by others of the same batch.

  It works with any tokenizer, and keeps the frequencies of the tokens. (The
  paper alters the letters of a text, which changes how it is cut into tokens.)

  Args:
    key: A PRNG key.
    tokens_BxL: Int [B, L].
    mask_BxL: Bool [B, L], tokens that are replaced and taken from.
    rate: Probability that a token is replaced, in [0, 1]; static.

  Returns:
    Tokens of the same shape and dtype. Those outside of the mask are the same.

  Raises:
    ValueError: The rate is out of its range.

  Example:
    >>> tokens_BxL = jnp.arange(8)[None]
    >>> mask_BxL = tokens_BxL < 6
    >>> new = replace_tokens(jax.random.key(0), tokens_BxL, mask_BxL, rate=1.0)
    >>> print(new[0, 6:], int(new.max()))
    [6 7] 7
  """
  if not 0 <= rate <= 1:
    raise ValueError(f'rate must lie in [0, 1], got {rate!r}.')
  which, where = jax.random.split(key)
  count = jnp.maximum(jnp.sum(mask_BxL), 1)
  drawn_BxL = jax.random.randint(where, tokens_BxL.shape, 0, count)
  first_N = jnp.argsort(~mask_BxL.reshape(-1), stable=True)
  other_BxL = tokens_BxL.reshape(-1)[first_N][drawn_BxL]
  replaced_BxL = jax.random.uniform(which, tokens_BxL.shape) < rate
  return jnp.where(replaced_BxL & mask_BxL, other_BxL, tokens_BxL)


def view_infonce(
    a_NxD: jax.Array,
    b_NxD: jax.Array,
    *,
    mask_N: jax.Array | None = None,
    temperature: float = 0.1,
) -> jax.Array:
  """Computes how much two views of a text tell of each other, InfoNCE.

  log n - nll, a lower bound of their mutual information; nll is the mean
  cross-entropy of finding a text's other view among those of all n texts by
  cosine similarity, averaged over both directions.

  Args:
    a_NxD: Floating, one view of each text, of any scale.
    b_NxD: Another view of the same texts.
    mask_N: Bool [N], texts that count; None for all.
    temperature: > 0; static.

  Returns:
    Scalar float32, nats, at most log n; 0 without a text.

  Raises:
    ValueError: As of `infonce`.

  Example:
    >>> found = view_infonce(jnp.eye(8), jnp.eye(8))
    >>> print(f'{found:.2f} of {jnp.log(8):.2f}')
    2.08 of 2.08
  """
  index_N = jnp.arange(a_NxD.shape[0])
  options = dict(temperature=temperature, mask_K=mask_N)
  there = retrieval.infonce(a_NxD, b_NxD, index_N, **options)
  back = retrieval.infonce(b_NxD, a_NxD, index_N, **options)
  count = jnp.maximum(there.queries, 1)
  return jnp.log(count) - (there.nll + back.nll) / (2 * count)


def lidar(
    z_NxQxD: jax.Array,
    *,
    mask_N: jax.Array | None = None,
    delta: float = 1e-4,
) -> jax.Array:
  """Computes in how many directions texts differ more than their views, LiDAR.

  The effective rank exp S_1 of Σ_w^-1/2 Σ_b Σ_w^-1/2: Σ_b is the covariance of
  the texts' means, Σ_w that of views about the mean of their text plus δ I.
  The paper's δ is a number; here it is `delta` times the mean variance of a
  coordinate (trace of Σ_b + Σ_w over D), so that no scale matters.

  Args:
    z_NxQxD: Floating, Q >= 2 views of each text, of any scale.
    mask_N: Bool [N], texts that count; None for all.
    delta: > 0; static.

  Returns:
    Scalar float32 in [1, min(n - 1, D)]; 1 where no two texts differ.

  Raises:
    ValueError: A shape, dtype or `delta` does not fit.

  Example:
    >>> z_NxD = jnp.eye(4, 6)
    >>> views_NxQxD = z_NxD[:, None] + 0.01 * jnp.array([[[1.0], [-1.0]]])
    >>> print(f'{lidar(views_NxQxD):.2f}')
    3.00

  References:
    Thilak et al., LiDAR (arXiv 2312.04000).
  """
  ok = z_NxQxD.ndim == 3 and z_NxQxD.shape[1] >= 2 and 0 not in z_NxQxD.shape
  checks.shape('z_NxQxD', z_NxQxD, '[N, Q, D] with Q >= 2', ok)
  checks.floating('z_NxQxD', z_NxQxD)
  checks.like_rows('mask_N', mask_N, z_NxQxD.shape[:1])
  if not delta > 0:
    raise ValueError(f'delta must be a number > 0, got {delta!r}.')
  z_NxQxD = z_NxQxD.astype(jnp.float32)
  if mask_N is None:
    mask_N = jnp.ones(z_NxQxD.shape[:1], bool)
  z_NxQxD = jnp.where(mask_N[:, None, None], z_NxQxD, 0.0)
  z_NxQxD = z_NxQxD * gram.to_unit(z_NxQxD, axis=None)
  count = jnp.maximum(jnp.sum(mask_N, dtype=jnp.float32), 1)
  mean_Nx1xD = jnp.mean(z_NxQxD, axis=1, keepdims=True)
  between_NxD = gram.prepare(
      mean_Nx1xD[:, 0], mask_N, center=True, normalize=False, rescale=False
  ) / jnp.sqrt(count)
  within_MxD = (z_NxQxD - mean_Nx1xD).reshape(-1, z_NxQxD.shape[-1])
  within_MxD = within_MxD / jnp.sqrt(count * z_NxQxD.shape[1])
  within_DxD = jnp.einsum(
      'md,me->de', within_MxD, within_MxD, precision='highest'
  )
  spread = jnp.sum(between_NxD**2) + gram.trace(within_DxD)
  spread = jnp.where(spread == 0, 1.0, spread)
  values_D, vectors_DxD = jacobi.eigh(within_DxD)
  floor = delta * spread / z_NxQxD.shape[-1]
  scale_D = jax.lax.rsqrt(jnp.maximum(values_D, 0.0) + floor)
  along_NxD = jnp.einsum(
      'nd,de->ne', between_NxD, vectors_DxD, precision='highest'
  )
  # Not a second eigendecomposition at the same time: it needs the first.
  return spectrum.effective_rank(along_NxD * scale_D[None])


def dime(
    a_NxD: jax.Array,
    b_NxD: jax.Array,
    key: jax.Array,
    *,
    mask_N: jax.Array | None = None,
    alpha: float = 1.0,
    permutations: int = 8,
) -> jax.Array:
  """Computes how much better views fit their own text than others, DiME.

  The mean over random orders of the texts of S_α(K_a ∘ Π K_b Πᵀ), less
  S_α(K_a ∘ K_b): matrix-based joint entropies, K being the cosines of rows.

  Args:
    a_NxD: Floating, one view of each text, of any scale.
    b_NxD: Another view of the same texts.
    key: A PRNG key, of the orders.
    mask_N: Bool [N], texts that count; None for all.
    alpha: Order, in [0, inf]; static.
    permutations: Number of orders, at least 1; static.

  Returns:
    Scalar float32, nats, at most log n; about 0 for views that share nothing,
    and for views that are all alike.

  Raises:
    ValueError: A shape, dtype or option does not fit.

  Example:
    >>> z_NxD = jnp.repeat(jnp.eye(2), 8, axis=0)  # two groups of texts
    >>> print(float(dime(z_NxD, z_NxD, jax.random.key(0))) > 0.5)
    True

  References:
    Skean, Osorio, Brockmeier, Sanchez Giraldo, DiME (arXiv 2301.08164).
  """
  checks.one_width(a_NxD=a_NxD, b_NxD=b_NxD)
  same = a_NxD.shape == b_NxD.shape
  checks.shape('b_NxD', b_NxD, a_NxD.shape, same)
  checks.like_rows('mask_N', mask_N, a_NxD.shape[:1])
  checks.at_least(1, permutations=permutations)
  alpha = checks.order(alpha)
  if mask_N is None:
    mask_N = jnp.ones(a_NxD.shape[:1], bool)
  first_N = jnp.argsort(~mask_N, stable=True)
  k_a, k_b = (_cosines(z, mask_N)[first_N][:, first_N] for z in (a_NxD, b_NxD))
  left_N = ~mask_N[first_N]

  def joint(order_N):
    k_NxN = k_a * k_b[order_N][:, order_N]
    return spectral.entropy_of_gram(k_NxN, gram.trace(k_NxN), alpha)

  def order(key):
    random_N = jax.random.uniform(key, mask_N.shape)
    return jnp.argsort(jnp.where(left_N, 2.0, random_N), stable=True)

  own_N = jnp.arange(len(first_N))
  orders = jax.vmap(order)(jax.random.split(key, permutations))
  # One after the other, see docs/entropy.md; the first are the own views.
  s = jax.lax.map(joint, jnp.concatenate([own_N[None], orders]))
  return jnp.mean(s[1:]) - s[0]


def _cosines(z_NxD, mask_N):
  unit_NxD = gram.prepare(z_NxD, mask_N, center=False, normalize=True)
  return jnp.einsum('nd,md->nm', unit_NxD, unit_NxD, precision='highest')
