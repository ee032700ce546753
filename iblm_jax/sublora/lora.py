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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iblm_jax.sublora import paths
from iblm_jax.sublora import prng as draws

QUERY_VALUE = ('attention/query/kernel$', 'attention/value/kernel$')
HEAD = ('^head/kernel$',)

# Kernels have their input axes first. Attention's output maps heads and the
# width of a head; all other kernels have one input axis.
INPUT_AXES = (('attention/out/kernel$', 2), ('kernel$', 1))


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Which matrices get adapters, and of what size.

  Attributes:
    patterns: regular expressions; a parameter whose path (such as
      'blocks/attention/query/kernel') one of them is found in is adapted. By
      default the paper's choice: query and value of every block and the head.
    rank: r.
    alpha_scale: α; the product B A is scaled by α / r.
    input_axes: pairs of a pattern and the number of leading axes (after that
      of the layers) that are inputs; the first that is found in a path counts.
      All further axes are outputs. Nothing is concluded from shapes.
    stacked: pattern of paths whose leading axis counts layers.

  Raises:
    ValueError: where a value is outside its range.
  """

  patterns: tuple[str, ...] = QUERY_VALUE + HEAD
  rank: int = 4
  alpha_scale: float = 32.0
  input_axes: tuple[tuple[str, int], ...] = INPUT_AXES
  stacked: str = paths.STACKED

  def __post_init__(self):
    paths.check_regexes('patterns', self.patterns)
    paths.check_regexes('stacked', (self.stacked,))
    if not self.patterns:
      raise ValueError('patterns must name at least one matrix, got ().')
    if isinstance(self.rank, bool) or not isinstance(self.rank, int) or (
        self.rank < 1
    ):
      raise ValueError(f'rank must be an int >= 1, got {self.rank!r}.')
    if not 0 < self.alpha_scale < math.inf:
      raise ValueError(
          f'alpha_scale must be finite and > 0, got {self.alpha_scale!r}.'
      )
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
    """α / r."""
    return self.alpha_scale / self.rank


def lora_init(params: Any, config: LoraConfig, key: jax.Array) -> Any:
  """Adapters that change nothing yet: A uniform, B zero.

  Args:
    params: of the model; arrays or ShapeDtypeStructs, only shapes are read.
    config: which matrices.
    key: typed, threefry2x32; A depends on it, the path and the layer alone.

  Returns:
    Nested dicts along the paths of the adapted matrices, each with 'a' float32
    [..., r, in], uniform in ±1/√in (Kaiming with a = √5), and 'b' [..., out, r]
    zeros; stacked layers keep their leading axis.

  Raises:
    ValueError: if a pattern matches no parameter (the paths are listed), if a
      matched parameter is no matrix, or if nothing says which of its axes are
      inputs.

  Example:
    >>> params = {'mlp': {'kernel': jnp.ones([8, 4])}}
    >>> config = LoraConfig(patterns=('kernel',), rank=2)
    >>> lora = lora_init(params, config, jax.random.key(0))
    >>> jax.tree.map(jnp.shape, lora)
    {'mlp': {'kernel': {'a': (2, 8), 'b': (4, 2)}}}
  """
  draws.check_key(key)
  tree: dict[str, Any] = {}
  targets = _targets(params, config)
  requests = [
      (path, layers or 1, (config.rank,)) for path, layers, _, _ in targets
  ]
  for width in sorted({inputs for _, _, inputs, _ in targets}):
    chosen = [
        request
        for request, (_, _, inputs, _) in zip(requests, targets, strict=True)
        if inputs == width
    ]
    drawn = draws.draw_all(key, chosen, width, 'uniform')
    for (path, *_), a in zip(chosen, drawn, strict=True):
      _insert(tree, path, a * np.float32(1 / math.sqrt(width)))
  for path, layers, _, outputs in targets:
    node = _node(tree, path)
    if layers is None:
      node['a'] = node['a'][0]
    node['b'] = jnp.zeros(
        (*node['a'].shape[:-2], outputs, config.rank), jnp.float32
    )
  return tree


def lora_apply(params: Any, lora: Any, config: LoraConfig) -> Any:
  """Effective parameters: W + (α / r) B A where there is an adapter.

  Args:
    params: of the model. No gradient flows into them.
    lora: from `lora_init`, or of its structure and shapes.
    config: as given to `lora_init`.

  Returns:
    A tree like `params`, with their dtypes; leaves without adapter are the
    same arrays.

  Raises:
    ValueError: as `lora_init`, or if `lora` has not the shapes that the config
      asks for.

  Example:
    >>> params = {'kernel': jnp.zeros([2, 3])}
    >>> config = LoraConfig(patterns=('kernel',), rank=1, alpha_scale=10.0)
    >>> lora = {'kernel': {'a': jnp.array([[1.0, 2]]), 'b': jnp.ones([3, 1])}}
    >>> lora_apply(params, lora, config)['kernel'].tolist()
    [[10.0, 10.0, 10.0], [20.0, 20.0, 20.0]]
  """
  targets = {path: rest for path, *rest in _targets(params, config)}
  found = jax.tree.structure(lora)
  expected = jax.tree.structure(_skeleton(targets))
  if found != expected:
    raise ValueError(f'lora must have the structure {expected}, got {found}.')
  names, leaves, treedef = paths.flatten(jax.lax.stop_gradient(params))
  effective = []
  for path, w in zip(names, leaves, strict=True):
    if path in targets:
      layers, inputs, outputs = targets[path]
      pair = _node(lora, path)
      leading = () if layers is None else (layers,)
      shapes = {
          'a': (*leading, config.rank, inputs),
          'b': (*leading, outputs, config.rank),
      }
      for name, shape in shapes.items():
        if pair[name].shape != shape:
          raise ValueError(
              f'lora must have {path}/{name} of shape {shape}, got'
              f' {pair[name].shape}.'
          )
      product = jnp.einsum(
          '...ri,...or->...io', pair['a'], pair['b'], precision='highest'
      )
      delta = np.float32(config.scale) * product.reshape(w.shape)
      w = (w + delta).astype(w.dtype)
    effective.append(w)
  return treedef.unflatten(effective)


def _targets(params, config):
  """Path, layers (or None), inputs and outputs of every adapted matrix."""
  names, leaves, _ = paths.flatten(params)
  for pattern in config.patterns:
    if 'head' in pattern and not any(re.search(pattern, n) for n in names):
      raise ValueError(
          f'patterns: {pattern!r} matches no parameter. With tied embeddings'
          ' the head has no matrix of its own (tie_embeddings=False gives it'
          f' one). The paths are: {", ".join(names)}.'
      )
  paths.check_patterns('patterns', config.patterns, names)
  targets = []
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
    targets.append((path, layers, inputs, outputs))
  return targets


def _skeleton(targets):
  tree: dict[str, Any] = {}
  for path in targets:
    _insert(tree, path, 0)['b'] = 0
  return tree


def _insert(tree, path, a):
  for name in path.split('/'):
    tree = tree.setdefault(name, {})
  tree['a'] = a
  return tree


def _node(tree, path):
  for name in path.split('/'):
    tree = tree[name]
  return tree
