"""The jax parts of `gpu.py`, each started in a process of its own.

  python benchmarks/gpu_jax.py SPEC RESULT

SPEC is the JSON that `gpu.py` writes; RESULT is a file for its JSON result. A
process of its own, so that one part's memory, or end, is not the next one's.
"""

import dataclasses
import gc
import json
import math
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import stepping
import timing

from iblm_jax.data import sources
from iblm_jax.models import config as model_config
from iblm_jax.models import flops
from iblm_jax.models.nn import attention
from iblm_jax.objectives import iblm
from iblm_jax.optim import optimizers, schedules
from iblm_jax.training import options
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import hardware

# Name of a step: method and phase.
_STEPS = {
    'cross-entropy': ('ce', 1),
    'GAPT, phase 1': ('gapt', 1),
    'GAPT, phase 2': ('gapt', 2),
    'constant MBE': ('mbe', 2),
}


def peak(spec: dict) -> dict:
  """The rate of a large bf16 product, and what the device is."""
  size, chain = spec['size'], spec['chain']
  a, b = jax.random.normal(
      jax.random.key(0), (2, size, size), jnp.bfloat16
  )
  b = b / math.sqrt(size)  # Products in a row keep their scale.

  # Several products a call, so that starting one is not what is timed.
  @jax.jit
  def products(a, b):
    return jax.lax.fori_loop(0, chain, lambda _, x: x @ b, a)

  times = timing.interleaved(
      {'product': lambda: products(a, b)}, spec['rounds']
  )
  device = jax.devices()[0]
  return {
      'device': device.device_kind,
      'jax': jax.__version__,
      'size': size,
      'peak': 2 * size**3 * chain / min(times['product']),
      'data_sheet': hardware.peak_flops(device),
      'seconds': [s / chain for s in times['product']],
  }


def steps(spec: dict) -> dict:
  """Times the steps in turn, at the largest batch size that fits."""
  started, note = time.perf_counter(), None
  for batch in spec['batches']:
    try:
      steppers, skipped, seconds = _build(spec, batch, started)
      break
    except jax.errors.JaxRuntimeError as error:
      if not _out_of_memory(error):
        raise
      note = f'batch {batch} does not fit'
    # The arrays of the attempt are gone once its error is.
    gc.collect()
  else:
    raise RuntimeError(f'no batch of {spec["batches"]} fits.')

  times = timing.interleaved(steppers, spec['rounds'])
  for name, stepper in steppers.items():
    loss = float(stepper.metrics['train/loss'])
    if not math.isfinite(loss):
      raise FloatingPointError(f'the loss of {name} is {loss}.')
    method, phase = _STEPS[name]
    if method == 'gapt' and int(stepper.metrics['gapt/phase']) != phase:
      raise RuntimeError(f'{name} left its phase.')
  cfg = _config(spec, 'ce', batch).model
  memory = jax.devices()[0].memory_stats() or {}
  return {
      'batch': batch,
      'parameters': steppers['cross-entropy'].parameters,
      'flops_per_token': flops.training_flops_per_token(cfg, spec['length']),
      'model': {**dataclasses.asdict(cfg), 'attention': attention.resolve(
          cfg.attention, jax.default_backend(), cfg.compute_dtype
      )},
      'compile_seconds': seconds,
      'memory_bytes': memory.get('peak_bytes_in_use'),
      'skipped': skipped,
      'note': note,
      'loss': {
          name: float(stepper.metrics['train/loss'])
          for name, stepper in steppers.items()
      },
      'seconds': {
          name: [s / spec['steps_per_call'] for s in times[name]]
          for name in steppers
      },
  }


def _build(spec, rows, started):
  """Compiled steps that have run once, and the seconds compiling took."""
  compiled, skipped, seconds, found = {}, [], {}, {}
  # All methods share the shape of the state, so one init serves all. The gate's
  # step comes first: if it does not fit, nothing else was compiled in vain.
  first = program_lib.Program(_config(spec, 'gapt', rows), jax.devices()[:1])
  vocab_size = _config(spec, 'ce', rows).model.vocab_size
  batch = jax.device_put(
      stepping.random_batch(rows, spec['length'], vocab_size),
      first.batch_sharding,
  )
  order = sorted(spec['steps'], key=lambda name: _STEPS[name][0] != 'gapt')
  for name in order:
    method, phase = _STEPS[name]
    late = time.perf_counter() - started > 0.6 * spec['seconds']
    if method == 'mbe' and late:
      skipped.append(name)
      continue
    with jax.set_mesh(first.mesh):
      state = first.init(jax.random.key(0))
      state = stepping.in_phase(state, phase)
      if method not in compiled:
        start = time.perf_counter()
        program = program_lib.Program(
            _config(spec, method, rows), jax.devices()[:1]
        )
        compiled[method] = program.train_step.lower(state, batch).compile()
        seconds[method] = time.perf_counter() - start
        print(f'{method}: compiled in {seconds[method]:.1f} s', flush=True)
    stepper = stepping.Stepper(
        compiled[method], state, batch, spec['steps_per_call']
    )
    jax.block_until_ready(stepper())
    found[name] = stepper
  return {n: found[n] for n in spec['steps'] if n in found}, skipped, seconds


def _config(spec, method, rows) -> options.RunConfig:
  return options.RunConfig(
      model=model_config.gpt2(
          'small',
          **{
              'dtype': 'bfloat16',
              'max_length': spec['length'],
              **spec['shape'],
              **spec['options'],
          },
      ),
      data=sources.DataConfig(batch_size=rows),
      optimizer=optimizers.OptimizerConfig(
          schedule=schedules.ScheduleConfig(total_steps=1000)
      ),
      objective=iblm.ObjectiveConfig(method=method),
      gate=stepping.STAY,
  )


def _out_of_memory(error) -> bool:
  text = str(error).lower()
  return 'resource_exhausted' in text or 'out of memory' in text


def main():
  spec, result = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
  try:
    if jax.default_backend() != 'gpu' and not spec['toy']:
      raise RuntimeError(
          f'jax {jax.__version__} finds no GPU, only'
          f' {jax.devices()[0].device_kind}; --toy runs a small model on a CPU.'
      )
    part = {'peak': peak, 'steps': steps}[spec['part']]
    result.write_text(json.dumps(part(spec)))
  except Exception as error:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = f'{type(error).__name__}: {lines[0] if lines else ""}'
    result.write_text(json.dumps({'error': line}))
    raise


if __name__ == '__main__':
  main()
