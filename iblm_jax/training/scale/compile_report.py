"""Says what a training step will need: compiles it and reads data sheets."""

import time
from typing import Any

import jax

from iblm_jax import errors
from iblm_jax.data import batches
from iblm_jax.models import flops
from iblm_jax.training import options
from iblm_jax.training import program as program_lib
from iblm_jax.training import state as state_lib
from iblm_jax.training.scale import collectives, hardware

_GB = 1e9


class DoesNotFit(errors.RunFailed):
  """The compiler found that the step needs more memory than a device has."""


def compile_step(
    program: program_lib.Program, batch_size: int, length: int
) -> jax.stages.Compiled:
  """Compiles the training step.

  Args:
    program: The run's, on devices that may be elsewhere.
    batch_size: B, rows of a global batch.
    length: L, tokens of a row.

  Returns:
    The executable; it can be run only where its devices are.

  Raises:
    DoesNotFit: The compiler runs out of device memory.
  """
  batch = {
      name: jax.ShapeDtypeStruct(
          (batch_size, length), dtype, sharding=program.batch_sharding
      )
      for name, dtype in batches.DTYPES.items()
  }
  with jax.set_mesh(program.mesh):
    lowered = program.train_step.lower(program.abstract_state, batch)
    try:
      return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      summary = str(error).strip().splitlines()[0]
      raise DoesNotFit(
          f'the step does not fit the memory of the devices: {summary} Less'
          ' data.batch_size a device, model.remat, train.accumulation or a'
          ' larger mesh.fsdp may help.'
      ) from error


def make_report(
    cfg: options.RunConfig, program: program_lib.Program, length: int
) -> dict[str, Any]:
  """Compiles the training step and says what it needs.

  Args:
    cfg: The run.
    program: The run's compiled functions.
    length: L, tokens of a row.

  Returns:
    A tree of JSON types: `parameters`, `tokens_per_step`, `mesh`, `devices`,
    `memory` (bytes on each device), `flops` (of a step, all devices together,
    by formula; and the compiler's own count for one device, which sees a loop's
    body once), `collectives` (per device and step, see
    `collectives.Collective`) and `bounds`: seconds that a step takes at least,
    for the arithmetic, for reading and writing arguments and results once, and
    for receiving what collectives move; None where the chip is not known. Where
    the compiler's text could not be read, `collectives` is a sentence instead
    of a list, and the bound of communication is None.

  Raises:
    DoesNotFit: The compiler runs out of device memory.
  """
  started = time.monotonic()
  compiled = compile_step(program, cfg.data.batch_size, length)
  seconds = time.monotonic() - started
  devices = list(program.mesh.devices.flat)
  tokens = cfg.data.batch_size * length
  read = tokens * cfg.task.reads
  token_flops = flops.training_flops_per_token(
      cfg.model,
      length,
      program_lib.frozen_stacks(cfg, program.abstract_state.params),
  )
  step_flops = None if token_flops is None else read * token_flops
  memory = _memory(compiled)
  try:
    moved = collectives.totals(compiled.as_text() or '', len(devices))
    listed = [kind._asdict() for kind in moved]
  except ValueError as error:  # a newer compiler may write what is not known
    moved, listed = None, f'not counted: {error}'
  return {
      'parameters': state_lib.num_parameters(program.abstract_state.params),
      'tokens_per_step': tokens,
      'mesh': dict(program.mesh.shape),
      'devices': {'count': len(devices), 'kind': devices[0].device_kind},
      'memory': memory,
      'flops': {
          'step': step_flops,
          'compiler': (compiled.cost_analysis() or {}).get('flops'),
      },
      'collectives': listed,
      'bounds': _bounds(devices, step_flops, memory, moved),
      'compile_seconds': round(seconds, 1),
      'jax': jax.__version__,
  }


def _memory(compiled) -> dict[str, int]:
  stats = compiled.memory_analysis()
  memory = {
      'arguments': stats.argument_size_in_bytes,
      'temporaries': stats.temp_size_in_bytes,
      'output': stats.output_size_in_bytes,
      # Donated arguments, which the output overwrites.
      'shared': stats.alias_size_in_bytes,
      'code': stats.generated_code_size_in_bytes,
  }
  memory['total'] = sum(memory.values()) - 2 * memory['shared']
  return memory


def _bounds(
    devices, step_flops, memory, moved
) -> dict[str, float | None] | None:
  chip = hardware.chip(devices[0])
  if chip is None:
    return None
  return {
      'arithmetic': None
      if step_flops is None
      else step_flops / len(devices) / chip.flops,
      'memory': (memory['arguments'] + memory['output'])
      / chip.memory_bandwidth,
      'communication': None
      if moved is None
      else sum(kind.received for kind in moved) / chip.link_bandwidth,
  }


def lines(report: dict[str, Any]) -> list[str]:
  """Formats the report for a person to read."""
  memory, devices = report['memory'], report['devices']
  mesh = ', '.join(f'{name} {size}' for name, size in report['mesh'].items())
  text = [
      f'{report["parameters"]:,} parameters, {report["tokens_per_step"]:,}'
      f' tokens a step, {devices["count"]} x {devices["kind"]} ({mesh});'
      f' compiled in {report["compile_seconds"]:.0f} s',
      'memory of a device: '
      + ', '.join(
          f'{name} {memory[name] / _GB:.3f} GB'
          for name in ('total', 'arguments', 'temporaries', 'output', 'code')
      ),
  ]
  if report['flops']['step'] is not None:
    text.append(
        f'{report["flops"]["step"] / 1e12:.3f} TFLOP a step by formula'
    )
  found = report['collectives']
  if isinstance(found, str):
    text.append(f'collectives were {found}')
  for kind in [] if isinstance(found, str) else found:
    text.append(
        f'{kind["kind"]}: {kind["count"]} a step,'
        f' {kind["bytes"] / _GB:.3f} GB, of which a device receives'
        f' {kind["received"] / _GB:.3f} GB; the largest'
        f' {kind["largest"] / 1e6:.2f} MB'
    )
  if not report['collectives']:
    text.append('no collectives')
  if report['bounds']:
    bounds = report['bounds']
    text.append(
        'a step takes at least: '
        + ', '.join(
            f'{1e3 * seconds:.2f} ms ({name})'
            for name, seconds in bounds.items()
            if seconds is not None
        )
    )
  else:
    text.append(
        f'no time bounds: {devices["kind"]} is not in the table of chips'
    )
  return text
