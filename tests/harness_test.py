"""What the adapter for lm-evaluation-harness does without that package."""

import pytest
from programs import run

from iblm_jax import harness


def test_without_the_package_there_is_one_line(monkeypatch):
  monkeypatch.setattr(harness, '_MISSING', ImportError('No module lm_eval'))
  with pytest.raises(ValueError, match=r"pip install 'iblm-jax\[lm_eval\]'"):
    harness.Model('anything')


@pytest.mark.skipif(harness._MISSING is None, reason='lm_eval is installed')
def test_the_program_says_so_too():
  done = run('harness', '--model_args', 'path=x', '--tasks', 'y', status=2)
  assert len(done.stderr.splitlines()) == 1
  assert 'lm-evaluation-harness is not installed' in done.stderr
