"""What every bound returns: a number that knows its addends."""

import math
from collections.abc import Mapping


class Bound(float):
  """An upper bound on a risk, in the unit of the loss, with its derivation.

  It is a float, so it computes, prints and serialises as one. It is reported as
  it comes out: a value above the largest possible loss is vacuous and is not
  cut off, so that nobody mistakes it for a result.

  Attributes:
    terms: addends in the unit of the loss; their sum is the value.
    nats: addends of the logarithmic penalties inside the terms, in nats, each
      under the name of what it pays for. Those of the second draw, where there
      is one, begin with `resampling_`.
    chosen: free parameters that the minimum was taken at; the price of having
      looked at several is among `nats`.

  Example:
    >>> from iblm_jax import bounds
    >>> bound = bounds.occam_hoeffding(0.4, 1000, 100_000, 1.0, 0.05)
    >>> print(f'{bound:.6f}')
    0.458998
    >>> {name: round(x, 4) for name, x in bound.terms.items()}
    {'empirical': 0.4, 'complexity': 0.059}
    >>> {name: round(x, 4) for name, x in bound.nats.items()}
    {'code': 693.1472, 'losses': 0.0, 'confidence': 2.9957}
  """

  terms: dict[str, float]
  nats: dict[str, float]
  chosen: dict[str, float]

  def __new__(
      cls,
      value: float,
      terms: Mapping[str, float] | None = None,
      nats: Mapping[str, float] | None = None,
      chosen: Mapping[str, float] | None = None,
  ):
    """Keeps copies of the three tables, as plain floats."""
    bound = super().__new__(cls, value)
    for name, table in (('terms', terms), ('nats', nats), ('chosen', chosen)):
      plain = {key: float(x) for key, x in (table or {}).items()}
      setattr(bound, name, plain)
    return bound

  def __repr__(self) -> str:
    return f'Bound({float(self)!r}, terms={self.terms!r})'

  @classmethod
  def of_terms(cls, terms, nats, chosen=None) -> 'Bound':
    """The bound whose value is the sum of `terms`."""
    return cls(math.fsum(terms.values()), terms, nats, chosen)

  def as_dict(self) -> dict:
    """Value and tables as plain Python objects, ready for JSON."""
    return {
        'value': float(self),
        'terms': dict(self.terms),
        'nats': dict(self.nats),
        'chosen': dict(self.chosen),
    }


def code_penalty(
    K_bits: float, n_alpha: int, delta: float, n_grid: int = 1
) -> dict[str, float]:
  """Addends, in nats, of the penalty that holds for all codes at once.

  The prior gives a model whose code has K bits the mass 2^-K; each of `n_alpha`
  losses and each of `n_grid` parameters gets an equal share of `delta`.
  """
  nats = {'code': K_bits * math.log(2), 'losses': math.log(n_alpha)}
  if n_grid > 1:
    nats['grid'] = math.log(n_grid)
  return {**nats, 'confidence': -math.log(delta)}


def draw_penalty(
    n_alpha: int, n_runs: int, delta: float, n_grid: int = 1
) -> dict[str, float]:
  """Addends, in nats, of the penalty for scoring n of the m units.

  The model is fixed before the draw, so no code is paid for; the minimum over
  losses, over runs and over a grid is.
  """
  nats = {
      'resampling_losses': math.log(n_alpha),
      'resampling_runs': math.log(n_runs),
  }
  if n_grid > 1:
    nats['resampling_grid'] = math.log(n_grid)
  return {**nats, 'resampling_confidence': -math.log(delta)}
