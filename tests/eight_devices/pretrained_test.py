"""A model that others trained, read onto a mesh of eight devices."""

import jax
import numpy as np
import published_models
import pytest
from flax import linen as nn

from iblm_jax.models import decoder, families, pretrained
from iblm_jax.training.scale import mesh as mesh_lib

pytest.importorskip('safetensors')
pytest.importorskip('tokenizers')


# Both have two key-value heads.
@pytest.mark.parametrize('family, width', [('qwen2', 6), ('gemma3_text', 8)])
def test_every_device_gets_its_part_and_logits_stay(tmp_path, family, width):
  settings = published_models.SETTINGS[family]
  tensors = published_models.weights(settings)
  folder = published_models.save(tmp_path / 'it', settings, tensors)
  mesh_cfg = mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2)
  mesh = mesh_lib.make_mesh(mesh_cfg)

  def shardings(cfg):
    specs = nn.logical_to_mesh(families.logical_axes(cfg), mesh_cfg.rules)
    return jax.tree.map(
        lambda spec: jax.sharding.NamedSharding(mesh, spec), specs
    )

  params, cfg, _ = pretrained.load(folder, shardings=shardings)
  key = params['blocks']['attention']['key']['kernel']  # [N, D, G, K]
  shape = key.addressable_shards[0].data.shape
  assert shape == (2, 12, 1, width), key.sharding
  tokens = np.random.default_rng(0).integers(48, size=(4, 12))

  @jax.jit
  def apply(params, tokens):
    with nn.logical_axis_rules(mesh_cfg.rules):
      return decoder.apply(params, tokens, cfg, collect='entropy')

  with jax.set_mesh(mesh):
    batch = jax.device_put(tokens, mesh_lib.batch_sharding(mesh, mesh_cfg))
    found = apply(params, batch)
  alone, _, _ = pretrained.load(folder)
  expected = decoder.apply(alone, tokens, cfg, collect='entropy')
  np.testing.assert_allclose(
      found.logits_BxLxV, expected.logits_BxLxV, atol=2e-5
  )
  np.testing.assert_allclose(found.entropy, expected.entropy, atol=1e-5)
