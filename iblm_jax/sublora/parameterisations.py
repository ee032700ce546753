"""Four ways to train a model, behind one interface: what is trained is small.

| kind | trained, all zeros at the start | parameters of the model |
| --- | --- | --- |
| `subspace` | w [d] | θ0 + P w |
| `sublora` | w [d] | θ0 with adapters u0 + P w |
| `lora` | change of the adapters | θ0 with adapters u0 + change |
| `full` | change of every parameter | θ0 + change |

What is trained is always the difference to an initial value that comes from a
seed. So zeros are the initial model in all four, a coder needs no bits for θ0
or u0, zeros are cheap, and weight decay pulls towards what costs nothing.
(arXiv 2312.17173, section 4.)
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from iblm_jax import fields
from iblm_jax.sublora import layout, paths, prng, projectors
from iblm_jax.sublora import lora as lora_lib
from iblm_jax.typing import PyTree

KINDS = ('subspace', 'sublora', 'lora', 'full')


@dataclasses.dataclass(frozen=True)
class ParameterisationConfig:
  """What is trained.

  Attributes:
    kind: A row of the table above.
    dims: d or (d1, d2) of the projector; None where there is none.
    projector: Kind of projector, see `make_projector`.
    entries: Entries of the projector 'kron': 'normal' or 'sign'.
    hold: Keep the projector's factors rather than draw them at each use.
    direct: Patterns of leaves that take their own slice of w.

  Raises:
    ValueError: If the kind is unknown, or lacks an option or does not use it.
  """

  kind: str = fields.field('sublora', choices=KINDS)
  dims: int | tuple[int, int] | None = None
  projector: str = 'kron'
  entries: str = 'normal'
  hold: bool = True
  direct: tuple[str, ...] = ()
  lora: lora_lib.LoraConfig | None = None

  def __post_init__(self):
    fields.check(self)
    for name, needed in (
        ('dims', self.has_projector), ('lora', self.has_adapters)
    ):
      value = getattr(self, name)
      if (value is not None) != needed:
        given = 'given' if needed else 'None'
        raise ValueError(
            f'{name} must be {given} for kind={self.kind!r}, got {value!r}.'
        )

  @property
  def has_projector(self) -> bool:
    """Whether the trained vector is projected."""
    return self.kind in ('subspace', 'sublora')

  @property
  def has_adapters(self) -> bool:
    """Whether the model's own parameters stay as they are."""
    return self.kind in ('sublora', 'lora')


