"""Launchers train where they were told to, and wait for no answer."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from iblm_jax.training.scale import hardware

ROOT = pathlib.Path(__file__).parents[2]
GCLOUD = """#!/usr/bin/env bash
# Stands in for gcloud where no ssh key exists yet: without --quiet it asks for
# a passphrase, and waits for as long as its input is open.
echo "$*" >>"$FAKE/calls"
case " $* " in
  *' describe '*) echo READY ;;
  *' --quiet '*) echo 'iblm-state: none' ;;
  *) read -r answer; exit 1 ;;
esac
cat >/dev/null
"""


def test_a_first_connection_asks_nothing_and_reads_no_input(tmp_path):
  fake = tmp_path / 'gcloud'
  fake.write_text(GCLOUD)
  fake.chmod(0o755)
  program = subprocess.Popen(
      [sys.executable, ROOT / 'launch/tpu_vm.py', 'status', '--name=t',
       '--zone=us-west4-a', '--project=p'],
      env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}',
           'FAKE': str(tmp_path)},
      # A pipe that nobody writes to, as of nohup or a detached terminal.
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  )
  try:
    assert program.wait(timeout=30) == 0
    assert 'run: none' in program.stdout.read()
  finally:
    program.kill()
    program.stdin.close()
    program.stdout.close()
  calls = (tmp_path / 'calls').read_text().splitlines()
  assert len(calls) == 2 and all('--quiet' in call for call in calls)


def test_devices_are_those_that_were_meant():
  for fine in (None, '', 'cpu'):
    hardware.check_platform(fine)
  for wanted, extra in (('gpu', 'cuda12'), ('tpu', 'tpu')):
    with pytest.raises(
        ValueError,
        match=f"IBLM_PLATFORM is '{wanted}', but JAX found .* of the platform"
        f" 'cpu': install the extra '{extra}'",
    ):
      hardware.check_platform(wanted)
  assert jax.default_backend() == 'cpu'


def test_a_program_refuses_other_devices(tmp_path, monkeypatch):
  monkeypatch.setenv('IBLM_PLATFORM', 'gpu')
  command = [
      sys.executable, '-m', 'iblm_jax.main', '--config=multiplication:smoke',
      f'--workdir={tmp_path}/run',
  ]
  done = subprocess.run(
      command, capture_output=True, text=True, cwd=ROOT, check=False
  )
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert "IBLM_PLATFORM is 'gpu'" in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('script', 'platform'), [('gpu_host.sh', 'gpu'), ('tpu_worker.sh', 'tpu')]
)
def test_launchers_say_where(script, platform):
  text = (ROOT / 'launch' / script).read_text()
  told, started = f'IBLM_PLATFORM={platform}', '-m iblm_jax.main'
  assert text.count(told) == 1 and text.index(told) < text.rindex(started)
