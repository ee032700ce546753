"""From what a run trained to the bytes that stand for it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iblm_jax import bounds
from iblm_jax.bounds import code_length, options
from iblm_jax.models import families
from iblm_jax.objectives import iblm
from iblm_jax.sublora import parameterisations
from iblm_jax.training import loop, progress
from iblm_jax.training.scale import mesh as mesh_lib


class Code(NamedTuple):
  """A quantised vector.

  Attributes:
    data: bytes, see `bounds.coding`.
    levels: number of levels it was written with.
  """

  data: bytes
  levels: int


def decode(code: bytes, d: int, levels: int, cfg: options.CertificateConfig):
  """The vector [d] float32 that bytes stand for; ValueError if damaged."""
  kind = 'step' if cfg.codebook == 'step' else 'codebook'
  return bounds.decode_values(
      code, d, levels, cast(code_length.Scheme, cfg.scheme), levels=kind
  )


def rebuild(
    code: Code, job: loop.Job, cfg: options.CertificateConfig
) -> tuple[np.ndarray, Any]:
  """The vector [d] and the model's parameters that a code stands for."""
  made = job.program.parameterisation
  w_d = decode(code.data, made.num_trained, code.levels, cfg)
  return w_d, job.program.model_params(made.from_vector(jnp.asarray(w_d)))


def quantise(
    job: loop.Job,
    w_d: np.ndarray,
    cfg: options.CertificateConfig,
    report: Callable[[str], None],
) -> list[Code]:
  """Codes of a trained vector, one for each number of levels.

  Args:
    job: of the run, for quantisation-aware training.
    w_d: what was trained, [d].
    cfg: of levels, code and training.
    report: told what a person wants to read.

  Returns:
    A code for each of `cfg.levels`.
  """
  codes = []
  for levels in cfg.levels:
    w, values = np.asarray(w_d, np.float32), _values(w_d, levels, cfg)
    if cfg.tuning_steps:
      told = progress.countdown(report, f'{levels} levels, steps')
      w, values = _tune(job, w, values, cfg, told)
    codes.append(_encode(w, values, levels, cfg))
    report(
        f'{levels} levels: {len(codes[-1].data):,} bytes for {w.size:,} numbers'
    )
  return codes


def _values(w, levels, cfg) -> np.ndarray:
  """What each symbol stands for, at first: float32 [L]."""
  if cfg.codebook == 'step':
    step, _ = bounds.fit_step(w, levels)
    return bounds.step_values(step, levels).astype(np.float32)
  codebook, _ = bounds.fit_codebook(w, levels, cfg.codebook)
  return codebook.astype(np.float32)


def _encode(w, values, levels, cfg) -> Code:
  if cfg.codebook == 'step':
    # float32 holds few multiples of a float16 exactly.
    step = float(values[1] - values[0])
    symbols = bounds.nearest_symbols(w, values)
    return Code(bounds.encode(symbols, levels, cfg.scheme, step=step), levels)
  codebook = values.astype(np.float16)
  symbols = bounds.nearest_symbols(w, codebook)
  data = bounds.encode(symbols, levels, cfg.scheme, codebook=codebook)
  return Code(data, levels)


def _tune(job, w, values, cfg, told) -> tuple[np.ndarray, np.ndarray]:
  """Trains the vector and its values through the rounding.

  Gradients pass the rounding as if it were not there, and the values of a
  codebook move with the numbers that they stand for. (arXiv 2211.13609.)
  """
  made, model = job.program.parameterisation, job.cfg.model
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
