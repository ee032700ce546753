"""The wheel is the product: it works alone, in an empty folder."""

import json
import os
import pathlib
import re
import site
import subprocess
import sys
import tarfile
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def execute(*command, cwd, status=0):
  """Runs a command without the source tree on any path."""
  env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  done = subprocess.run(
      command, cwd=cwd, env={**env, 'JAX_PLATFORMS': 'cpu'},
      capture_output=True, text=True, check=False,
  )
  assert done.returncode == status, done.stdout + done.stderr
  return done


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """Folder with a wheel and an sdist, the wheel made from the sdist."""
  out = tmp_path_factory.mktemp('dist')
  execute(sys.executable, '-m', 'build', '--outdir', out, ROOT, cwd=out)
  return out


@pytest.fixture(scope='module')
def scripts(built, tmp_path_factory):
  """The programs of a new environment that has the wheel.

  What the wheel needs is read from the environment of the tests, so that
  nothing is downloaded again.
  """
  folder = tmp_path_factory.mktemp('environment')
  venv.create(folder)
  packages, = folder.glob('lib/python*/site-packages')
  (packages / 'others.pth').write_text('\n'.join(site.getsitepackages()))
  wheel, = built.glob('*.whl')
  execute(
      sys.executable, '-m', 'pip', '--python', folder, 'install', '--no-deps',
      '--quiet', '--ignore-installed', wheel, cwd=built,
  )
  where = execute(
      folder / 'bin/python', '-c', 'import iblm_jax; print(iblm_jax.__file__)',
      cwd=built,
  )
  assert where.stdout.startswith(str(packages))
  return folder / 'bin'


def test_trains_in_an_empty_folder(scripts, tmp_path):
  execute(
      scripts / 'iblm-train', '--config=multiplication:smoke',
      '--workdir=run', '--config.train.num_steps=20', cwd=tmp_path,
  )
  assert json.loads((tmp_path / 'run/summary.json').read_text())['steps'] == 20
  execute(
      scripts / 'iblm-generate', '--workdir=run', '--prompt=1x2=',
      '--max_tokens=4', cwd=tmp_path,
  )
  # As the README writes it, with no such file here.
  execute(
      scripts / 'iblm-train', '--config=configs/multiplication.py:smoke',
      '--workdir=run', '--config.train.num_steps=20', cwd=tmp_path,
  )


@pytest.mark.parametrize(
    'name, args, says',
    [
        ('iblm-train', ['--list'], 'iblm-train --config=multiplication'),
        ('iblm-train', ['--config=gpt2', '--help_config'],
         '--config.train.num_steps=20000  int, >= 1'),
        ('iblm-certify', ['--config=certify_words', '--help_config'],
         '--config.certificate.sample=None  int or None, >= 1'),
        ('iblm-curriculum', ['--config=curriculum', '--help_config'],
         '--config.blank.train.num_steps=500'),
        ('iblm-experiment', [], 'multiplication'),
    ],
)
def test_what_programs_list(scripts, tmp_path, name, args, says):
  assert says in execute(scripts / name, *args, cwd=tmp_path).stdout


def test_every_program_has_a_script(scripts, tmp_path):
  for name in (
      'train', 'report', 'certify', 'generate', 'prepare', 'export', 'probe',
      'curriculum',
  ):
    done = execute(
        scripts / f'iblm-{name}', '--no_such_flag', cwd=tmp_path, status=2
    )
    assert 'no_such_flag' in done.stderr


def test_launchers_are_installed(scripts, tmp_path):
  done = execute(
      scripts / 'python', '-m', 'iblm_jax.launch.tpu_vm', 'status', '--name=a',
      '--zone=b', '--project=c', '--dry_run', cwd=tmp_path,
  )
  assert 'gcloud compute tpus tpu-vm describe' in done.stdout
  folder, = scripts.parent.glob('lib/python*/site-packages/iblm_jax/launch')
  assert {'gpu_host.sh', 'gpu_hosts.sh', 'slurm.sbatch', 'tpu_worker.sh'} < {
      path.name for path in folder.iterdir()
  }


@pytest.mark.parametrize('name', [
    'certify_a_vector', 'gapt_linen', 'gapt_nnx', 'train_your_own',
])
def test_short_scripts(scripts, tmp_path, name):
  script = tmp_path / f'{name}.py'
  script.write_text((ROOT / 'examples' / script.name).read_text())
  done = execute(scripts / 'python', script, cwd=tmp_path)
  assert 'cross' in done.stdout or 'CERTIFIED' in done.stdout


def test_sdist_has_what_the_readme_refers_to(built):
  path, = built.glob('*.tar.gz')
  with tarfile.open(path) as archive:
    held = {name.partition('/')[2] for name in archive.getnames()}
  readme = (ROOT / 'README.md').read_text()
  named = re.findall(r'\]\(([^)#:]+)\)|`(configs/\w+\.py)', readme)
  named += [(f'{name}/', '') for name in re.findall(r'`(\w+)/` \|', readme)]
  paths = {(link or file).rstrip('/') for link, file in named}
  assert {'docs/data.md', 'configs', 'docs/results'} <= paths
  assert not paths - held
  for name in ('examples', 'benchmarks/train_step.py', 'tests/conftest.py',
               '.ci/run', 'CHANGELOG.md', 'LICENSE'):
    assert name in held
