"""Tables that say where parameters are in files, used in both directions.

A table has an entry for every parameter that a family may have. Which of them a
model does have, its config says. How an array of the file becomes ours is one
`einops` pattern, whose two sides can be exchanged.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple, Protocol

import einops
import jax
import numpy as np

from iblm_jax.models import config as model_config
from iblm_jax.models import families

DecoderConfig = model_config.DecoderConfig
Place = Callable[[str, np.ndarray], Any]

# Layers that are converted at once, and are in the host's memory besides.
_THREADS = min(4, os.cpu_count() or 1)
# Of the memory of a jax array, in bytes.
_ALIGNMENT = 64


class Entry(NamedTuple):
  """Where one parameter is.

  Attributes:
    path: Ours, 'blocks/attention/query/kernel'; blocks have a leading axis.
    name: Theirs; '{n}' stands for the layer.
    pattern: Of einops, from theirs to ours, without the axis of layers. Axes:
      d width, h heads, g key-value heads, k head width, f MLP width, v tokens,
      t positions, two, half (of a head), three.
    part: Which along the first axis of the pattern's result, where one of their
      arrays holds several of ours.
  """

  path: str
  name: str
  pattern: str
  part: int | None = None


class Tensor(NamedTuple):
  """What a file says of a tensor before it is read."""

  shape: tuple[int, ...]
  dtype: str


class Tensors(Protocol):
  """Tensors of one or more files, read one at a time."""

  @property
  def found(self) -> Mapping[str, Tensor]:
    """All tensors by name."""
    ...

  def check(self, name: str) -> None:
    """Raises ValueError for a tensor whose dtype cannot be read."""
    ...

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor as floating-point numbers."""
    ...


def linear(
    path: str, name: str, inputs: str, outputs: str, theirs: str | None = None
) -> tuple[Entry, Entry]:
  """Makes the entries of weights [out, in] and biases; see `Entry`."""
  theirs = theirs or outputs
  return (
      Entry(
          f'{path}/kernel',
          f'{name}.weight',
          f'({theirs}) ({inputs}) -> {inputs} {outputs}',
      ),
      Entry(f'{path}/bias', f'{name}.bias', f'({theirs}) -> {outputs}'),
  )


def norm(path: str, name: str, axis: str = 'd') -> tuple[Entry, Entry]:
  """Makes the entries of a norm's scale and bias."""
  pattern = f'{axis} -> {axis}'
  return (
      Entry(f'{path}/scale', f'{name}.weight', pattern),
      Entry(f'{path}/bias', f'{name}.bias', pattern),
  )


def of_model(
    table: Iterable[Entry], cfg: DecoderConfig
) -> dict[str, tuple[Entry, jax.ShapeDtypeStruct]]:
  """Gives entry and shape of every parameter of a model, by its path.

  Raises:
    ValueError: The family has no place for a parameter.
  """
  entries = {entry.path: entry for entry in table}
  shapes = by_path(families.shapes(cfg))
  homeless = sorted(shapes.keys() - entries.keys())
  if homeless:
    raise ValueError(f'the family has no {some(homeless)}.')
  return {path: (entries[path], leaf) for path, leaf in shapes.items()}


