"""Loading takes hardly more memory than the parameters."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

safetensors = pytest.importorskip('safetensors.numpy')

ROOT = pathlib.Path(__file__).parents[3]
D, F, N, V = 512, 2048, 16, 259
SETTINGS = dict(
    model_type='llama', vocab_size=V, hidden_size=D, num_hidden_layers=N,
    num_attention_heads=8, num_key_value_heads=8, intermediate_size=F,
    tie_word_embeddings=True,
)
# Of the private memory that a process may write to; mapped files are none.
PROGRAM = """
import re, resource, sys
import jax
import tokenizers
import safetensors
from iblm_jax.models import pretrained

jax.block_until_ready(jax.numpy.zeros(3))
held = int(re.search(r'VmData:\\s+(\\d+)', open('/proc/self/status').read())[1])
most = 1024 * held + int(float(sys.argv[2]) * float(sys.argv[3]))
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
params, _, _ = pretrained.load(sys.argv[1], tokenizer='bytes')
print(sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits are of Linux')
def test_a_model_is_never_twice_in_memory(tmp_path):
  pytest.importorskip('tokenizers')
  shapes = {'model.embed_tokens.weight': (V, D), 'model.norm.weight': (D,)}
  for n in range(N):
    layer = f'model.layers.{n}'
    for name in ('q_proj', 'k_proj', 'v_proj', 'o_proj'):
      shapes[f'{layer}.self_attn.{name}.weight'] = (D, D)
    for name in ('gate_proj', 'up_proj'):
      shapes[f'{layer}.mlp.{name}.weight'] = (F, D)
    shapes[f'{layer}.mlp.down_proj.weight'] = (D, F)
    for name in ('input_layernorm', 'post_attention_layernorm'):
      shapes[f'{layer}.{name}.weight'] = (D,)
  safetensors.save_file(
      {name: np.full(shape, 0.5, np.float16) for name, shape in shapes.items()},
      tmp_path / 'model.safetensors',
  )
  (tmp_path / 'config.json').write_text(json.dumps(SETTINGS))
  size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())

  def load(share):
    return subprocess.run(
        [sys.executable, '-c', PROGRAM, str(tmp_path), str(share), str(size)],
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

  run = load(1.3)
  assert run.returncode == 0, run.stderr
  assert int(run.stdout) == size
  assert load(0.9).returncode  # the limit is one
