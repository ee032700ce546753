"""A published model is placed on eight devices as on one."""

import jax
import numpy as np
import pytest

from iblm_jax.training import config, loop, restoring
from tests.training import published_start_test

pytest.importorskip('safetensors')
pytest.importorskip('tokenizers')


@pytest.mark.parametrize('kind', ['all', 'lora'])
def test_eight_devices_equal_one(kind, tmp_path):
  folder, _, _ = published_start_test.publish(tmp_path / 'model')
  found = []
  for number, mesh in ((1, dict(data=1)), (8, dict(data=2, fsdp=4))):
    tree = published_start_test.tree_of(
        folder,
        tmp_path,
        parameterisation=published_start_test.KINDS[kind],
        mesh=mesh,
    )
    tree['data'] |= dict(batch_size=8)
    job = loop.prepare(config.from_dict(tree), jax.devices()[:number])
    begin = restoring.beginning(job.cfg, tmp_path / 'none', config.read_run)
    with jax.set_mesh(job.program.mesh):
      state = job.program.init(jax.random.key(0))
      if begin is not None:
        state = state._replace(params=begin(state.params)[0])
      params = jax.device_get(job.program.model_params(state.params))
      batch = jax.device_put(job.source.batch(0), job.program.batch_sharding)
      metrics = jax.device_get(job.program.train_step(state, batch)[1])
    found.append((params, metrics['train/loss']))
  (params, loss), (others, other_loss) = found
  jax.tree.map(np.testing.assert_array_equal, params, others)
  assert other_loss == pytest.approx(loss, rel=1e-6)