def by_path(tree: Any) -> dict[str, Any]:
  """Gives the leaves of a tree by their paths."""
  return {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def their_names(entry: Entry, num_layers: int) -> list[str]:
  """Gives the names of an entry in the file, one a layer."""
  if '{n}' not in entry.name:
    return [entry.name]
  return [entry.name.format(n=n) for n in range(num_layers)]


def check_names(
    found: Iterable[str],
    expected: set[str],
    optional: frozenset[str] = frozenset(),
) -> None:
  """Raises ValueError unless the names of a file are those expected."""
  found = set(found)
  missing = sorted(expected - found)
  unknown = sorted(found - expected - optional)
  if missing or unknown:
    raise ValueError(
        f'it lacks {some(missing)} and holds {some(unknown)} besides.'
    )


def some(names: list[str]) -> str:
  """Names the first three of a list."""
  rest = f', ... ({len(names)} in all)' if len(names) > 3 else ''
  return ', '.join(names[:3]) + rest if names else 'nothing'


def check(
    tensors: Tensors,
    table: Iterable[Entry],
    cfg: DecoderConfig,
    ignored: re.Pattern[str],
) -> None:
  """Compares names, shapes and dtypes of a file with a model's.

  Nothing but the heads of files has been read so far.

  Args:
    tensors: The file.
    table: Of its family.
    cfg: The model.
    ignored: Names that may be there and are not read.

  Raises:
    ValueError: A tensor is missing, unknown, of another shape or of a dtype
      that cannot be read; the message names it.
  """
  if cfg.num_layers > len(tensors.found):
    raise ValueError(
        f'it has {len(tensors.found)} tensors, too few for the'
        f' {cfg.num_layers:,} layers of its config.'
    )
  model = of_model(table, cfg)
  wanted = {
      name: entry
      for entry, _ in model.values()
      for name in their_names(entry, cfg.num_layers)
  }
  check_names(
      (name for name in tensors.found if not ignored.fullmatch(name)),
      set(wanted),
  )
  for name, entry in wanted.items():
    expected = their_shape(entry, cfg)
    if tensors.found[name].shape != expected:
      raise ValueError(
          f'{name} must have shape {expected}, got'
          f' {tensors.found[name].shape}.'
      )
    tensors.check(name)


def read(
    tensors: Tensors,
    table: Iterable[Entry],
    cfg: DecoderConfig,
    dtype: Any,
    place: Place,
) -> Any:
  """Reads a model parameter by parameter.

  Each is placed before the next one is read, so that no more than one is in
  the host's memory beside those that were placed there.

  Args:
    tensors: The file, checked by `check`.
    table: Of its family.
    cfg: The model.
    dtype: Of the parameters.
    place: `(path, array) -> array`, puts one where it belongs.

  Returns:
    The parameters in the tree of `decoder.init`.

  Raises:
    ValueError: A number is not finite.
  """
  params: dict[str, Any] = {}
  # The largest first: what is in the host's memory twice is then small where
  # much has been placed.
  model = of_model(table, cfg).items()
  for path, (entry, leaf) in sorted(model, key=lambda item: -item[1][1].size):
    names = their_names(entry, cfg.num_layers)
    if '{n}' in entry.name:
      host = aligned(leaf.shape, dtype)

      def fill(n, host=host, names=names, entry=entry):
        host[n] = _ours(tensors, names[n], entry, cfg)

      with futures.ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(fill, n) for n in range(len(names))]:
          done.result()
    else:
      host = np.asarray(_ours(tensors, names[0], entry, cfg), dtype, order='C')
    *parents, last = path.split('/')
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = place(path, host)
    del host
  # A norm without parameters is an empty dict of its own in our tree.
  params.setdefault('head', {})
  return params


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Makes an empty array that a CPU device takes as it is, without a copy."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  memory = np.empty(size + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  return memory[start : start + size].view(dtype).reshape(shape)


def _ours(tensors, name, entry, cfg) -> np.ndarray:
  array = tensors.read(name)
  if not np.isfinite(array).all():
    raise ValueError(f'{name} must be finite, got NaN or an infinity.')
  ours = einops.rearrange(array, entry.pattern, **_axes(entry, cfg))
  return ours if entry.part is None else ours[entry.part]


def to_theirs(
    parts: Sequence[tuple[Entry, np.ndarray]], cfg: DecoderConfig
) -> np.ndarray:
  """Makes one of their arrays of those of ours that it holds.

  Args:
    parts: Entries of one name with our arrays, without the axis of layers.
    cfg: The model.
  """
  entry, ours = parts[0]
  if entry.part is not None:
    by_part = {of.part: array for of, array in parts}
    ours = np.stack([by_part[i] for i in range(len(parts))])
  theirs, pattern = entry.pattern.split('->')
  return einops.rearrange(ours, f'{pattern} -> {theirs}', **_axes(entry, cfg))


def _axes(entry: Entry, cfg: DecoderConfig) -> dict[str, int]:
  sizes = {
      'd': cfg.width, 'h': cfg.num_heads, 'g': cfg.kv_heads,
      'k': cfg.head_width, 'f': cfg.hidden_width, 'v': cfg.vocab_size,
      't': cfg.max_length, 'two': 2, 'half': cfg.head_width // 2, 'three': 3,
  }
  return {axis: sizes[axis] for axis in re.findall(r'\w+', _theirs(entry))}


def their_shape(entry: Entry, cfg: DecoderConfig) -> tuple[int, ...]:
  """Gives the shape of an array in the file."""
  sizes = _axes(entry, cfg)
  groups = re.findall(r'\([^)]*\)|\w+', _theirs(entry))
  return tuple(
      math.prod(sizes[axis] for axis in re.findall(r'\w+', group))
      for group in groups
  )


def _theirs(entry: Entry) -> str:
  return entry.pattern.split('->')[0]
