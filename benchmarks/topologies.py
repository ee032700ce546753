"""What a training step needs on TPU slices that are not here.

  python benchmarks/topologies.py [--sizes=small,xl] [--topologies=v5e-16,...]

Compiles GPT-2 with AdamW and GAPT at 2 x 1,024 tokens a chip, bf16, parameters
and moments split over the chips, with `iblm_jax.main --compile_only`. Prints a
table in Markdown. Needs the extra `aot`; a line takes minutes.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

_SIZES = flags.DEFINE_list('sizes', 'small,medium,large,xl', 'Of GPT-2.')
_TOPOLOGIES = flags.DEFINE_list(
    'topologies', 'v5e-16,v5e-64,v6e-64,v5p-128,v5p-256', 'TPU slices.'
)
_OVERRIDES = flags.DEFINE_multi_string(
    'override', [], 'Flags of iblm_jax.main, such as --config.mesh.tensor=2.'
)

ROOT = pathlib.Path(__file__).parent.parent
# A width must split evenly over `fsdp`; what is left are replicas.
_WIDTHS = {'small': 768, 'medium': 1024, 'large': 1280, 'xl': 1600}
_ROWS = 2


def split(size: str, chips: int) -> int:
  """The largest power of two that divides chips and the width.

  >>> split('xl', 128)
  64
  """
  fsdp = 1
  while chips % (2 * fsdp) == 0 and _WIDTHS[size] % (2 * fsdp) == 0:
    fsdp *= 2
  return fsdp


def compile_for(size: str, name: str) -> dict | str:
  """The program's report, or the last line of its complaint."""
  kind, number = name.split('-')
  chips = int(number) // (2 if kind == 'v5p' else 1)
  with tempfile.TemporaryDirectory() as workdir:
    done = subprocess.run(
        [
            sys.executable, '-m', 'iblm_jax.main', '--compile_only',
            f'--config=configs/gpt2.py:{size}_gapt', f'--topology={name}',
            f'--config.data.batch_size={_ROWS * chips}',
            f'--config.mesh.fsdp={split(size, chips)}',
            f'--workdir={workdir}', *_OVERRIDES.value,
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )
    if done.returncode:
      return done.stderr.strip().splitlines()[-1]
    return json.loads((pathlib.Path(workdir) / 'compile.json').read_text())


def row(size: str, name: str, report: dict | str) -> str:
  """One line of the table."""
  if isinstance(report, str):
    return f'| {size} | {name} | {report} |'
  mesh, memory, bounds = report['mesh'], report['memory'], report['bounds']
  cells = [
      size,
      f'{report["parameters"] / 1e6:,.0f} M',
      name,
      f'{mesh["data"]} x {mesh["fsdp"]}',
      *(f'{memory[part] / 1e9:.2f}'
        for part in ('arguments', 'temporaries', 'total')),
      f'{sum(k["received"] for k in report["collectives"]) / 1e9:.2f}',
      *(f'{1e3 * bounds[part]:.1f}'
        for part in ('arithmetic', 'memory', 'communication')),
  ]
  return '| ' + ' | '.join(cells) + ' |'


def main(argv) -> None:
  del argv
  heads = (
      'size', 'parameters', 'slice', 'data x fsdp', 'arguments GB',
      'temporaries GB', 'total GB', 'received GB', 'arithmetic ms',
      'memory ms', 'communication ms',
  )
  print('| ' + ' | '.join(heads) + ' |')
  print('|' + '---|' * len(heads), flush=True)
  for size in _SIZES.value:
    for name in _TOPOLOGIES.value:
      print(row(size, name, compile_for(size, name)), flush=True)


if __name__ == '__main__':
  app.run(main)
