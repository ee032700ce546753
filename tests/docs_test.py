"""The examples of the documentation run, and the pages show what runs."""

import importlib
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

from iblm_jax import config_files, experiment
from iblm_jax.data import kinds
from iblm_jax.models import families

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / 'docs'


def test_the_gate_in_a_foreign_loop_runs_and_goes_through_both_phases():
  run = subprocess.run(
      [sys.executable, str(DOCS / 'use_the_gate_in_your_own_loop.py')],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
      check=False,
  )
  assert run.returncode == 0, run.stderr
  lines = re.findall(
      r'^step=(\d+) loss=(\S+) entropy=(\S+) phase=([12])$', run.stdout, re.M
  )
  losses = [float(loss) for _, loss, _, _ in lines]
  assert len(lines) == 21
  assert losses[-1] < 0.25 * losses[0]
  assert {phase for *_, phase in lines} == {'1', '2'}
  assert all(0 < float(entropy) < 4.2 for _, _, entropy, _ in lines)  # log 64
  assert 'share_compression' in run.stdout.splitlines()[-1]


EXAMPLE = re.compile(r'^<!-- example -->\n```python\n(.*?)^```$', re.M | re.S)


@pytest.mark.parametrize(
    'page, number',
    [
        (page.name, number)
        for page in sorted(DOCS.glob('*.md'))
        for number, _ in enumerate(EXAMPLE.findall(page.read_text()))
    ],
)
def test_examples_of_the_pages_run(page, number, capsys, monkeypatch):
  # What an example registers is known to it alone.
  monkeypatch.setattr(kinds, '_KINDS', dict(kinds._KINDS))
  monkeypatch.setattr(families, '_FAMILIES', dict(families._FAMILIES))
  source = EXAMPLE.findall((DOCS / page).read_text())[number]
  exec(compile(source, f'{page}, example {number}', 'exec'), {})
  printed = capsys.readouterr().out.split()
  assert printed and all(math.isfinite(float(word)) for word in printed)


def test_the_page_shows_the_program_that_runs():
  program = (DOCS / 'use_the_gate_in_your_own_loop.py').read_text()
  page = (DOCS / 'use_the_gate_in_your_own_loop.md').read_text()
  assert f'```python\n{program}```' in page


EXCERPT = re.compile(
    r'^<!-- from (\S+) -->\n```python\n(.*?)^```$', re.M | re.S
)


@pytest.mark.parametrize('page', sorted(p.name for p in DOCS.glob('*.md')))
def test_excerpts_stand_in_the_programs_that_they_are_from(page):
  for path, excerpt in EXCERPT.findall((DOCS / page).read_text()):
    assert excerpt in (ROOT / path).read_text(), (path, excerpt)


def test_all_code_of_the_pages_is_run_or_checked():
  for page in DOCS.glob('*.md'):
    text = page.read_text()
    program = page.with_suffix('.py')
    tested = EXAMPLE.findall(text) + EXCERPT.findall(text)
    count = len(tested) + program.exists()
    assert len(re.findall('^```python$', text, re.M)) == count, page.name


def test_there_are_excerpts():
  page = (DOCS / 'use_the_gate_in_your_own_loop.md').read_text()
  assert len(EXCERPT.findall(page)) == 3


PROGRAMS = (DOCS / 'reference/programs.md').read_text()


def test_the_page_of_programs_has_every_console_script():
  setup = (ROOT / 'setup.py').read_text()
  scripts = dict(re.findall(r"'(iblm-\w+) = iblm_jax\.([\w.]+):run'", setup))
  assert len(scripts) >= 8
  sections = re.findall(r'^## (iblm-\w+)$', PROGRAMS, re.M)
  assert sorted(sections) == sorted(scripts)


@pytest.mark.parametrize(
    'path',
    [
        *'main report certify generate probe curriculum'.split(),
        *['cli', 'config_flag', 'data/prepare', 'experiments/_harness/program'],
    ],
)
def test_the_page_of_programs_has_every_flag(path):
  code = (ROOT / f'iblm_jax/{path}.py').read_text()
  flags = re.findall(r"DEFINE_\w+\(\s*'(\w+)'", code)
  assert flags
  for flag in flags:
    assert f'`--{flag}`' in PROGRAMS or f'`--{flag}=' in PROGRAMS, flag


def test_names_of_a_public_package_are_there():
  pages = (DOCS / 'reference').glob('*.md')
  names = re.findall(
      r'automodule:: (\S+)', '\n'.join(page.read_text() for page in pages)
  )
  assert len(names) > 12
  for name in names:
    module = importlib.import_module(name)
    for public in getattr(module, '__all__', ()):
      assert hasattr(module, public), (name, public)


TEXTS = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
    *(path for path in DOCS.rglob('*.md') if '_build' not in path.parts),
]


@pytest.mark.parametrize('path', TEXTS, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(path):
  text = path.read_text()
  links = re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', text)
  assert not [x for x in links if not (path.parent / x).exists()]
  named = re.findall(r'`((?:\w+/)+\w+\.(?:py|sh|sbatch))\b', text)
  for name in named:
    if 'my_' not in name:
      assert any((ROOT / top / name).exists() for top in ('', 'iblm_jax')), name


@pytest.mark.parametrize('path', TEXTS, ids=lambda path: path.name)
def test_configs_and_experiments_that_a_page_names_are_there(path):
  text = path.read_text()
  named = re.findall(
      r'--config=(?:configs/)?([a-z_0-9]+)\b(?!/)(?:\.py)?(?::(\w+))?', text
  )
  for name, variant in named:
    if not name.startswith('my_'):
      variants = config_files.module(name).VARIANTS
      assert variant in ('', *variants), (name, variant)
  names = re.findall(
      r'(?:iblm-experiment |-m iblm_jax\.experiments\.)([a-z]+) --', text
  )
  assert {*names} <= {*experiment.summaries()}


def test_every_public_package_has_a_page():
  packages = {
      path.parent.name
      for path in ROOT.glob('iblm_jax/[a-z]*/__init__.py')
      if '__all__' in path.read_text()
  }
  assert len(packages) >= 12
  index = (DOCS / 'reference/index.md').read_text().split()
  assert packages <= {*index}
