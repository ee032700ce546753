"""Makes what lies here, with the version that PYTHONPATH names: see make.sh."""

import json
import lzma
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / 'helpers')]

import conftest  # noqa: E402, F401  Before JAX: it sets the tests' XLA flags.
import observations  # noqa: E402

RUNS = {'decoder': (6, 12), 'memory': (4, 8), 'sublora': (4, 8)}
# As the tests of the programs start them.
EXPERIMENTS = {
    'multiplication': [[], ['--seeds=1', '--sweep']],
    'cycle': [[]],
    'pretraining': [[]],
    'spectrum': [[]],
    'conflict': [['--model=transformer']],
    'certificates': [[]],
    'memory': [['--seeds=1', '--families=autoencoder,curriculum']],
}


def run(name, *args):
  """Runs a program of that version, from the root of this one."""
  command = [sys.executable, '-P', '-m', f'iblm_jax.{name}', *map(str, args)]
  subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def stop(run, middle, last):
  """Leaves of a finished run what there was in the middle, a line later."""
  shutil.rmtree(run / f'checkpoints/{last}')
  (run / 'summary.json').unlink()
  lines = (run / 'metrics.jsonl').read_text().splitlines(keepends=True)
  kept = [line for line in lines if json.loads(line)['step'] <= middle + 2]
  (run / 'metrics.jsonl').write_text(''.join(kept))


def page(folder):
  """Marks of every table and of some values of the results of a folder."""
  lines = ['# Results\n']
  for path in sorted(folder.glob('*.json')):
    tree = json.loads(path.read_text())
    for name in tree['tables']:
      lines.append(f'<!-- table: {path.name} {name} -->\n<!-- end -->\n')
    first = tree['rows'][0]
    metric = next(k for k, v in first.items() if isinstance(v, float))
    values = [('wall_seconds', '1'), (f'rows.0.{metric}', '2')]
    if ' ' not in first['method']:
      values.append((f'summary.{first["method"]}.{metric}', '+3'))
    for what, digits in values:
      mark = f'<!-- value: {path.name} {what} {digits} -->'
      lines.append(f'{mark}<!-- end -->\n')
  return '\n'.join(lines)


def main():
  made = pathlib.Path(tempfile.mkdtemp())
  expected = {'machine': observations.machine(), 'runs': {}}
  here = HERE.relative_to(ROOT)
  run(
      'data.prepare', here / 'text.txt', f'--out={made}/shards',
      '--documents=paragraph', '--holdout=0.3', '--shard_tokens=150',
      '--workers=1',
  )
  expected['shards'] = observations.files(made / 'shards')
  for name, (middle, last) in RUNS.items():
    folder = made / 'runs' / name
    run('main', f'--config={here}/{name}.py', f'--workdir={folder}')
    expected['runs'][name] = {
        'middle': middle,
        'last': last,
        'state': observations.state(folder, last),
        'metrics': observations.metrics(folder),
        'summary': observations.summary(folder),
    }
    finished = made / 'finished' / name
    shutil.copytree(
        folder, finished, ignore=shutil.ignore_patterns('checkpoints')
    )
    stop(folder, middle, last)
  # 0.1 cannot report runs of memory models.
  compared = [made / 'finished' / name for name in ('decoder', 'sublora')]
  run('report', *compared, f'--out={made}/report')
  expected['table'] = (made / 'report/table.csv').read_text()
  shutil.rmtree(made / 'report')
  run(
      'certify', f'--config={here}/certificate.py', f'--workdir={made}/certify'
  )
  (made / 'certify/certificate').rename(made / 'certificate')
  shutil.rmtree(made / 'certify')
  (made / 'results').mkdir()
  for name, starts in EXPERIMENTS.items():
    with tempfile.TemporaryDirectory() as folder:
      for args in starts:
        run(f'experiments.{name}', f'--workdir={folder}', '--smoke', *args)
      for file in ('results', 'sweep', 'fresh'):
        path = pathlib.Path(folder, f'{file}.json')
        if path.exists():
          target = name if file == 'results' else file
          shutil.copyfile(path, made / f'results/{target}.json')
  (made / 'results/page.md').write_text(page(made / 'results'))
  update = pathlib.Path(os.environ['PYTHONPATH'], 'docs/results/update.py')
  subprocess.run(
      [sys.executable, '-P', update, f'--folder={made}/results'], check=True
  )
  expected['configs'] = observations.configs(
      pathlib.Path(os.environ['PYTHONPATH'], 'configs')
  )
  expected['models'] = {
      name: observations.model(name) for name in observations.MODELS
  }
  expected['projectors'] = {
      name: observations.projected(name) for name in observations.PROJECTORS
  }
  expected['streams'] = {
      kind: observations.streams(kind, made / 'shards')
      for kind in observations.DATA
  }
  (made / 'expected.json').write_text(json.dumps(expected, indent=1))
  with lzma.open(HERE / 'made.tar.xz', 'wb', preset=9) as file:
    with tarfile.open(fileobj=file, mode='w') as archive:
      for path in sorted(made.rglob('*')):
        if path.is_file():
          archive.add(path, str(path.relative_to(made)))
  shutil.rmtree(made)


if __name__ == '__main__':
  main()
