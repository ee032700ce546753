"""Runs tests/eight_devices in a process with eight fake CPU devices.

The device count is fixed once JAX has started, so those tests cannot share
this process.
"""

import os
import pathlib
import subprocess
import sys


def test_eight_devices():
  folder = pathlib.Path(__file__).parent / 'eight_devices'
  run = subprocess.run(
      [sys.executable, '-m', 'pytest', '-q', '-n0', str(folder)],
      env={**os.environ, 'IBLM_TEST_FAKE_DEVICES': '8'},
      capture_output=True,
      text=True,
      check=False,
  )
  assert run.returncode == 0, run.stdout + run.stderr
