"""Low-rank adapters (LoRA) for any matrices of a tree of parameters, by path.

An adapted matrix W acts as W + (α / r) B A, with A [r, in] and B [out, r] the
only numbers that are trained (arXiv 2106.09685). The adapters are a tree of
their own; `lora_apply` makes effective parameters from both trees, so the model
itself knows nothing of adapters and W has no gradient by construction. There is
no dropout: what is certified is a deterministic function.

With tied embeddings the output head has no matrix of its own. Adapting it would
change the token embedding too, or break the tie; a pattern for the head then
matches nothing and is refused. Use a model with `tie_embeddings=False`, and
copy the embedding into its head, if the head is to be adapted.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax import fields
from iblm_jax.sublora import paths, prng
from iblm_jax.typing import PyTree

# (path, effective matrix, a, (α / r) b) -> leaf.
Keep = Callable[[str, jax.Array, jax.Array, jax.Array], Any]

QUERY_VALUE = ('attention/query/kernel$', 'attention/value/kernel$')
HEAD = ('^head/kernel$',)

# Kernels have their input axes first. Attention's output maps heads and the
# width of a head; all other kernels have one input axis.
INPUT_AXES = (('attention/out/kernel$', 2), ('kernel$', 1))


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Which matrices get adapters, and of what size.

  Attributes:
    patterns: Regular expressions; a parameter is adapted if one of them is
      found in its path (such as 'blocks/attention/query/kernel'). By default
      the paper's choice: query and value of every block and the head.
    rank: Rank r of the product B A.
    alpha_scale: α; the product B A is scaled by α / r.
    input_axes: Pairs of a pattern and the number of leading axes (after that
      of the layers) that are inputs; the first that is found in a path counts.
      All further axes are outputs. Nothing is concluded from shapes.
    stacked: Pattern of paths whose leading axis counts layers.

  Raises:
    ValueError: If a value is outside its range.
  """

  patterns: tuple[str, ...] = QUERY_VALUE + HEAD
  rank: int = fields.field(4, low=1)
  alpha_scale: float = fields.field(32.0, above=0)
  input_axes: tuple[tuple[str, int], ...] = INPUT_AXES
  stacked: str = paths.STACKED

  def __post_init__(self):
    paths.check_regexes('patterns', self.patterns)
    paths.check_regexes('stacked', (self.stacked,))
    if not self.patterns:
      raise ValueError('patterns must name at least one matrix, got ().')
    paths.check_count('rank', self.rank)
    fields.check(self)
    paths.check_regexes(
        'input_axes', tuple(pattern for pattern, _ in self.input_axes)
    )
    for pattern, number in self.input_axes:
      if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f'input_axes must be ints >= 1, got {number!r} for {pattern!r}.'
        )

  @property
  def scale(self) -> float:
    """Factor α / r of the product."""
    return self.alpha_scale / self.rank


def lora_init(params: PyTree, config: LoraConfig, key: jax.Array) -> PyTree:
  """Makes adapters that change nothing yet: A uniform, B zero.

  Args:
    params: The model's; arrays or ShapeDtypeStructs, only shapes are read.
    key: Typed, threefry2x32; A depends on it, the path and the layer alone.

  Returns:
    Nested dicts along the paths of the adapted matrices, each with 'a' float32
    [..., r, in], uniform in ±1/√in (Kaiming with a = √5), and 'b' [..., out, r]
    zeros; stacked layers keep their leading axis.

  Raises:
    ValueError: If a pattern matches no parameter (the paths are listed), a
      matched parameter is no matrix, or no pattern says which of its axes are
      inputs.

  Example:
    >>> params = {'mlp': {'kernel': jnp.ones([8, 4])}}
    >>> config = LoraConfig(patterns=('kernel',), rank=2)
    >>> lora = lora_init(params, config, jax.random.key(0))
    >>> jax.tree.map(jnp.shape, lora)
    {'mlp': {'kernel': {'a': (2, 8), 'b': (4, 2)}}}
  """
  prng.check_key(key)
  targets = _targets(params, config)
  adapters: dict[str, jax.Array] = {}
  for width in sorted({target.inputs for target in targets.values()}):
    chosen = {p: t for p, t in targets.items() if t.inputs == width}
    requests = [(p, t.layers or 1, (config.rank,)) for p, t in chosen.items()]
    drawn = prng.draw_all(key, requests, width, 'uniform')
    for (path, target), a in zip(chosen.items(), drawn, strict=True):
      a = a if target.layers else a[0]
      adapters[f'{path}/a'] = a * np.float32(1 / math.sqrt(width))
  names, shapes, treedef = paths.flatten(_shapes(targets, config))
  return treedef.unflatten(
      adapters[name] if name in adapters else jnp.zeros(s.shape, s.dtype)
      for name, s in zip(names, shapes, strict=True)
  )