@dataclasses.dataclass(frozen=True)
class Parameterisation:
  """Functions between what is trained and what the model takes.

  Attributes:
    initial: The trained pytree at the start: float32 zeros.
    fixed: Everything else, a pytree, to be passed to compiled functions:
      'params' (θ0), 'lora' (u0) and 'projector', where there are any.
  """

  config: ParameterisationConfig
  initial: PyTree
  fixed: dict[str, PyTree]

  @property
  def num_trained(self) -> int:
    """Numbers that are trained (and coded), d."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.initial))

  def expand(
      self, trained: PyTree, fixed: dict[str, PyTree] | None = None
  ) -> PyTree:
    """Returns the model's parameters.

    Args:
      trained: A tree like `initial`. Gradients flow into it alone.
      fixed: `self.fixed`, as an argument of the compiled function around:
        left out, it is compiled into it as constants.

    Returns:
      A tree like θ0, with its dtypes; equal to it where `trained` is zero.
    """
    return expand(
        trained, self.fixed if fixed is None else fixed, self.config
    )

  def to_vector(self, trained: PyTree) -> jax.Array:
    """Returns all trained numbers, float32 [d], in the order of the leaves.

    Raises:
      ValueError: If the structure of `trained` is not that of `initial`.
    """
    leaves, treedef = jax.tree.flatten(trained)
    expected = jax.tree.structure(self.initial)
    if treedef != expected:
      raise ValueError(f'trained must be {expected}, got {treedef}.')
    return layout.flat(leaves)

  def from_vector(self, w_d: jax.Array) -> PyTree:
    """Returns the tree of a vector, the inverse of `to_vector`.

    Raises:
      ValueError: If `w_d` does not have the shape [d].
    """
    if w_d.shape != (self.num_trained,):
      raise ValueError(
          f'w must have shape ({self.num_trained},), got {w_d.shape}.'
      )
    leaves, treedef = jax.tree.flatten(self.initial)
    shapes = [leaf.shape for leaf in leaves]
    return treedef.unflatten(layout.unflat(w_d.astype(jnp.float32), shapes))


def make(
    config: ParameterisationConfig, params0: PyTree, key: jax.Array
) -> Parameterisation:
  """Makes a parameterisation of a model around its initial parameters.

  Args:
    params0: θ0. To be certified it must come from a seed, not from data.
    key: Typed, threefry2x32; of adapters and projector.

  Raises:
    ValueError: As `lora_init` and `make_projector`.

  Example:
    >>> params0 = {'kernel': jnp.ones([8, 4])}
    >>> config = ParameterisationConfig('subspace', dims=6)
    >>> made = make(config, params0, jax.random.key(0))
    >>> made.num_trained
    6
    >>> bool(jnp.all(made.expand(made.initial)['kernel'] == 1))
    True
  """
  prng.check_key(key)
  fixed = {'params': params0}
  changed = params0
  if config.lora is not None:
    lora_key = prng.named_key(key, 'lora')
    changed = lora_lib.lora_init(params0, config.lora, lora_key)
    fixed['lora'] = changed
  if config.dims is None:
    zeros = lambda leaf: jnp.zeros_like(leaf, jnp.float32)
    initial = jax.tree.map(zeros, changed)
    return Parameterisation(config, initial, fixed)
  projector = projectors.make_projector(
      config.projector,
      changed,
      config.dims,
      prng.named_key(key, 'projector'),
      hold=config.hold,
      entries=config.entries,
      direct=config.direct,
      stacked=config.lora.stacked if config.lora else paths.STACKED,
  )
  fixed['projector'] = projector
  initial = jnp.zeros(projector.size, jnp.float32)
  return Parameterisation(config, initial, fixed)


def expand(
    trained: PyTree,
    fixed: dict[str, PyTree],
    config: ParameterisationConfig,
    *,
    keep: lora_lib.Keep | None = None,
) -> PyTree:
  """Returns the model's parameters, see `Parameterisation.expand`.

  Args:
    trained: As there, and so is `fixed`.
    config: Of the parameterisation.
    keep: Of `lora_apply`, where there are adapters.
  """
  fixed = {
      name: part if name == 'projector' else jax.lax.stop_gradient(part)
      for name, part in fixed.items()
  }
  if config.lora is None:
    return _add(fixed['params'], _change(trained, fixed, config))
  adapters = adapters_of(trained, fixed, config)
  return lora_lib.lora_apply(
      fixed['params'], adapters, config.lora, keep=keep
  )


def adapters_of(
    trained: PyTree, fixed: dict[str, PyTree], config: ParameterisationConfig
) -> PyTree:
  """Returns the adapters of 'lora' and 'sublora', see `lora_init`."""
  return _add(fixed['lora'], _change(trained, fixed, config))


def _change(trained, fixed, config):
  return fixed['projector'].apply(trained) if config.dims else trained


def subspace(
    params0: PyTree, projector: projectors.Projector
) -> tuple[jax.Array, Callable[[jax.Array], PyTree]]:
  """Returns a random subspace through initial parameters.

  Args:
    projector: Made for a tree like it.

  Returns:
    Zeros [d], and w -> θ0 + P w, which has θ0 and P as constants: see
    `Parameterisation.expand` for a form to compile.
  """
  zeros = jnp.zeros(projector.size, jnp.float32)
  return zeros, lambda w_d: _add(params0, projector.apply(w_d))


def _add(tree, change):
  """Adds in float32, in the dtypes of `tree`."""
  return jax.tree.map(lambda x, y: (x + y).astype(x.dtype), tree, change)
