"""optim and information work where only jax and optax are installed."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

# absl is not blocked: optax itself imports it.
PROGRAM = """
import sys

class Block:
  names = {'flax', 'orbax', 'grain', 'ml_collections', 'chex', 'clu',
           'tensorflow', 'tensorboardX', 'constriction', 'matplotlib'}

  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in self.names:
      raise ImportError(f'{name} is blocked')
    return None

sys.meta_path.insert(0, Block())
try:
  import flax
except ImportError as error:
  assert 'flax is blocked' in str(error)
else:
  raise AssertionError('the blocking does not work')

import iblm_jax
assert 'jax' not in sys.modules, 'importing the package is not light'

from iblm_jax import information
assert 'optax' not in sys.modules, 'information needs jax only'

from iblm_jax import optim
import jax
import jax.numpy as jnp
import optax

inside = {m for m in sys.modules if m.startswith('iblm_jax.')}
allowed = ('iblm_jax.optim', 'iblm_jax.information', 'iblm_jax._moved')
assert all(m.startswith(allowed) for m in inside), inside

params = {'w': jnp.eye(4)}
tx = optim.make_optimizer(
    optim.OptimizerConfig(schedule=optim.ScheduleConfig(total_steps=10)),
    optim.GateConfig(patience_main=1))
entropy, grads = jax.value_and_grad(
    lambda p: information.matrix_entropy(p['w']))(params)
updates, state = tx.update(
    grads, tx.init(params), params, value=1.0, aux_value=entropy)
params = optax.apply_updates(params, updates)
assert abs(float(entropy) - 1.3863) < 1e-3, entropy
print('phase', int(optim.phase(state)))
"""


def test_optim_and_information_stand_alone():
  run = subprocess.run(
      [sys.executable, '-c', PROGRAM],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
      check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.split() == ['phase', '2']