def lora_apply(
    params: PyTree,
    lora: PyTree,
    config: LoraConfig,
    *,
    keep: Keep | None = None,
) -> PyTree:
  """Returns effective parameters: W + (α / r) B A where there is an adapter.

  Args:
    params: The model's. No gradient flows into them.
    lora: From `lora_init`, or of its structure and shapes.
    keep: `(path, effective matrix, a, (α / r) b) -> leaf`, for models that need
      no gradient of a matrix to make those of its adapters. None takes the
      matrix.

  Returns:
    A tree like `params`, with their dtypes; leaves without adapter are the
    same arrays.

  Raises:
    ValueError: As `lora_init`, or if `lora` does not have the shapes that the
      config asks for.

  Example:
    >>> params = {'kernel': jnp.zeros([2, 3])}
    >>> config = LoraConfig(patterns=('kernel',), rank=1, alpha_scale=10.0)
    >>> lora = {'kernel': {'a': jnp.array([[1.0, 2]]), 'b': jnp.ones([3, 1])}}
    >>> lora_apply(params, lora, config)['kernel'].tolist()
    [[10.0, 10.0, 10.0], [20.0, 20.0, 20.0]]
  """
  targets = _targets(params, config)
  adapters, arrays, found = paths.flatten(lora)
  _, shapes, expected = paths.flatten(_shapes(targets, config))
  if found != expected:
    raise ValueError(f'lora must have the structure {expected}, got {found}.')
  for name, x, s in zip(adapters, arrays, shapes, strict=True):
    if x.shape != s.shape:
      raise ValueError(
          f'lora must have {name} of shape {s.shape}, got {x.shape}.'
      )
  by_name = dict(zip(adapters, arrays, strict=True))
  names, leaves, treedef = paths.flatten(jax.lax.stop_gradient(params))
  effective = []
  for path, w in zip(names, leaves, strict=True):
    if path in targets:
      a, b = by_name[f'{path}/a'], by_name[f'{path}/b']
      product = jnp.einsum('...ri,...or->...io', a, b, precision='highest')
      scale = np.float32(config.scale)
      w = (w + scale * product.reshape(w.shape)).astype(w.dtype)
      if keep is not None:
        w = keep(path, w, a, scale * b)
    effective.append(w)
  return treedef.unflatten(effective)


class _Target(NamedTuple):
  """A matrix that is adapted."""

  layers: int | None  # size of the leading axis if it counts layers
  inputs: int
  outputs: int


def _targets(params, config) -> dict[str, _Target]:
  """Returns the matrices to adapt by path; checks the patterns."""
  names, leaves, _ = paths.flatten(params)
  for pattern in config.patterns:
    if 'head' in pattern and not any(re.search(pattern, n) for n in names):
      raise ValueError(
          f'patterns: {pattern!r} matches no parameter. With tied embeddings'
          ' the head has no matrix of its own (tie_embeddings=False gives it'
          f' one). The paths are: {", ".join(names)}.'
      )
  paths.check_patterns('patterns', config.patterns, names)
  targets = {}
  for path, leaf in zip(names, leaves, strict=True):
    if not paths.matches(path, config.patterns):
      continue
    layers, shape = None, leaf.shape
    if paths.matches(path, (config.stacked,)):
      layers, shape = shape[0], shape[1:]
    number = next(
        (n for rule, n in config.input_axes if re.search(rule, path)), None
    )
    if number is None:
      raise ValueError(
          f'input_axes must say how many axes of {path} are inputs; no pattern'
          f' of {config.input_axes} is found in it.'
      )
    if len(shape) <= number:
      raise ValueError(
          f'patterns must match matrices: {path} has the axes {shape}, of which'
          f' {number} are inputs and none is left for outputs.'
      )
    inputs, outputs = math.prod(shape[:number]), math.prod(shape[number:])
    targets[path] = _Target(layers, inputs, outputs)
  return targets


def _shapes(targets, config):
  tree: dict[str, Any] = {}
  for path, (layers, inputs, outputs) in targets.items():
    node = tree
    for name in path.split('/'):
      node = node.setdefault(name, {})
    leading = () if layers is None else (layers,)
    for name, shape in (
        ('a', (config.rank, inputs)), ('b', (outputs, config.rank))
    ):
      node[name] = jax.ShapeDtypeStruct((*leading, *shape), jnp.float32)
  return tree
