"""The compiled functions of a run on a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from iblm_jax.models import families, parameter_groups
from iblm_jax.models.nn import layers
from iblm_jax.optim import freezing, optimizers, schedules
from iblm_jax.sublora import parameterisations, paths, prng
from iblm_jax.training import evaluation, options, published_start
from iblm_jax.training import state as state_lib
from iblm_jax.training import step as step_lib
from iblm_jax.training.scale import capacity
from iblm_jax.training.scale import mesh as mesh_lib

# Parameters of a decoder that are kernels of `layers.Linear`.
_LINEAR = ('^blocks/(attention|mlp)/.*/kernel$',)


class Program:
  """Initialisation and steps, jitted with the shardings of a mesh.

  Attributes:
    mesh: of devices.
    abstract_state: shapes, dtypes and shardings of the training state.
    batch_sharding: of batch arrays [B, ...].
    init: key -> state; no array is ever whole on one device.
    train_step: (state, batch) -> (state, metrics); donates the state.
    train_steps: the same for each stage of `train.windows` (without stages,
      `train_step` alone), with the model that it trains.
    aligned_steps: `train_steps` that also measure the alignment of gradients;
      compiled where they are first called.
    eval_step: (params of the model, batch) -> sums.
  """

  def __init__(self, cfg: options.RunConfig, devices: Any = None):
    """Builds everything but arrays; nothing is compiled yet.

    Args:
      cfg: the run.
      devices: of the mesh; by default all.

    Raises:
      ValueError: if mesh, devices and batch do not fit together.
    """
    self.mesh = mesh_lib.make_mesh(cfg.mesh, devices)
    shards = mesh_lib.batch_shards(self.mesh, cfg.mesh)
    rows = cfg.data.batch_size // cfg.train.accumulation
    if rows % shards:
      raise ValueError(
          'data.batch_size / train.accumulation must be a multiple of the'
          f' {shards} pieces that the mesh splits a batch into, got {rows}.'
      )
    for name, stack in families.stacks(cfg.model).items():
      path = f'model.{name}.' if name else 'model.'
      sizes = {
          'embed': (f'{path}width', stack.width),
          'heads': (
              f'{path}num_{"kv_" if stack.num_kv_heads else ""}heads',
              stack.kv_heads,
          ),
          'mlp': (f'{path}mlp_width', stack.hidden_width),
      }
      if stack.mixer is not None:  # its heads are split, or it has none
        heads = stack.mixer.num_heads
        sizes['heads'] = (f'{path}mixer.num_heads', heads)
        if heads == 1:
          del sizes['heads']
      mesh_lib.check_model(sizes, self.mesh, cfg.mesh)
    platform = self.mesh.devices.flat[0].platform
    # Of the mesh, which need not be that of this host.
    model = families.resolve_attention(cfg.model, platform)
    tx = make_optimizer(cfg)
    init = functools.partial(
        state_lib.init_state,
        cfg=model,
        tx=tx,
        parameterisation=cfg.parameterisation,
    )
    self._cfg = cfg
    with capacity.counting(cfg):
      self.abstract_state = abstract_state(cfg, self.mesh)
    capacity.check_state(cfg, self.abstract_state)
    check_frozen(cfg, self.abstract_state.params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
    self.batch_sharding = mesh_lib.batch_sharding(self.mesh, cfg.mesh)
    replicated = mesh_lib.replicated(self.mesh)

    def ruled(function):
      """Tells linen which mesh axis a logical axis is, backwards too."""

      def step(*args):
        with nn.logical_axis_rules(cfg.mesh.rules):
          return function(*args)

      return step

    self.init = jax.jit(
        init,
        out_shardings=shardings,
        compiler_options=prng.compiler_options(
            self.abstract_state.params, platform
        ),
    )

    def train_step(model, align=None):
      settings = dict(
          num_layers=families.num_layers(model),
          tx=tx,
          learning_rate=schedules.make_schedule(cfg.optimizer.schedule),
          objective=cfg.objective,
          gate_config=cfg.gate,
          dual_config=cfg.dual,
          accumulation=cfg.train.accumulation,
          task=cfg.task,
          vocab_size=model.vocab_size,
          align=align,
      )
      out = (shardings, replicated)
      if cfg.parameterisation is None:
        return jax.jit(
            ruled(
                functools.partial(
                    step_lib.train_step,
                    apply=_apply(model, cfg.frozen),
                    **settings,
                )
            ),
            in_shardings=(shardings, self.batch_sharding),
            out_shardings=out,
            donate_argnums=0,
        )

      # Of published models, which are decoders; what is from random parameters
      # keeps the rounding that it always had.
      published = cfg.start is not None and align is None

      def step(fixed, state, batch):
        expand = functools.partial(
            parameterisations.expand,
            fixed=fixed,
            config=cfg.parameterisation,
            keep=kept if published else None,
        )
        return step_lib.train_step(
            state, batch, apply=_apply(model), expand=expand, **settings
        )

      jitted = jax.jit(
          ruled(step),
          in_shardings=(None, shardings, self.batch_sharding),
          out_shardings=out,
          donate_argnums=1,
      )
      return _WithFixed(jitted, lambda: self.parameterisation.fixed)

    stages = [
        dataclasses.replace(model, window=window)
        for window in cfg.train.windows
    ] or [model]
    self.train_steps = [(train_step(stage), stage) for stage in stages]
    self.train_step = self.train_steps[-1][0]
    self.aligned_steps = [
        (train_step(stage, cfg.alignment), stage) for stage in stages
    ]
    self.eval_step = jax.jit(
        ruled(
            functools.partial(
                evaluation.eval_step,
                apply=_apply(model),
                task=cfg.task,
                vocab_size=model.vocab_size,
            )
        ),
        in_shardings=(
            shardings.params if cfg.parameterisation is None else None,
            self.batch_sharding,
        ),
        out_shardings=replicated,
    )

  @functools.cached_property
  def parameterisation(self) -> parameterisations.Parameterisation:
    """Of a run that has one: what is trained, and what no step changes.

    A function of the config, and of a published model that it names, so no
    checkpoint holds it.
    """
    cfg = self._cfg
    assert cfg.parameterisation is not None
    shardings = param_shardings(cfg, self.mesh)
    with jax.set_mesh(self.mesh):
      key = jax.random.key(cfg.train.seed)
      if cfg.start is not None:
        params = published_start.read_params(cfg.start, cfg.model, shardings)
      else:
        params = prng.run_once(
            functools.partial(families.init, cfg=cfg.model),
            key,
            out_shardings=shardings,
        )
      return parameterisations.make(cfg.parameterisation, params, key)

  def model_params(self, trained: Any) -> Any:
    """Parameters of the model, of what is trained: `state.params`."""
    if self._cfg.parameterisation is None:
      return trained
    return self._expand(trained, self.parameterisation.fixed)

  @functools.cached_property
  def _expand(self):
    cfg = self._cfg.parameterisation
    assert cfg is not None
    return jax.jit(functools.partial(parameterisations.expand, config=cfg))


class _WithFixed:
  """A compiled function whose first argument is always the same."""

  def __init__(self, function: Any, fixed: Callable[[], Any]):
    self._function, self._fixed = function, fixed

  def __call__(self, *args):
    return self._function(self._fixed(), *args)

  def lower(self, *args):
    return self._function.lower(self._fixed(), *args)


def kept(path: str, kernel: jax.Array, a: jax.Array, b: jax.Array) -> Any:
  """Keeps the adapter of a kernel of `layers.Linear`, see `lora_apply`."""
  if not paths.matches(path, _LINEAR):
    return kernel
  return layers.Adapted(jax.lax.stop_gradient(kernel), a, b)


def _apply(model: families.ModelConfig, frozen: tuple[str, ...] = ()):
  def apply(params, tokens_BxL, **kwargs):
    if frozen:  # nothing of the backward pass is computed for them
      params = jax.tree.map(
          lambda trains, leaf: leaf if trains else jax.lax.stop_gradient(leaf),
          trained_leaves(params, frozen),
          params,
      )
    return families.apply(params, tokens_BxL, model, **kwargs)

  return apply


def trained_leaves(params: Any, frozen: tuple[str, ...]) -> Any:
  """A tree of bools like `params`, False where a path matches a pattern."""
  names, _, treedef = paths.flatten(params)
  return treedef.unflatten(not paths.matches(name, frozen) for name in names)


def num_trained(params: Any, frozen: tuple[str, ...]) -> int:
  """Counts the numbers of `params` whose paths match no pattern."""
  trained = jax.tree.leaves(trained_leaves(params, frozen))
  leaves = zip(jax.tree.leaves(params), trained, strict=True)
  return sum(leaf.size for leaf, trains in leaves if trains)


def check_frozen(cfg: options.RunConfig, params: Any) -> None:
  """Makes sure that what stays as it is leaves something to do.

  Raises:
    ValueError: where a pattern of `frozen` matches nothing, nothing is left to
      train, or the entropy to lower is of layers that stay as they are.
  """
  names, _, _ = paths.flatten(params)
  paths.check_patterns('frozen', cfg.frozen, names)
  if all(paths.matches(name, cfg.frozen) for name in names):
    raise ValueError(f'frozen must leave something to train, got {cfg.frozen}.')
  measured = next(iter(families.stacks(cfg.model)), None)
  if cfg.objective.method != 'ce' and measured in frozen_stacks(cfg, params):
    raise ValueError(
        f"objective.method must be 'ce' where all of the {measured} is frozen:"
        ' the entropy is that of its layers, got'
        f' {cfg.objective.method!r} with frozen={cfg.frozen}.'
    )


def frozen_stacks(cfg: options.RunConfig, params: Any) -> tuple[str, ...]:
  """Stacks, of `families.stacks`, of which no parameter is trained.

  Args:
    cfg: of the run.
    params: of the model; shapes are enough.
  """
  if not cfg.frozen:
    return ()
  names, _, _ = paths.flatten(params)
  trained = [name for name in names if not paths.matches(name, cfg.frozen)]
  return tuple(
      stack
      for stack in families.stacks(cfg.model)
      if stack and not any(name.startswith(f'{stack}/') for name in trained)
  )


def abstract_state(
    cfg: options.RunConfig, mesh: jax.sharding.Mesh
) -> state_lib.TrainState:
  """Shapes, dtypes and shardings of a run's training state on a mesh."""
  first = functools.partial(
      state_lib.first_state,
      tx=make_optimizer(cfg),
      parameterisation=cfg.parameterisation,
  )
  abstract = jax.eval_shape(
      first, families.shapes(cfg.model), jax.random.key(0)
  )
  kind = cfg.parameterisation and cfg.parameterisation.kind
  if kind in (None, 'full'):
    axes = families.logical_axes(cfg.model)
  else:  # few numbers, on every device
    axes = jax.tree.map(
        lambda _: jax.sharding.PartitionSpec(), abstract.params
    )
  shardings = mesh_lib.state_shardings(abstract, axes, mesh, cfg.mesh)
  return jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=sharding
      ),
      abstract,
      shardings,
  )


