"""Whole optimizers with a gate: AdamW, or Muon for the matrices beside it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from iblm_jax.optim import _checks, schedules, transforms
from iblm_jax.optim import dual as dual_lib
from iblm_jax.optim import gate as gate_lib

NOT_DECAYED = ('scale', 'bias', 'embedding')


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """Holds the options of an optimizer.

  Attributes:
    schedule: schedule of the learning rate. Its peak is that of Muon if Muon is
      used.
    name: 'adamw', or 'muon' for Muon on the matrices and AdamW on the rest.
    b1: decay of Adam's first moment, in [0, 1).
    b2: decay of Adam's second moment, in [0, 1).
    eps: number that is added to Adam's denominators, > 0.
    weight_decay: decoupled weight decay, which is multiplied by the learning
      rate, >= 0. It acts on the parameters that the decay mask names, with Muon
      on its matrices only.
    clip_norm: the largest global norm of the gradients, > 0, or None.
    group_peaks: peak learning rate, > 0, of each named group of parameters: a
      mapping or (name, peak) pairs. Other parameters use the schedule's peak.
      All follow the schedule's course.
    momentum: Muon's momentum, in [0, 1).
    momentum_start: Muon's momentum at step 0, in [0, 1), from where it rises
      linearly.
    momentum_warmup_steps: number of updates until `momentum` is reached, >= 0;
      0 starts with it.

  Raises:
    ValueError: an option is outside its range.

  Examples:
    Pre-training in arXiv 2505.08727:

    >>> config = OptimizerConfig(
    ...     name='muon',
    ...     schedule=schedules.ScheduleConfig(
    ...         name='wsd', peak=0.05, total_steps=1750),
    ...     b1=0.8, b2=0.95, weight_decay=0.0, clip_norm=None,
    ...     group_peaks={'head': 0.008, 'embedding': 0.6, 'scalar': 0.04})
  """

  schedule: schedules.ScheduleConfig
  name: Literal['adamw', 'muon'] = 'adamw'
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  clip_norm: float | None = 1.0
  group_peaks: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
  momentum: float = 0.95
  momentum_start: float = 0.85
  momentum_warmup_steps: int = 300

  def __post_init__(self):
    """Checks the options."""
    _checks.choice('name', self.name, ('adamw', 'muon'))
    for name in ('b1', 'b2', 'momentum', 'momentum_start'):
      _checks.number(name, getattr(self, name), 'in [0, 1)', high=1.0)
    _checks.number('eps', self.eps, 'finite and > 0', low_open=True)
    _checks.number('weight_decay', self.weight_decay, 'finite and >= 0')
    _checks.integer('momentum_warmup_steps', self.momentum_warmup_steps, 0)
    if self.clip_norm is not None:
      _checks.number(
          'clip_norm', self.clip_norm, 'None or finite and > 0', low_open=True
      )
    # Pairs, unlike a mapping, keep the options hashable.
    try:
      pairs = tuple(dict(self.group_peaks).items())
    except (TypeError, ValueError):
      raise ValueError(
          'group_peaks must map groups to learning rates, got'
          f' {self.group_peaks!r:.80}.'
      ) from None
    object.__setattr__(self, 'group_peaks', pairs)
    for group, peak in pairs:
      name = f'group_peaks[{group!r}]'
      _checks.number(name, peak, 'finite and > 0', low_open=True)


def decay_mask_by_name(params: Any) -> Any:
  """Marks the parameters that weight decay shrinks, by their name.

  Args:
    params: any tree; the keys of dicts, fields and attributes are names.

  Returns:
    A tree of bools, False if the last name on the path is 'scale', 'bias' or
    'embedding', and True otherwise. Ranks are not looked at, since parameters
    that are stacked over layers have one more.

  Examples:
    >>> decay_mask_by_name({'dense': {'kernel': 1.0, 'bias': 1.0}})
    {'dense': {'bias': False, 'kernel': True}}
  """

  def decays(path, leaf):
    del leaf
    name = jax.tree_util.keystr(path[-1:], simple=True) if path else ''
    return name not in NOT_DECAYED

  return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(
    config: OptimizerConfig,
    gate: gate_lib.GateConfig | None = None,
    *,
    dual: dual_lib.DualConfig | None = None,
    decay_mask: Callable[[Any], Any] = decay_mask_by_name,
    group_labels: Callable[[Any], Any] | None = None,
    muon_dimension_numbers: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Chains the gate, clipping and the optimizer.

  The gradients that `update` takes are already weighted by the phase; the gate
  is in the chain for its state. For an optimizer that weights them itself, put
  `with_gapt` around the one without a gate. The learning rate of a step is
  `make_schedule(config.schedule)(step)`, times `group_peaks[g] / peak` for a
  group g. The three callables are given trees of parameters, or of updates
  with parts masked by optax, and must map over whatever leaves they find, as
  `jax.tree_util.tree_map_with_path` does.

  Args:
    config: options of the optimizer.
    gate: options of the gate; None for none in the chain.
    dual: options of dual ascent, whose state is then in the chain as well.
    decay_mask: params -> tree of bools, True where weight decay applies.
    group_labels: params -> tree of strings, the group of each parameter. It is
      needed with `group_peaks`.
    muon_dimension_numbers: params -> tree with an
      `optax.contrib.MuonDimensionNumbers` for each matrix and None for each
      parameter left to AdamW. It is needed for 'muon'. Axes that it does not
      name, such as stacked layers, are independent matrices.

  Returns:
    A transformation whose `update` needs `params` and, with a gate, `value` and
    `aux_value`, see `phase_gate`.

  Raises:
    ValueError: a callable that `config` needs is missing or has no use; from
      `init`, when a name in `group_peaks` is the label of no parameter.

  Examples:
    >>> config = OptimizerConfig(
    ...     schedule=schedules.ScheduleConfig(total_steps=100))
    >>> tx = make_optimizer(config, gate_lib.GateConfig())
    >>> opt_state = tx.init({'kernel': jnp.ones((2, 2))})
    >>> int(opt_state[0].phase)
    1

  References:
    AdamW: arXiv 1711.05101. Muon: Jordan et al., 2024; matrices are scaled by
    sqrt(max(1, fan_out / fan_in)) as there. Its momentum is bias-corrected.
  """
  if config.name == 'muon' and muon_dimension_numbers is None:
    raise ValueError(
        "muon_dimension_numbers must be given for name='muon': a function of"
        ' the parameters that tells which of their axes form matrices.'
    )
  if config.name != 'muon' and muon_dimension_numbers is not None:
    raise ValueError(
        "muon_dimension_numbers is for name='muon' only, got"
        f' name={config.name!r}.'
    )
  if config.group_peaks and group_labels is None:
    raise ValueError(
        'group_labels must be given with group_peaks, got'
        f' group_peaks={dict(config.group_peaks)!r}.'
    )
  parts: list[optax.GradientTransformation] = []
  if gate is not None:
    parts.append(transforms.phase_gate(gate))
  if dual is not None:
    parts.append(dual_lib.dual_weight(dual))
  if config.clip_norm is not None:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  if config.name == 'adamw':
    parts.append(_adamw(config, config.weight_decay, decay_mask))
  else:
    parts.append(_muon_and_adamw(config, decay_mask, muon_dimension_numbers))
  if config.group_peaks:
    peak = config.schedule.peak
    factors = {g: p / peak for g, p in dict(config.group_peaks).items()}
    parts.append(_scale_groups(factors, group_labels))
  return optax.chain(*parts)


