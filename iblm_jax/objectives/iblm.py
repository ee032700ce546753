"""The information-bottleneck objective: cross-entropy and entropy of layers.

The two losses stay apart until the backward pass, because the gate needs both
values before it knows how much of the second to add.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from iblm_jax import fields
from iblm_jax.objectives import causal, layer_weights, reductions
from iblm_jax.typing import ApplyFn, Batch, Outputs, PyTree

METHODS = ('ce', 'mbe', 'gapt', 'dual')


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """What is minimised.

  Attributes:
    method: 'ce' (cross-entropy alone), 'mbe' (plus the entropy loss at every
      step), 'gapt' (plus the entropy loss in the compression phase) or 'dual'
      (plus the entropy loss with a weight that holds the cross-entropy at a
      target, see `optim.dual`).
    weight: Weight lambda of the entropy loss; 'dual' has its own.
    reduction: From per-layer entropies to one; see `reductions`.
    layer_schedule: Layers that take part, by step; see `layer_weights`.
    floor: Kind of lower limit under weight * entropy.
    floor_at: The limit, nats.
    floor_sharpness: s of the softplus floor.
    measure_entropy: Measure it in training even where the method has no use for
      it ('ce'), so that runs can be compared.

  Raises:
    ValueError: If a value is outside its range; names field and value.
  """

  method: str = fields.field('gapt', choices=METHODS)
  weight: float = fields.field(1.0, low=0)
  reduction: str = fields.field('mean', choices=tuple(reductions.REDUCTIONS))
  layer_schedule: str = fields.field(
      'rotate', choices=tuple(layer_weights.SCHEDULES)
  )
  skip_first: int = fields.field(1, low=0)
  skip_last: int = fields.field(1, low=0)
  floor: str = fields.field('max', choices=('none', 'max', 'softplus'))
  floor_at: float = fields.field(1e-5, low=0)
  floor_sharpness: float = fields.field(0.1, above=0, finite=False)
  measure_entropy: bool = False

  def __post_init__(self):
    fields.check(self)
    lonely = ('rotate', 'alternating')
    if (
        self.reduction in reductions.PAIRWISE
        and self.layer_schedule in lonely
    ):
      raise ValueError(
          f'reduction {self.reduction!r} compares neighbouring layers, which'
          f' layer_schedule {self.layer_schedule!r} never activates together;'
          " use 'all_middle', 'weighted_valley', 'weighted_mountain' or"
          " 'slope'."
      )

  @property
  def measures_entropy(self) -> bool:
    """Whether the training step computes the entropy."""
    return self.method != 'ce' or self.measure_entropy


class Losses(NamedTuple):
  """The two losses, float32 scalars in nats, and a control."""

  main: jax.Array  # cross-entropy, mean over counted targets
  aux: jax.Array  # reduced entropy, without weight and floor
  # A control that is never minimised: log of the norm of the same layers.
  norm: jax.Array | None = None


def measure(
    params: PyTree,
    batch: Batch,
    *,
    apply: ApplyFn,
    collect: str | None,
) -> tuple[causal.TokenSums, Outputs]:
  """Runs one forward pass: sums over tokens, and the model's outputs.

  Args:
    collect: What to collect from every layer, as `apply` takes it.
  """
  outputs = apply(
      params,
      batch['tokens'],
      mask=batch['mask'],
      segment_ids=batch['segment_ids'],
      positions=batch['positions'],
      collect=collect,
  )
  sums = causal.token_sums(
      outputs.logits_BxLxV, batch['targets'], batch['loss_mask']
  )
  return sums, outputs


def losses(
    params: PyTree,
    batch: Batch,
    step: jax.Array,
    num_targets: jax.Array,
    *,
    apply: ApplyFn,
    num_layers: int,
    cfg: ObjectiveConfig,
    norm: bool = False,
) -> tuple[Losses, jax.Array | None]:
  """Computes cross-entropy and reduced entropy from one forward pass.

  Args:
    batch: `tokens`, `targets` (int [B, L]), `loss_mask`, `mask` (bool [B, L]),
      `segment_ids`, `positions` (int [B, L]); and, of several tasks at once,
      `loss_weight` (float [B], see `tasks.make`), in place of `num_targets`.
    step: int scalar, decides which layers are active.
    num_targets: float scalar that the cross-entropy is divided by: the number
      of counted targets of the whole batch, of which this may be a part.
    norm: Whether to give the norm's control too; the entropy must be measured.

  Returns:
    `Losses` and the entropy of every layer, float32 [N] (None if not measured,
    and then the auxiliary loss is 0).

  References:
    arXiv 2505.08727.
  """
  collect = 'entropy' if cfg.measures_entropy else None
  if norm:
    collect = 'entropy_and_norm'
  sums, outputs = measure(params, batch, apply=apply, collect=collect)
  entropy_N = outputs.entropy
  main = sums.nll / jnp.maximum(num_targets, 1.0)
  if 'loss_weight' in batch:  # rows of several tasks, each with its own mean
    nll_BxL = causal.token_nll(outputs.logits_BxLxV, batch['targets'])
    counted_BxL = jnp.where(batch['loss_mask'], nll_BxL, 0.0)
    main = jnp.sum(counted_BxL * batch['loss_weight'][:, None])
  if entropy_N is None:
    return Losses(main, jnp.zeros([], jnp.float32)), None
  weights_N = layer_weights.layer_weights(
      cfg.layer_schedule,
      step,
      num_layers=num_layers,
      skip_first=cfg.skip_first,
      skip_last=cfg.skip_last,
  )
  aux = reductions.reduce_entropy(cfg.reduction, entropy_N, weights_N)
  if not norm:
    return Losses(main, aux), entropy_N
  assert outputs.log_norm is not None  # collected with the entropy
  control = reductions.reduce_entropy('mean', outputs.log_norm, weights_N)
  return Losses(main, aux, control), entropy_N


def regularizer(
    aux: jax.Array, weight: jax.typing.ArrayLike, cfg: ObjectiveConfig
) -> jax.Array:
  """Returns floor(weight * aux), which is added to the cross-entropy, nats.

  Args:
    aux: float32 scalar, nats.
    weight: Scalar >= 0; with 0 nothing is added, not even the floor.

  Example:
    >>> cfg = ObjectiveConfig(floor='max', floor_at=0.5)
    >>> [float(regularizer(jnp.array(2.0), weight, cfg)) for weight in (1, 0)]
    [2.0, 0.0]
  """
  weight = jnp.asarray(weight, jnp.float32)
  floored = reductions.apply_floor(
      weight * aux,
      kind=cfg.floor,
      at=cfg.floor_at,
      sharpness=cfg.floor_sharpness,
  )
  return jnp.where(weight > 0, floored, 0.0)


def aux_cotangent(
    aux: jax.Array, weight: jax.typing.ArrayLike, cfg: ObjectiveConfig
) -> jax.Array:
  """Returns the slope of `regularizer` by `aux`; exactly 0 where the weight is.

  An exact zero lets the entropy skip its backward pass.

  Args:
    aux: float32 scalar, nats.
    weight: Scalar >= 0, of this step: 0 while memorising.
  """
  weight = jnp.asarray(weight, jnp.float32)
  slope = jax.grad(regularizer)(aux, weight, cfg)
  return jnp.where((weight > 0) & jnp.isfinite(aux), slope, 0.0)
