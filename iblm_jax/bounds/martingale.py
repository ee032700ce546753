"""Token-level bounds: the units are the tokens of one training stream.

No independence is assumed. The risk is the mean over the training contexts of
the conditional expected loss of the next token, so the bounds say nothing about
fresh contexts or documents. `occam_logwealth` holds in this setting as well.

Sources: arXiv 2407.18158 (Azuma), arXiv 2504.15208 (empirical Freedman).
"""

import math
from collections.abc import Sequence

import numpy as np

from iblm_jax.bounds import _checks, betting, logwealth
from iblm_jax.bounds.bound import Bound, code_penalty

# Guesses of the width, in bits, four to an octave; see azuma_tokens.
GRID_WIDTHS = tuple(2.0 ** (k / 4) for k in range(33))


def azuma_tokens(
    risk: float,
    K_bits: float,
    m: int,
    widths: float | np.ndarray,
    delta: float,
    *,
    n_alpha: int = 1,
) -> Bound:
  """Bounds the risk of dependent tokens (Azuma-Hoeffding).

  R <= R̂ + Δ̂ sqrt(𝓛/(2m)) for m tokens, with 𝓛 = K ln 2 + ln(n_alpha/δ). The
  losses of token i lie in an interval of width Δ_i, and Δ̂² is the mean of Δ_i².
  Where the widths were fixed before the data, give
  the number Δ̂. Where they are predicted from the prefix (an α for each token),
  Δ̂ is random and the formula alone is wrong: the model could stop betting when
  it is ahead. Then give all m widths; Δ̂ is replaced by (g + Δ̂²/g)/2 with the
  best g of `GRID_WIDTHS`, which is within 0.4 % for Δ̂ in 1..256 and costs
  ln 33 = 3.5 nats.

  Args:
    risk: Mean loss over the m tokens.
    m: Number of tokens.
    widths: Δ̂, a number > 0, or [m] numbers > 0, each a function of the prefix.
    K_bits, delta, n_alpha: See the package.

  Returns:
    A `Bound` with terms `empirical` and `complexity`, and `chosen['width']`
    where widths were predicted.

  Example:
    >>> round(azuma_tokens(2.0, 2000, 1_000_000, 9.005625, 0.05), 6)
    2.237353
  """
  risk, m = _checks.number('risk', risk), _checks.integer('m', m)
  chosen = {}
  if np.ndim(widths) == 0:
    nats = code_penalty(K_bits, n_alpha, delta)
    effective = _checks.positive('widths', widths)
  else:
    widths = _checks.vector('widths', widths)
    if widths.size != m or widths.min() <= 0:
      raise ValueError(
          f'widths must be one number or m={m} numbers > 0, got'
          f' {widths.size} from {widths.min():g}.'
      )
    nats = code_penalty(K_bits, n_alpha, delta, len(GRID_WIDTHS))
    square = float(np.mean(np.square(widths, dtype=np.float64)))
    effective, width = min((g + square / g, g) for g in GRID_WIDTHS)
    effective, chosen = effective / 2, {'width': width}
  deviation = math.sqrt(math.fsum(nats.values()) / (2 * m))
  terms = {'empirical': risk, 'complexity': effective * deviation}
  return Bound.of_terms(terms, nats, chosen)


def empirical_freedman(
    losses: np.ndarray,
    lo: float,
    width: float,
    K_bits: float,
    m: int,
    delta: float,
    grid: Sequence[float] | None = None,
    *,
    predictions: float | np.ndarray | None = None,
    n_alpha: int = 1,
) -> Bound:
  """Bounds the risk through the variation of losses around predictions.

  With A_i = (Y_i - loss_i)/Δ, v(x) = x - ln(1+x), and for a grid of S values
  𝓛 = K ln 2 + ln(S n_alpha/δ):
  R <= R̂ + Δ min_s {𝓛/(m s) + mean_i v(s A_i)/s}.

  Args:
    losses: [m] losses in the order of the stream, each in [lo, lo + width].
    m: Number of tokens or documents, the length of `losses`.
    grid: Values of s to try, distinct, in (0, 1), fixed before the data were
      seen; None for `logwealth.GRID_T`. Costs ln(length) nats.
    predictions: Y, a number fixed beforehand or [m] numbers, Y_i a function of
      what comes before token i (not of loss i, so not the mean of all losses);
      in [lo, lo + width]. None for the mean of the losses before i, with one
      more at the middle of the interval. For units drawn without replacement
      from a finite population only a fixed number is valid.
    lo, width, K_bits, delta, n_alpha: See the package.

  Returns:
    A `Bound` with terms `empirical`, `variance` and `complexity`;
    `chosen['s']`.

  Example:
    >>> losses = [0.2] * 50 + [0.4] * 30 + [0.9] * 20
    >>> bound = empirical_freedman(
    ...     losses, 0.0, 1.0, 8, 100, 0.05, [0.1, 0.3, 0.5, 0.7, 0.9],
    ...     predictions=0.4)
    >>> round(bound, 10), bound.chosen
    (0.5536818414, {'s': 0.9})
  """
  x = betting.check_losses(losses, lo, width).astype(np.float64)
  m = _checks.integer('m', m)
  if m != x.size:
    raise ValueError(f'm must be the number of losses, {x.size}, got {m}.')
  grid_S = _checks.grid('grid', logwealth.GRID_T if grid is None else grid)
  if predictions is None:
    before = np.concatenate([[lo + width / 2], x[:-1]])
    y = np.cumsum(before) / np.arange(1, m + 1)
  elif np.ndim(predictions) == 0:
    y = np.full(m, _checks.number('predictions', predictions, lo, lo + width))
  else:
    y = betting.check_losses(np.asarray(predictions), lo, width)
    if y.size != m:
      raise ValueError(
          f'predictions must be one number or m={m} numbers, got {y.size}.'
      )
  nats = code_penalty(K_bits, n_alpha, delta, grid_S.size)
  surprise = x - y
  # v(s A)/s averages to mean(A) - mean(ln(1 + s A))/s.
  growth_S = betting.mean_log(surprise, 0.0, width, grid_S, -1.0)
  variance_S = -surprise.mean() - width * growth_S / grid_S
  complexity_S = width * math.fsum(nats.values()) / (m * grid_S)
  best = int(np.argmin(variance_S + complexity_S))
  terms = {
      'empirical': x.mean(),
      'variance': variance_S[best],
      'complexity': complexity_S[best],
  }
  return Bound.of_terms(terms, nats, {'s': grid_S[best]})