def param_shardings(cfg: options.RunConfig, mesh: jax.sharding.Mesh) -> Any:
  """Shardings of the model's parameters, whatever is trained of them."""
  whole = dataclasses.replace(cfg, parameterisation=None, start=None)
  abstract = abstract_state(whole, mesh).params
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def make_optimizer(cfg: options.RunConfig):
  """The optimizer of a run, with the parameter groups of the models."""
  if cfg.parameterisation is not None:
    # Decay pulls everything towards zero, which is where a code is short.
    return optimizers.make_optimizer(
        cfg.optimizer,
        cfg.gate,
        dual=cfg.dual,
        decay_mask=lambda trained: jax.tree.map(lambda _: True, trained),
    )
  made = _by_group(cfg)
  if not cfg.frozen:
    return made
  return freezing.train_only(
      made, functools.partial(trained_leaves, frozen=cfg.frozen)
  )


def _by_group(cfg: options.RunConfig):
  groups = parameter_groups.group_labels
  muon = parameter_groups.muon_dimension_numbers
  return optimizers.make_optimizer(
      cfg.optimizer,
      cfg.gate,
      dual=cfg.dual,
      decay_mask=parameter_groups.decay_mask,
      group_labels=groups if cfg.optimizer.group_peaks else None,
      muon_dimension_numbers=muon if cfg.optimizer.name == 'muon' else None,
  )
