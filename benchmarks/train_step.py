"""What the entropy costs a training step: tokens a second, and ratios.

  python benchmarks/train_step.py --repeats=40

Steps of the same model on the same batch, in turn: cross-entropy alone, GAPT in
phase 1 (the entropy is measured), GAPT in phase 2 (and trained), constant MBE,
and GAPT in phase 1 with the alignment of both gradients measured, beside a
forward pass. Ratios are medians over rounds with 95 % bootstrap intervals.
"""

import dataclasses
import statistics

import jax
import jax.numpy as jnp
import stepping
import timing
from absl import app, flags

from iblm_jax.data import sources
from iblm_jax.information import entropy
from iblm_jax.models import config as model_config
from iblm_jax.models import flops
from iblm_jax.objectives import iblm
from iblm_jax.optim import optimizers, schedules
from iblm_jax.training import alignment, options
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import mesh as mesh_lib

_REPEATS = flags.DEFINE_integer('repeats', 20, 'Rounds.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 16, 'Rows.', lower_bound=1)
_LENGTH = flags.DEFINE_integer('length', 256, 'Tokens a row.', lower_bound=2)
_LAYERS = flags.DEFINE_integer('layers', 6, 'Blocks.', lower_bound=3)
_WIDTH = flags.DEFINE_integer('width', 160, 'Of the residual stream.')
_HEADS = flags.DEFINE_integer('heads', 5, 'Attention heads.')
_VOCAB = flags.DEFINE_integer('vocab', 259, 'Tokens of the vocabulary.')
_PATCH = flags.DEFINE_integer('patch_size', 8, 'Tokens in a window.')
_ALPHA = flags.DEFINE_float('alpha', 2.0, 'Order of the entropy.')
_SCHEDULE = flags.DEFINE_string(
    'layer_schedule', 'rotate', 'Layers that carry the entropy loss.'
)
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of activations.')
_SCAN = flags.DEFINE_bool('scan', False, 'Loop over layers, not unrolled.')
_MODDED = flags.DEFINE_string(
    'modded', None, "Size of the paper's model instead: small, medium, ..."
)


def _config(method: str) -> options.RunConfig:
  measure = entropy.EntropyConfig(
      alpha=_ALPHA.value, patch_size=_PATCH.value
  )
  if _MODDED.value:
    model = model_config.modded_gpt(
        _MODDED.value, dtype=_DTYPE.value, entropy=measure
    )
  else:
    model = model_config.DecoderConfig(
        vocab_size=_VOCAB.value,
        num_layers=_LAYERS.value,
        width=_WIDTH.value,
        num_heads=_HEADS.value,
        activation='relu2',
        qk_norm=True,
        dtype=_DTYPE.value,
        scan_layers=_SCAN.value,
        entropy=measure,
    )
  return options.RunConfig(
      model=model,
      data=sources.DataConfig(batch_size=_BATCH.value),
      optimizer=optimizers.OptimizerConfig(
          schedule=schedules.ScheduleConfig(total_steps=1000)
      ),
      objective=iblm.ObjectiveConfig(
          method=method, layer_schedule=_SCHEDULE.value
      ),
      gate=stepping.STAY,
  )


def _stepper(
    cfg: options.RunConfig, phase: int, *, aligned: bool = False
) -> stepping.Stepper:
  if aligned:
    measure = alignment.AlignmentConfig(every=1)
    cfg = dataclasses.replace(cfg, alignment=measure)
  program = program_lib.Program(cfg)
  with jax.set_mesh(program.mesh):
    state = stepping.in_phase(program.init(jax.random.key(0)), phase)
    batch = mesh_lib.put_batch(
        stepping.random_batch(
            _BATCH.value, _LENGTH.value, cfg.model.vocab_size
        ),
        program.batch_sharding,
    )
    chosen = program.aligned_steps[0][0] if aligned else program.train_step
    step = chosen.lower(state, batch).compile()
  return stepping.Stepper(step, state, batch)


def _forward(cfg: options.RunConfig):
  """A forward pass with the entropy of every layer."""
  program = program_lib.Program(cfg)
  with jax.set_mesh(program.mesh):
    params = program.init(jax.random.key(0)).params
    batch = mesh_lib.put_batch(
        stepping.random_batch(
            _BATCH.value, _LENGTH.value, cfg.model.vocab_size
        ),
        program.batch_sharding,
    )
    step = program.eval_step.lower(params, batch).compile()
  return lambda: step(params, batch)


def main(argv):
  """Prints the table."""
  del argv
  cfg = _config('gapt')
  steppers = {
      'cross-entropy': _stepper(_config('ce'), 1),
      'GAPT, phase 1': _stepper(cfg, 1),
      'GAPT, phase 2': _stepper(cfg, 2),
      'constant MBE': _stepper(_config('mbe'), 2),
      'aligned': _stepper(cfg, 1, aligned=True),
  }
  size = 8192 if jax.default_backend() != 'cpu' else 2048
  square = jnp.ones([size, size], cfg.model.compute_dtype)
  product = jax.jit(lambda a: a @ a)
  times = timing.interleaved(
      {
          **steppers,
          'forward': _forward(cfg),
          'product': lambda: product(square),
      },
      _REPEATS.value,
  )
  for name, phase in (('GAPT, phase 1', 1), ('GAPT, phase 2', 2)):
    found = int(steppers[name].metrics['gapt/phase'])
    if found != phase:
      raise RuntimeError(f'{name} ended in phase {found}.')

  device = jax.devices()[0]
  peak = 2 * size**3 / min(times['product'])
  tokens = _BATCH.value * _LENGTH.value
  per_token = flops.training_flops_per_token(cfg.model, _LENGTH.value)
  print(f'{device.device_kind}, jax {jax.__version__}')
  print(
      f'{steppers["cross-entropy"].parameters:,} parameters, {_BATCH.value} x'
      f' {_LENGTH.value} tokens, {cfg.model.dtype}, order'
      f' {cfg.model.entropy.alpha:g}, patches of'
      f' {cfg.model.entropy.patch_size}, {_SCHEDULE.value}'
  )
  print(
      f'measured peak: {peak / 1e9:,.0f} GFLOP/s ({size} cubed product); floor'
      f' of a step: {1e3 * tokens * per_token / peak:.1f} ms'
  )
  print(
      f'{"step":<15}{"ms":>9}{"tokens/s":>12}{"of peak":>9}'
      '   ratio to cross-entropy'
  )
  for name in steppers:
    median = statistics.median(times[name])
    ratio, low, high = timing.median_ratio(
        times[name], times['cross-entropy'], resamples=2000
    )
    print(
        f'{name:<15}{1e3 * median:>9.1f}{tokens / median:>12,.0f}'
        f'{tokens * per_token / median / peak:>9.1%}'
        f'   {ratio:.3f} [{low:.3f}, {high:.3f}]'
    )
  difference = lambda a, b: [
      x - y for x, y in zip(times[a], times[b], strict=True)
  ]
  ratio, low, high = timing.median_ratio(
      difference('aligned', 'GAPT, phase 1'),
      difference('GAPT, phase 1', 'forward'),
      resamples=2000,
  )
  print(
      f'measuring the alignment costs {ratio:.2f} [{low:.2f}, {high:.2f}] of a'
      ' backward pass and update'
  )


if __name__ == '__main__':
  app.run(main)
