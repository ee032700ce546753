"""Checks of arrays and options that several modules share."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def floating(name: str, x: Any) -> None:
  """Raises ValueError unless `x` is an array of floating numbers."""
  dtype = jnp.result_type(x)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f'{name} must be floating, got dtype {dtype}.')


def shape(name: str, x: Any, allowed: tuple[int, ...] | str, ok: bool) -> None:
  """Raises ValueError that names the `allowed` shape unless `ok`."""
  if not ok:
    raise ValueError(
        f'{name} must have shape {allowed}, got {jnp.shape(x)}.'
    )


def rows(z: jax.Array, mask: jax.Array | None) -> None:
  """Raises ValueError unless `z` is floating [..., N, D], `mask` [..., N]."""
  ok = z.ndim >= 2 and 0 not in z.shape[-2:]
  shape('z', z, '[..., N, D] with N, D >= 1', ok)
  floating('z', z)
  like_rows('mask', mask, z.shape[:-1])


def like_rows(
    name: str, x: jax.Array | None, expected: tuple[int, ...]
) -> None:
  """Raises ValueError unless `x` has one entry a row, or is None."""
  if x is not None:
    shape(name, x, expected, x.shape == expected)


def one_width(**groups: jax.Array) -> None:
  """Raises ValueError unless groups of rows are floating and as wide."""
  for name, x in groups.items():
    ok = x.ndim == 2 and 0 not in x.shape
    shape(name, x, '[N, D] with N, D >= 1', ok)
    floating(name, x)
  widths = [x.shape[1] for x in groups.values()]
  if len(set(widths)) > 1:
    raise ValueError(
        f'{" and ".join(groups)} must have one width, got'
        f' {" and ".join(map(str, widths))}.'
    )


def patch_size(value: int, length: int | None = None) -> None:
  """Raises ValueError unless a window fits into a sequence."""
  if value < 2 or (length is not None and value > length):
    high = 'L' if length is None else length
    raise ValueError(
        f'patch_size must be an integer in [2, {high}], got patch_size={value}.'
    )


def at_least(low: float, **values: float) -> None:
  """Raises ValueError unless all values are `low` or more."""
  for name, value in values.items():
    if not value >= low:  # refuses NaN as well
      raise ValueError(f'{name} must be at least {low}, got {value!r}.')


def order(alpha: float) -> float:
  """Returns the order as a float; raises ValueError unless in [0, inf]."""
  alpha = float(alpha)
  if not alpha >= 0:
    raise ValueError(f'alpha must be a number in [0, inf], got {alpha=}.')
  return alpha


def nats_per_unit(base: float | None) -> float:
  """Returns the natural logarithm of `base`, 1 for None (nats)."""
  if base is None:
    return 1.0
  if not (base > 0 and base != 1 and math.isfinite(base)):
    raise ValueError(
        f'base must be None (nats) or a number > 0 other than 1, got {base=}.'
    )
  return math.log(base)
