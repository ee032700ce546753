"""Random numbers that are a function of a key, a path and a position alone.

Every row has a key of its own, folded from the projector's key, the CRC-32 of
the leaf's path, the layer and the number of the row. So a number depends on no
other leaf, no mesh and no order of generation; rows of all leaves are drawn by
one small program, or each device draws the rows that it holds.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PRNG = 'threefry2x32'


def check_key(key: jax.Array) -> None:
  """Raises ValueError unless `key` is one typed threefry2x32 key."""
  typed = isinstance(key, jax.Array) and jnp.issubdtype(
      key.dtype, jax.dtypes.prng_key
  )
  if not typed or key.shape != () or str(jax.random.key_impl(key)) != PRNG:
    raise ValueError(
        f"key must be one key of jax.random.key(seed, impl='{PRNG}'), got"
        f' {key!r}.'
    )


def path_id(path: str) -> int:
  """Returns the CRC-32 of a path, the same in every process and version.

  Example:
    >>> path_id('head/kernel')
    2080522366
  """
  return zlib.crc32(path.encode())


def named_key(key: jax.Array, path: str) -> jax.Array:
  """Returns the key of a path."""
  with jax.threefry_partitionable(True):
    return jax.random.fold_in(key, np.uint32(path_id(path)))


def row_ids(path: str, layers: int, rows: Sequence[int]) -> np.ndarray:
  """Returns ids [layers * prod(rows), 3] of rows: path, layer, number."""
  number = int(np.prod(rows, dtype=np.int64))
  ids = np.empty((layers, number, 3), np.uint32)
  ids[..., 0] = path_id(path)
  ids[..., 1] = np.arange(layers)[:, None]
  ids[..., 2] = np.arange(number)
  return ids.reshape(-1, 3)


def _traced_ids(path: str, layers: int, rows: Sequence[int]) -> jax.Array:
  """Returns `row_ids` [layers, *rows, 3] from counters: no constant."""
  shape = (layers, *rows)
  iota = functools.partial(jax.lax.broadcasted_iota, jnp.uint32, shape)
  number = jnp.zeros(shape, jnp.uint32)
  for axis, size in enumerate(rows):
    number = number * np.uint32(size) + iota(1 + axis)
  path_ids = jnp.full(shape, np.uint32(path_id(path)))
  return jnp.stack([path_ids, iota(0), number], axis=-1)


def draw(
    key: jax.Array, ids_Nx3: jax.Array, width: int, entries: str
) -> jax.Array:
  """Draws one row of `width` numbers for every id.

  Args:
    ids_Nx3: uint32 [..., 3].
    entries: 'normal' (float32, standard normal), 'uniform' (float32, in
      [-1, 1)), 'sign' (int8, ±1) or 'bits' (uint32).

  Returns:
    [..., width].
  """

  def row(ids):
    fold = lambda i, key: jax.random.fold_in(key, ids[i])
    row_key = jax.lax.fori_loop(0, 3, fold, key)
    if entries == 'normal':
      return jax.random.normal(row_key, (width,), jnp.float32)
    if entries == 'uniform':
      return jax.random.uniform(row_key, (width,), jnp.float32, -1.0, 1.0)
    if entries == 'bits':
      return jax.random.bits(row_key, (width,), jnp.uint32)
    # All 32 bits of a word are used: this is what is drawn again and again.
    words = jax.random.bits(row_key, (-(-width // 32),), jnp.uint32)
    shifts = jnp.arange(32, dtype=jnp.uint32)
    bits = (words[:, None] >> shifts[None]) & np.uint32(1)
    bits = bits.reshape(-1)[:width].astype(jnp.int8)
    return np.int8(2) * bits - np.int8(1)

  with jax.threefry_partitionable(True):
    flat = jax.vmap(row)(ids_Nx3.reshape(-1, 3))
  return flat.reshape(*ids_Nx3.shape[:-1], width)


def draw_leaf(
    key: jax.Array,
    path: str,
    layers: int,
    rows: tuple[int, ...],
    width: int,
    entries: str,
) -> jax.Array:
  """Draws rows [layers, *rows, width] of one leaf, sharded as their use."""
  ids = _traced_ids(path, layers, rows)
  one = functools.partial(draw, width=width, entries=entries)
  # Not flattened: an axis that is split over devices stays an axis.
  for _ in range(1 + len(rows)):
    one = jax.vmap(one, in_axes=(None, 0))
  return one(key, ids)


def compiler_options(shapes: Any, platform: str) -> dict[str, Any] | None:
  """Returns how XLA is to compile random draws that run once.

  LLVM takes about 1 s for a draw at full optimisation. On a CPU level 1 takes
  half of that, and level 0 a third, but then draws at a fifth of the speed:
  0.5 s for 4 million numbers.

  Args:
    shapes: Tree of the drawn arrays or their shapes.
  """
  if platform != 'cpu':
    return None
  numbers = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  return {'xla_backend_optimization_level': 0 if numbers < 4_000_000 else 1}


def run_once(
    function: Callable[..., Any],
    key: jax.Array,
    *args: Any,
    out_shardings: Any = None,
) -> Any:
  """Compiles and runs a program of random draws, see `compiler_options`.

  Within another program (`jax.eval_shape`, say) it becomes a part of that one.
  """
  if isinstance(key, jax.core.Tracer):
    return function(key, *args)
  traced = jax.jit(function, out_shardings=out_shardings).trace(key, *args)
  options = compiler_options(traced.out_info, jax.default_backend())
  # Some options are numbers.
  compiled = traced.lower().compile(options)  # pyrefly: ignore
  return compiled(key, *args)


def draw_all(
    key: jax.Array,
    requests: Sequence[tuple[str, int, tuple[int, ...]]],
    width: int,
    entries: str,
    shardings: Sequence[Any] | None = None,
) -> list[jax.Array]:
  """Draws rows of many leaves, see `draw_leaf`, in one program.

  Args:
    requests: Path, layers and rows of each leaf.
    entries: As of `draw`.
    shardings: Where the results lie. Each device draws all rows before it
      drops those of others.

  Returns:
    Arrays [layers, *rows, width].
  """
  if not requests:
    return []
  traced = isinstance(key, jax.core.Tracer)
  # In a program that draws again and again, counters; else read in as it runs.
  ids = [
      _traced_ids(*request).reshape(-1, 3) if traced else row_ids(*request)
      for request in requests
  ]
  ends = np.cumsum([len(part) for part in ids])[:-1]
  joined = (jnp if traced else np).concatenate(ids)

  def program(key, ids_Nx3):
    parts = jnp.split(draw(key, ids_Nx3, width, entries), ends)
    return [
        part.reshape(layers, *rows, width)
        for part, (_, layers, rows) in zip(parts, requests, strict=True)
    ]

  return run_once(
      program, key, joined,
      out_shardings=None if shardings is None else list(shardings),
  )
