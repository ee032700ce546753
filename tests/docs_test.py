"""The examples of the documentation run, and the pages show what runs."""

import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

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
def test_examples_of_the_pages_run(page, number, capsys):
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


def test_there_are_excerpts():
  page = (DOCS / 'use_the_gate_in_your_own_loop.md').read_text()
  assert len(EXCERPT.findall(page)) == 3
