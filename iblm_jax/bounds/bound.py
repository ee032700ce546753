"""What every bound returns: a number that knows its addends."""

import math
from collections.abc import Mapping
from typing import Any

from iblm_jax.bounds import _checks


class Bound(float):
  """An upper bound on a risk, in the unit of the loss, with its derivation.

  It is a float, so it computes, prints and serialises as one. A value above the
  largest possible loss is vacuous; it is not cut off there, so that nobody
  mistakes it for a result.

  Attributes:
    terms: Addends in the unit of the loss; their sum is the value.
    nats: Addends of the logarithmic penalties inside the terms, in nats, each
      under the name of what it pays for. Those of the second draw, where there
      is one, begin with `resampling_`.
    chosen: Free parameters at which the minimum was taken; the price of having
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
  def of_terms(
      cls,
      terms: Mapping[str, float],
      nats: Mapping[str, float],
      chosen: Mapping[str, float] | None = None,
  ) -> 'Bound':
    """Makes the bound whose value is the sum of `terms`."""
    return cls(math.fsum(terms.values()), terms, nats, chosen)

  def as_dict(self) -> dict[str, Any]:
    """Value and tables as plain Python objects, ready for JSON."""
    tables = {'terms': self.terms, 'nats': self.nats, 'chosen': self.chosen}
    return {'value': float(self)} | {k: dict(v) for k, v in tables.items()}


def code_penalty(
    K_bits: float, n_alpha: int, delta: float, n_grid: int = 1
) -> dict[str, float]:
  """Addends, in nats, of the penalty that holds for all codes at once.

  The prior gives a model whose code has K bits the mass 2^-K; each of `n_alpha`
  losses and each of `n_grid` parameters gets an equal share of `delta`.

  Raises:
    ValueError: An argument is outside its range.
  """
  nats = {
      'code': _checks.number('K_bits', K_bits, 0.0) * math.log(2),
      'losses': math.log(_checks.integer('n_alpha', n_alpha)),
  }
  if n_grid > 1:
    nats['grid'] = math.log(n_grid)
  return nats | {'confidence': -math.log(_checks.probability('delta', delta))}


def draw_penalty(
    n_alpha: int, n_runs: int, delta2: float, n_grid: int = 1
) -> dict[str, float]:
  """Addends, in nats, of the penalty for scoring n of the m units.

  The model is fixed before the draw, so no code is paid for; the minimum over
  losses, over runs and over a grid is.

  Raises:
    ValueError: An argument is outside its range.
  """
  nats = {
      'losses': math.log(_checks.integer('n_alpha', n_alpha)),
      'runs': math.log(_checks.integer('n_runs', n_runs)),
  }
  if n_grid > 1:
    nats['grid'] = math.log(n_grid)
  nats['confidence'] = -math.log(_checks.probability('delta2', delta2))
  return {f'resampling_{name}': value for name, value in nats.items()}