def _adamw(config, weight_decay, mask):
  return optax.adamw(
      schedules.make_schedule(config.schedule),
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=weight_decay,
      mask=mask,
  )


def _muon_and_adamw(config, decay_mask, dimension_numbers):
  """Muon and AdamW side by side."""
  # The AdamW inside `optax.contrib.muon` uses Nesterov momentum if Muon does.

  def muon(beta):
    return optax.contrib.muon(
        schedules.make_schedule(config.schedule),
        beta=beta,
        mu_dtype=jnp.float32,
        weight_decay=config.weight_decay,
        weight_decay_mask=decay_mask,
        muon_weight_dimension_numbers=dimension_numbers,
    )

  if config.momentum_warmup_steps:
    beta = optax.linear_schedule(
        config.momentum_start, config.momentum, config.momentum_warmup_steps
    )
    muon_tx = optax.inject_hyperparams(muon)(beta=beta)
  else:
    muon_tx = muon(config.momentum)

  def labels(params):
    is_leaf = lambda x: x is None or isinstance(
        x, optax.contrib.MuonDimensionNumbers
    )
    return jax.tree.map(
        lambda x: 'adamw' if x is None else 'muon',
        dimension_numbers(params),
        is_leaf=is_leaf,
    )

  def like_params(updates: Any, params: Any) -> Any:
    return optax.tree.cast_like(updates, params)

  # Muon's momentum is float32, whatever the dtypes of the parameters.
  muon_tx = optax.chain(muon_tx, optax.stateless(like_params))
  adamw = _adamw(config, 0.0, decay_mask)
  return optax.partition({'muon': muon_tx, 'adamw': adamw}, labels)


def _scale_groups(factors, labels_fn):
  """Gives each group a learning rate of its own."""
  # All that AdamW and Muon emit, decay included, is proportional to the
  # learning rate, so factors do what schedules of the groups would.

  def init_fn(params):
    present = set(jax.tree.leaves(labels_fn(params)))
    # optax.tree_map_params calls with a placeholder that has no leaves.
    unused = sorted(set(factors) - present) if jax.tree.leaves(params) else []
    if unused:
      raise ValueError(
          f'group_peaks names {", ".join(map(repr, unused))}, but group_labels'
          f' gives only {", ".join(map(repr, sorted(present)))}.'
      )
    return optax.EmptyState()

  def update_fn(updates, state, params=None):
    del params
    scale = lambda label, u: u * factors.get(label, 1.0)
    return jax.tree.map(scale, labels_fn(updates), updates), state

  return optax.GradientTransformation(init_fn, update_fn)
