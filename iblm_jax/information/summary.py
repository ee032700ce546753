"""All entropies of rows in one call, from spectra that are computed once."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from iblm_jax.information import checks, gram, spectrum

ORDERS = (0.0, 0.5, 1.0, 2.0, math.inf)
# What is done to the rows before they are measured, and what names end in.
VARIANTS = {
    '': dict(center=False, normalize=False),
    '_centered': dict(center=True, normalize=False),
    '_normalized': dict(center=False, normalize=True),
    '_centered_normalized': dict(center=True, normalize=True),
}


def entropy_summary(
    z: jax.Array,
    *,
    mask: jax.Array | None = None,
    orders: Sequence[float] = ORDERS,
) -> dict[str, jax.Array]:
  """Computes entropies of several orders, of rows as they are and prepared.

  Every name exists with four endings: '' for rows as they are,
  '_centered' without their mean, '_normalized' scaled to unit norm, and
  '_centered_normalized' centred first and scaled then.

  Args:
    z: [..., N, D] floating; rows are samples, of any scale.
    mask: [..., N] bool, rows that count; None for all.
    orders: Orders of the entropies, in [0, inf]; static.

  Returns:
    Float32 arrays [...]; with n rows that count:

    * 'entropy/order_A' for each order A: nats, in [0, log min(n, D)].
    * 'entropy/order_A/log_n', 'entropy/order_A/log_d': the same over log n and
      over log D; 0 where the logarithm is.
    * 'effective_rank': exp S_1, in [1, min(n, D)].
    * 'participation_ratio': exp S_2 = (Σ λ)² / Σ λ², in [1, min(n, D)].
    * 'first_direction': the share of the trace along the first singular
      direction, in (0, 1], one of the two usual measures of anisotropy.

    Without a row that is not zero entropies are 0, ranks 1 and the share 1.

  Raises:
    ValueError: If an order is out of range, `z` is not floating [..., N, D],
      or the mask not [..., N].

  Example:
    >>> found = entropy_summary(jnp.eye(4, 16), orders=(1,))
    >>> print(f"{found['entropy/order_1/log_n']:.3f}")
    1.000
    >>> print(f"{found['entropy/order_1/log_d']:.3f}")
    0.500

  References:
    arXiv 1211.2459 (entropies); arXiv 2502.02013 (over log n and log D).
  """
  checks.rows(z, mask)
  orders = [checks.order(alpha) for alpha in orders]
  if mask is None:
    count = jnp.float32(z.shape[-2])
  else:
    count = jnp.sum(mask, axis=-1, dtype=jnp.float32)
  # As one batch: programs with several eigendecompositions can hang on CPUs.
  rows = [gram.prepare(z, mask, **options) for options in VARIANTS.values()]
  p_Vx = spectrum.matrix_spectrum(jnp.stack(rows))
  return {
      name: value
      for ending, p in zip(VARIANTS, p_Vx, strict=True)
      for name, value in summary_of_spectrum(
          p, count, z.shape[-1], orders, ending
      ).items()
  }


def summary_of_spectrum(
    p: jax.Array,
    count: jax.Array,
    width: int,
    orders: Sequence[float] = ORDERS,
    ending: str = '',
) -> dict[str, jax.Array]:
  """Names what is read off spectra [..., n], see `entropy_summary`.

  Args:
    p: As from `matrix_spectrum`.
    count: [...] number of rows that the spectra are of.
    width: D.
    orders: Orders of the entropies.
    ending: What 'entropy' and the other names end in.
  """
  log_n = jnp.log(jnp.maximum(count, 1.0))
  found = {}
  for alpha in orders:
    s = spectrum.entropy_of_spectrum(p, alpha=alpha)
    name = f'entropy{ending}/order_{alpha:g}'
    found[name] = s
    found[f'{name}/log_n'] = _over(s, log_n)
    found[f'{name}/log_d'] = _over(s, jnp.log(jnp.float32(width)))
  power = lambda alpha: spectrum.entropy_of_spectrum(p, alpha=alpha)
  found[f'effective_rank{ending}'] = jnp.exp(power(1.0))
  found[f'participation_ratio{ending}'] = jnp.exp(power(2.0))
  found[f'first_direction{ending}'] = jnp.exp(-power(math.inf))
  return found


def diff_erank(
    untrained: jax.Array, trained: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Computes the effective rank that training took away, Diff-eRank.

  exp(mean S_1 of the untrained model) - exp(mean S_1 of the trained one), over
  prompts; S_1 is 'entropy_centered_normalized/order_1' of `entropy_summary`.

  Args:
    untrained: [..., P] floating, nats, S_1 of each prompt.
    trained: [..., P] of the same prompts.
    mask: [..., P] bool, prompts that count; None for all.

  Returns:
    [...] float32; above 0 where training removed directions, 0 without a
    prompt.

  Example:
    >>> s = jnp.log(jnp.array([8.0, 8.0]))
    >>> print(round(float(diff_erank(s, s - jnp.log(4.0))), 4))
    6.0

  References:
    arXiv 2401.17139.
  """
  checks.shape(
      'trained', trained, untrained.shape, trained.shape == untrained.shape
  )
  checks.like_rows('mask', mask, untrained.shape)
  keep = jnp.ones(untrained.shape, bool) if mask is None else mask
  count = jnp.maximum(jnp.sum(keep, axis=-1, dtype=jnp.float32), 1.0)
  mean = lambda s: jnp.sum(jnp.where(keep, s, 0.0), axis=-1) / count
  return jnp.exp(mean(untrained)) - jnp.exp(mean(trained))


def _over(s, most):
  return jnp.where(most > 0, s / jnp.where(most > 0, most, 1.0), 0.0)
