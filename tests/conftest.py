"""Makes JAX strict for every test; fake devices only where asked for."""

import gc
import os
import tempfile
from importlib import metadata

# Tests compile for longer than they run, and what they check does not depend on
# LLVM's optimisation passes. Programs started by tests inherit this.
_XLA_FLAGS = [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_backend_optimization_level=0',
]
if metadata.version('jaxlib').startswith('0.10.'):
  # Fused kernels take MLIR two thirds of a training step's compilation, and
  # modules split for more threads than there are cores take LLVM a tenth more;
  # later versions may refuse to start with these flags.
  _XLA_FLAGS += [
      '--xla_cpu_use_fusion_emitters=false',
      '--xla_cpu_parallel_codegen_split_count=1',
  ]
os.environ['XLA_FLAGS'] = ' '.join(_XLA_FLAGS)
# Programs that several tests start, and tests that build the same step, compile
# it once.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR',
    os.path.join(tempfile.gettempdir(), f'iblm_jax_tests_{os.getuid()}'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')

import jax
import pytest
from absl import flags

# The tests in this folder need eight devices, so they run in a process of
# their own, started by eight_devices_test.py.
FAKE_DEVICES = os.environ.get('IBLM_TEST_FAKE_DEVICES')
collect_ignore = [] if FAKE_DEVICES else ['eight_devices']
# These need the TPU compiler and minutes each; .ci/run names them.
if not os.environ.get('IBLM_TEST_AHEAD_OF_TIME'):
  collect_ignore.append('ahead_of_time')
# These build the wheel, which needs the extra `dev`.
if not os.environ.get('IBLM_TEST_DISTRIBUTION'):
  collect_ignore.append('distribution')

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_platforms', 'cpu')
if FAKE_DEVICES:
  jax.config.update('jax_num_cpu_devices', int(FAKE_DEVICES))

# A trace makes many small objects that live on; looking at them again and again
# takes a twentieth of the time.
gc.set_threshold(100_000, 50, 100)

# Grain reads absl flags, which no program has parsed under pytest.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope='session')
def real_text():
  """Folder of real text beside the project; skips where it is missing."""
  folder = os.path.abspath(
      os.path.join(os.path.dirname(__file__), '../../shared/data')
  )
  if not os.path.isdir(folder):
    pytest.skip(f'real text is not available: no folder {folder}.')
  return folder
