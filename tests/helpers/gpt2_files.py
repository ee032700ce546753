"""A published GPT-2 file, small enough for a test."""

import json

import numpy as np
import pytest


def write(folder, width=16):
  """A GPT-2 of one layer for bytes, all weights small."""
  safetensors = pytest.importorskip('safetensors.numpy')
  rng = np.random.default_rng(0)
  v, t, d = 259, 32, width
  shapes = {'wte.weight': (v, d), 'wpe.weight': (t, d)}
  for norm in ('ln_f', 'h.0.ln_1', 'h.0.ln_2'):
    shapes |= {f'{norm}.weight': (d,), f'{norm}.bias': (d,)}
  for name, rows, columns in (
      ('attn.c_attn', d, 3 * d), ('attn.c_proj', d, d),
      ('mlp.c_fc', d, 4 * d), ('mlp.c_proj', 4 * d, d),
  ):
    shapes[f'h.0.{name}.weight'] = (rows, columns)
    shapes[f'h.0.{name}.bias'] = (columns,)
  folder.mkdir()
  safetensors.save_file(
      {
          name: rng.normal(size=shape).astype(np.float16)
          for name, shape in shapes.items()
      },
      folder / 'model.safetensors',
  )
  (folder / 'config.json').write_text(json.dumps({'n_head': 2}))
  return folder
