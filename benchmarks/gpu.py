"""Everything to know of one GPU in one call of less than 8 minutes.

  python benchmarks/gpu.py --json=gpu.json
  python benchmarks/gpu.py --toy          # a small model on a CPU

In this order: the rate of a large bf16 product; training steps of GPT-2 small
(cross-entropy, GAPT in each phase, constant MBE); the same in PyTorch; and
variants of the model. Each part is a process of its own. One that fails prints
its error in a line and the others go on; the exit status is then 1.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import gpu_parts
import gpu_report
from absl import app, flags

_TOY = flags.DEFINE_bool('toy', False, 'A small model on the CPU.')
_BUDGET = flags.DEFINE_float(
    'budget_s', 420, 'Seconds; a part that would not fit is left out.',
    lower_bound=1,
)
_BATCHES = flags.DEFINE_list(
    'batches', None, 'Rows of a batch; the first that fits. Else 32,16,8.'
)
_LENGTH = flags.DEFINE_integer(
    'length', None, 'Tokens of a row. Else 1024.', lower_bound=2
)
_ROUNDS = flags.DEFINE_integer('rounds', None, 'Else 12.', lower_bound=2)
_STEPS_PER_CALL = flags.DEFINE_integer(
    'steps_per_call', 4,
    'Steps between waits for the device, which hides the time to start them.',
    lower_bound=1,
)
_OPTIONS = flags.DEFINE_list(
    'options', ['scan_layers=false'], 'Fields of DecoderConfig, name=value.'
)
_VARIANTS = flags.DEFINE_list(
    'variants', None,
    'Changes to --options, measured one at a time; empty for none. Else'
    ' vocab_size=50304,scan_layers=true,attention=xla,remat=dots; the toy has'
    ' the second alone.',
)
_TORCH_PYTHON = flags.DEFINE_string(
    'torch_python', sys.executable, "A Python with PyTorch; '' leaves it out."
)
_JSON = flags.DEFINE_string('json', None, 'File for the figures.')
_LOGS = flags.DEFINE_string('logs', None, "Folder for the parts' output.")

_ALL_VARIANTS = (
    'vocab_size=50304', 'scan_layers=true', 'attention=xla', 'remat=dots'
)
_MAIN_STEPS = (
    'cross-entropy', 'GAPT, phase 1', 'GAPT, phase 2', 'constant MBE'
)
# What a part must have left to start, and what main leaves to PyTorch, in s.
_LEAST = {'peak': 20, 'main': 60, 'torch': 60}
_FOR_TORCH = 100


def parse_options(items: list[str]) -> dict:
  """Options from name=value; values are JSON, or else strings.

  Args:
    items: such as 'scan_layers=true'.

  Returns:
    Name to value.

  Raises:
    ValueError: for an item without '='.
  """
  options = {}
  for item in items:
    name, equals, value = item.partition('=')
    if not equals:
      raise ValueError(f'an option must be name=value, got {item!r}.')
    try:
      options[name] = json.loads(value)
    except json.JSONDecodeError:
      options[name] = value
  return options


def _spec() -> dict:
  """What all parts are told."""
  toy = _TOY.value
  spec: dict[str, Any] = {
      'toy': toy,
      'shape': dict(vocab_size=50_257, num_layers=12, width=768, num_heads=12),
      'options': parse_options(_OPTIONS.value),
      'batches': [int(b) for b in _BATCHES.value or (32, 16, 8)],
      'length': _LENGTH.value or 1024,
      'rounds': _ROUNDS.value or 12,
      'steps_per_call': _STEPS_PER_CALL.value,
      'size': 8192,
      'chain': 20,
  }
  if toy:
    # Three layers, since the entropy leaves out the first and the last.
    spec |= {
        'shape': dict(vocab_size=512, num_layers=3, width=64, num_heads=2),
        'batches': [int(b) for b in _BATCHES.value or (4,)],
        'length': _LENGTH.value or 64,
        'size': 512,
        'chain': 4,
    }
  # PyTorch is told the shape alone.
  for name in spec['shape'].keys() & spec['options'].keys():
    spec['shape'][name] = spec['options'].pop(name)
  return spec


def _measure(parts: gpu_parts.Parts, results: dict, spec: dict, save) -> None:
  """Fills in the results, part by part."""
  results['peak'] = parts.run(
      'peak', {**spec, 'part': 'peak'}, least=_LEAST['peak']
  )
  save()
  torch = _has_torch()
  start = parts.elapsed()
  steps = {**spec, 'part': 'steps', 'steps': _MAIN_STEPS}
  main = parts.run(
      'main', steps, least=_LEAST['main'], leave=_FOR_TORCH if torch else 0
  )
  main_seconds = parts.elapsed() - start
  if main:
    results['steps']['main'] = main
    spec = {
        **spec, 'batches': [b for b in spec['batches'] if b <= main['batch']]
    }
  save()
  if torch:
    found = parts.run(
        'PyTorch', spec, least=_LEAST['torch'], script='torch_gpt2.py',
        python=_TORCH_PYTHON.value,
    )
    if found and main:
      found['flops_per_token'] = main['flops_per_token']
      if found['parameters'] != main['parameters']:
        parts.failed = True
        print(
            f'PyTorch: failed: {found["parameters"]:,} parameters, ours has'
            f' {main["parameters"]:,}'
        )
    results['torch'] = found
    save()

  least = max(0.75 * main_seconds, 20)
  variants = _VARIANTS.value
  if variants is None:
    variants = _ALL_VARIANTS[1:2] if _TOY.value else _ALL_VARIANTS
  for variant in filter(None, variants):
    change = parse_options([variant])
    if _same(change, main):
      print(f'{variant}: left out, main is that already', flush=True)
      continue
    start = parts.elapsed()
    found = parts.run(
        variant,
        {
            **spec, 'part': 'steps', 'steps': _MAIN_STEPS[:3],
            'options': spec['options'] | change,
        },
        least=least,
    )
    if found:
      least = max(parts.elapsed() - start, 20)
      results['steps'][variant] = found
    save()


def _same(change: dict, main: dict | None) -> bool:
  """Whether main was measured with this change already."""
  return main is not None and change.items() <= main['model'].items()


def _has_torch() -> bool:
  """Whether PyTorch is there; prints how to get it otherwise."""
  if not _TORCH_PYTHON.value:
    print('PyTorch: left out by --torch_python=', flush=True)
    return False
  look = 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))'
  try:
    status = subprocess.run(
        [_TORCH_PYTHON.value, '-c', look], check=False, capture_output=True
    ).returncode
  except OSError as error:
    status = error
  if status:
    print(
        f'PyTorch: left out, {_TORCH_PYTHON.value} has none; make one with'
        " 'python -m venv torch && torch/bin/pip install torch' and name it"
        ' by --torch_python=torch/bin/python', flush=True,
    )
  return not status


def _driver() -> str | None:
  """Version of the GPU's driver, where nvidia-smi tells."""
  try:
    found = subprocess.run(
        ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'],
        check=True, capture_output=True, text=True, timeout=20,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return found.stdout.split('\n')[0].strip() or None


def main(argv):
  """Runs the parts, prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}.')
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(_LOGS.value or temporary)
    folder.mkdir(parents=True, exist_ok=True)
    parts = gpu_parts.Parts(
        folder.resolve(),
        pathlib.Path(temporary) / 'cache',
        budget=_BUDGET.value,
        on_cpu=_TOY.value,
    )
    spec = _spec()
    results = {
        'driver': None if _TOY.value else _driver(),
        'toy': _TOY.value,
        'length': spec['length'],
        'spec': spec,
        'peak': None,
        'steps': {},
        'torch': None,
    }

    def save():
      if _JSON.value:
        text = json.dumps(results, indent=2)
        pathlib.Path(_JSON.value).write_text(f'{text}\n')

    _measure(parts, results, spec, save)
    print(f'\n{gpu_report.text(results)}')
    print(f'\n{parts.elapsed():.0f} s in all')
  sys.exit(1 if parts.failed else 0)


if __name__ == '__main__':
  app.run(main)
