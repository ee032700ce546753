"""Quantisation-aware training of a run's vector."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iblm_jax import bounds
from iblm_jax.bounds import options
from iblm_jax.certification.scoring import Report
from iblm_jax.models import families
from iblm_jax.objectives import iblm
from iblm_jax.sublora import parameterisations
from iblm_jax.training import loop, progress
from iblm_jax.training.scale import mesh as mesh_lib


def tune(
    w: np.ndarray,
    values: np.ndarray,
    *,
    job: loop.Job,
    cfg: options.CertificateConfig,
    report: Report,
) -> tuple[np.ndarray, np.ndarray]:
  """Trains a vector and its values through the rounding.

  Gradients pass the rounding as if it were not there, and the values of a
  codebook move with the numbers that they stand for (arXiv 2211.13609).

  Args:
    w: float32 [d], what the run has trained.
    values: float32 [L], what each symbol stands for.
    job: The run. Training reads batches after those that it has read.
    cfg: Number of updates, and their rate relative to the spread of `w`.
    report: Receives lines about the time left.

  Returns:
    The vector and the values after training.
  """
  made, model = job.program.parameterisation, job.cfg.model
  told = progress.countdown(report, f'{values.size} levels, steps')
  rate = optax.cosine_decay_schedule(
      cfg.tuning_rate * float(np.std(w)), cfg.tuning_steps
  )
  tx = optax.adam(rate)
  trains_values = cfg.codebook != 'step'

  def loss(trained, fixed, batch):
    w_d, values_L = trained
    if trains_values:
      # As they will be stored; a gradient in float16 could vanish.
      half_L = jax.lax.reduce_precision(values_L, 5, 10)
      values_L += jax.lax.stop_gradient(half_L - values_L)
    else:
      values_L = jax.lax.stop_gradient(values_L)
    quantised = made.from_vector(bounds.ste_quantize(w_d, values_L))
    params = parameterisations.expand(quantised, fixed, made.config)
    apply = functools.partial(families.apply, cfg=model)
    sums, _ = iblm.measure(params, batch, apply=apply, collect=None)
    return sums.nll / sums.tokens

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(trained, state, fixed, batch):
    grads = jax.grad(loss)(trained, fixed, batch)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(trained, updates), state

  trained: Any = (jnp.asarray(w), jnp.asarray(values))
  state = tx.init(trained)
  with jax.set_mesh(job.program.mesh):
    for k in range(cfg.tuning_steps):
      # Batches that the run has not read.
      batch = mesh_lib.put_batch(
          job.source.batch(job.cfg.train.num_steps + k),
          job.program.batch_sharding,
          job.cfg.data.batch_size,
      )
      trained, state = step(trained, state, made.fixed, batch)
      told(k + 1, cfg.tuning_steps)
  w_d, values_L = jax.device_get(trained)
  return np.asarray(w_d), np.asarray(values_L)
