"""Scripts of fifteen lines do what they say, from an empty folder."""

import pathlib
import runpy

import jax
import numpy as np
import pytest

from iblm_jax import config, training
from iblm_jax.models import families

EXAMPLES = pathlib.Path(__file__).parents[2] / 'examples'
SHORT = ('certify_a_vector', 'gapt_linen', 'gapt_nnx', 'train_your_own')


@pytest.mark.parametrize('name', SHORT)
def test_has_at_most_fifteen_lines(name):
  assert len((EXAMPLES / f'{name}.py').read_text().splitlines()) <= 15


@pytest.mark.parametrize('name', ['gapt_linen', 'gapt_nnx'])
def test_gapt_compresses_and_the_model_still_learns(name, tmp_path):
  program = (EXAMPLES / f'{name}.py').read_text()
  assert program.count('weight=0.3') == 1
  found = {}
  for weight in ('0.3', '0.0'):
    path = tmp_path / f'{weight}.py'
    path.write_text(program.replace('weight=0.3', f'weight={weight}'))
    found[weight] = [float(v) for v in runpy.run_path(str(path))['values']]
  # No model is better than log 3, and none that knows nothing than log 32.
  for cross_entropy, _ in found.values():
    assert np.log(3) - 0.01 < cross_entropy < 1.2
  assert found['0.3'][1] < 0.5 * found['0.0'][1]


def test_a_model_and_data_of_ones_own(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(families, '_FAMILIES', dict(families._FAMILIES))
  example = runpy.run_path(str(EXAMPLES / 'train_your_own.py'))
  lines = capsys.readouterr().out.splitlines()
  # The best that any bigram can do, from the counts of all pairs.
  tokens = np.stack([row['tokens'] for row in example['rows']])
  pairs = np.zeros([7, 7])
  np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
  share = pairs / pairs.sum(axis=1, keepdims=True).clip(1)
  best = -np.sum(pairs * np.log(np.where(pairs > 0, share, 1))) / pairs.sum()
  cfg = config.read_run('runs/bigram')
  w = training.restore_params(cfg, 'runs/bigram').params
  nll = -jax.nn.log_softmax(w)[tokens[:, :-1], tokens[:, 1:]].mean()
  assert best < nll < best + 0.02
  assert f"'cross_entropy': {nll:.4f}" in lines[-1]
