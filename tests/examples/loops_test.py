"""The loops of examples/ learn, switch phases and compress."""

import importlib.util
import pathlib

import numpy as np
import pytest

from iblm_jax import optim

EXAMPLES = pathlib.Path(__file__).parents[2] / 'examples'
STEPS = {'linen_train_state': 300, 'nnx_loop': 300, 'equinox_loop': 300,
         'multi_steps': 200}  # fmt: skip
# See short_scripts_test.py.
SHORT = {'certify_a_vector', 'gapt_linen', 'gapt_nnx', 'train_your_own'}
# See tests/parity/harness_test.py, for which it needs the harness.
HARNESS = {'harness_tasks'}
BEST_CROSS_ENTROPY = np.log(3)  # the next token is one of three, equally likely


def load(name):
  spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_example_is_run():
  assert {path.stem for path in EXAMPLES.glob('*.py')} == set(STEPS) | (
      SHORT | HARNESS
  )


@pytest.mark.parametrize('name', STEPS)
def test_the_loop_compresses_and_still_learns(name):
  example = load(name)
  history, gate = example.main(steps=STEPS[name])
  plain, _ = example.main(steps=STEPS[name], weight=0.0)
  np.testing.assert_array_equal(history[0], plain[0])
  assert history.shape == (STEPS[name], 2)
  (loss, entropy), (plain_loss, plain_entropy) = (
      np.asarray(h[-20:]).mean(axis=0) for h in (history, plain)
  )
  assert history[0, 0] > 3.0
  assert BEST_CROSS_ENTROPY < loss < BEST_CROSS_ENTROPY + 0.15
  assert loss < plain_loss + 0.05
  # Without the auxiliary gradient the entropy stays near 1.
  assert plain_entropy > 0.7
  assert 0 < entropy < 0.5 * plain_entropy
  # The gate went into compression and came back.
  statistics = optim.phase_statistics(gate)
  assert statistics['num_switches'] >= 2
  assert 0.1 < statistics['share_compression'] < 0.9
  per_step = getattr(example, 'MICRO_BATCHES', 1)
  assert int(gate.num_steps) == per_step * STEPS[name]
