"""What tests compare of the folders that runs leave."""

import jax
import numpy as np

from iblm_jax import config
from iblm_jax.training import checkpoints, metrics
from iblm_jax.training import program as program_lib
from iblm_jax.training.scale import mesh as mesh_lib


def rows(workdir):
  """Metrics without those that depend on the clock."""
  return [
      {k: v for k, v in row.items() if not k.startswith('perf/')}
      for row in metrics.read_metrics(workdir / 'metrics.jsonl')
  ]


def final_state(workdir, num_steps):
  """State after the last step, on one device."""
  mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:1])
  with checkpoints.Checkpoints(
      workdir / 'checkpoints', read_only=True
  ) as store:
    abstract = program_lib.abstract_state(config.read_run(workdir), mesh)
    step, state, data = store.restore(abstract)
  assert (step, data) == (num_steps, {'next_index': num_steps})
  return state


def assert_same_run(a, b, num_steps):
  """Same metrics and same final state, bit for bit."""
  assert rows(a) == rows(b)
  left, right = (
      jax.tree_util.tree_leaves_with_path(final_state(x, num_steps))
      for x in (a, b)
  )
  for (path, x), (other, y) in zip(left, right, strict=True):
    assert path == other
    np.testing.assert_array_equal(x, y, err_msg=str(path))
