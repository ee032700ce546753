"""Attention windows that grow in stages of a run."""

import json

import numpy as np
import pytest

from iblm_jax import config as config_lib
from iblm_jax.training import loop


def losses(tiny, workdir, windows, window, num_steps=7):
  """Cross-entropy of every step of a run."""
  tiny.model.window = window
  tiny.train.update(
      windows=windows, num_steps=num_steps, log_every=1, eval_every=0,
      checkpoint_every=4,
  )
  tiny.optimizer.schedule.update(name='constant')
  loop.train(
      loop.prepare(config_lib.from_dict(tiny)), workdir, report=lambda _: None
  )
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [r['train/cross_entropy'] for r in rows if 'train/cross_entropy' in r]


def test_each_stage_attends_over_its_window(tiny, tmp_path):
  """Seven steps in two stages: four of window 2, then three of window 16."""
  grown = losses(tiny, tmp_path / 'grown', (2, 16), 16)
  narrow = losses(tiny, tmp_path / 'narrow', (), 2)
  np.testing.assert_array_equal(grown[:4], narrow[:4])
  # The fifth has the parameters of the narrow run and the wide window.
  assert grown[4] != narrow[4]


def test_stages_are_equally_long():
  cfg = loop.options.LoopConfig(num_steps=10, windows=(1, 2, 3, 4))
  starts = cfg.window_starts()
  stage_of = [4 * step // 10 for step in range(10)]
  assert starts == tuple(stage_of.index(stage) for stage in range(4))


@pytest.mark.parametrize('windows', [(4, 4), (8, 4), (0, 4), (1, 2, 3, 4)])
def test_bad_windows_are_refused(tiny, windows):
  tiny.model.window = windows[-1]
  tiny.train.update(num_steps=3, windows=windows)
  tiny.optimizer.schedule.warmup_steps = 0
  with pytest.raises(ValueError, match='windows must be positive, ascending'):
    config_lib.from_dict(tiny)


def test_the_last_window_is_that_of_the_model(tiny):
  tiny.model.window = 16
  tiny.train.windows = (4, 8)
  with pytest.raises(ValueError, match=r'must be model.window, got \(4, 8\)'):
    config_lib.from_dict(tiny)
