"""The two networks of the experiment, behind one interface."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from iblm_jax.experiments.conflict import tasks as tasks_lib
from iblm_jax.information import entropy
from iblm_jax.models import decoder


class Model(NamedTuple):
  """A network as training and measuring see it."""

  # (seed, tasks) -> parameters to start from
  init: Callable[[int, tasks_lib.Tasks], Any]
  # (params, inputs, targets, entropy config or None) -> main, auxiliary loss
  losses: Callable[..., tuple[jax.Array, jax.Array]]
  # (params, inputs) -> [N, L, D], rows in the order that windows are cut in;
  # a group of points without inner order is one sequence, N = 1
  hidden: Callable[[Any, jax.Array], jax.Array]
  # [N, L, D] -> [points, D], one row a point
  pooled: Callable[[jax.Array], jax.Array]
  make_tasks: Callable[[int], tasks_lib.Tasks]


def network_model(**sizes: int) -> Model:
  """The network with one hidden layer of ReLU, mean absolute error."""

  def losses(params, x_NxI, y_NxO, measure):
    outputs_NxO, h_NxD = tasks_lib.network(params, x_NxI)
    main = jnp.mean(jnp.abs(outputs_NxO - y_NxO))
    return main, _entropy(h_NxD[None], measure)

  return Model(
      init=lambda seed, tasks: tasks.initial,
      losses=losses,
      hidden=lambda params, x: tasks_lib.network(params, x)[1][None],
      pooled=lambda h_1xNxD: h_1xNxD[0],
      make_tasks=lambda seed: tasks_lib.network_tasks(seed, **sizes),
  )


def transformer_model(
    cfg: decoder.DecoderConfig, **sizes: int
) -> Model:
  """A decoder; cross-entropy, and the entropy of all blocks' outputs.

  Args:
    cfg: The decoder; how it measures entropy is replaced by the method's.
  """
  init = jax.jit(
      lambda seed: decoder.init(jax.random.key(seed), cfg),
      compiler_options={'xla_backend_optimization_level': 0},  # runs once
  )

  def losses(params, tokens_BxL, targets_BxL, measure):
    chosen, collect = cfg, None
    if measure is not None:
      chosen = dataclasses.replace(cfg, entropy=measure)
      collect = 'entropy'
    out = decoder.apply(params, tokens_BxL, chosen, collect=collect)
    nll_BxL = optax.softmax_cross_entropy_with_integer_labels(
        out.logits_BxLxV, targets_BxL
    )
    aux = jnp.zeros([]) if out.entropy is None else jnp.mean(out.entropy)
    return jnp.mean(nll_BxL), aux

  def hidden(params, tokens_BxL):
    out = decoder.apply(params, tokens_BxL, cfg, collect='hidden')
    assert out.hidden is not None  # collected
    return out.hidden[-1]

  return Model(
      init=lambda seed, tasks: init(seed),
      losses=losses,
      hidden=hidden,
      pooled=lambda h_NxLxD: jnp.mean(h_NxLxD, axis=1),
      make_tasks=lambda seed: tasks_lib.token_tasks(
          seed, vocab_size=cfg.vocab_size, **sizes
      ),
  )


def _entropy(h_BxLxD, measure):
  if measure is None:
    return jnp.zeros([], jnp.float32)
  return entropy.patch_entropy(
      h_BxLxD,
      patch_size=measure.patch_size,
      alpha=measure.alpha,
      center=measure.center,
      normalize=measure.normalize,
  )
