"""What --smoke makes up: a tiny model in the published layout, and texts."""

import json
import types
from typing import Any

import numpy as np
from etils import epath

from iblm_jax import files

# Of what is missing here, nothing is asked of a user.
_WIDTH, _MLP, _VOCAB, _LAYERS = 16, 32, 257, 3
ROWS = 8
OVERRIDES = {
    'data.batch_size': 2,
    'data.text.seq_len': 32,
    'data.text.eval_rows': 4,
    'gate.patience_main': 2,
    'gate.patience_aux': 2,
    'parameterisation.lora.rank': 2,
    'train.num_steps': 8,
    'train.checkpoint_every': 4,
    'optimizer.schedule.warmup_steps': 1,
}


def complete(options: Any) -> Any:
  """The values of the flags, with made-up files where there are none."""
  workdir = options.workdir
  values = vars(options) | {'seeds': 1}
  if options.text is None and not options.other:
    values |= {
        'checkpoint': str(_model(workdir / 'model')),
        'text': _text(workdir / 'text', 'pages', 'etaoinsh'),
        'other': [
            _text(workdir / 'text', 'digits', '0123456789'),
            _text(workdir / 'text', 'words', 'abcdefgh'),
        ],
    }
  return types.SimpleNamespace(**values)


def _text(folder: epath.Path, name: str, letters: str) -> str:
  rng = np.random.default_rng(len(letters))
  words = [''.join(rng.choice(list(letters), 4)) for _ in range(50)]
  lines = [
      json.dumps({'text': ' '.join(rng.choice(words, 30))}) for _ in range(40)
  ]
  return _once(folder / f'{name}.jsonl', '\n'.join(lines).encode())


def _model(folder: epath.Path) -> epath.Path:
  """A Llama with random weights, which reads bytes."""
  import tokenizers
  from safetensors import numpy as safetensors

  shapes = {'model.embed_tokens.weight': (_VOCAB, _WIDTH)}
  norms = ['model.norm']
  for n in range(_LAYERS):
    layer = f'model.layers.{n}'
    norms += [f'{layer}.input_layernorm', f'{layer}.post_attention_layernorm']
    shapes |= {
        f'{layer}.self_attn.{name}_proj.weight': (_WIDTH, _WIDTH)
        for name in 'qkvo'
    }
    shapes |= {
        f'{layer}.mlp.gate_proj.weight': (_MLP, _WIDTH),
        f'{layer}.mlp.up_proj.weight': (_MLP, _WIDTH),
        f'{layer}.mlp.down_proj.weight': (_WIDTH, _MLP),
    }
  rng = np.random.default_rng(0)
  weights = {
      name: (rng.normal(size=shape) / 4).astype(np.float32)
      for name, shape in shapes.items()
  }
  weights |= {f'{name}.weight': np.ones(_WIDTH, np.float32) for name in norms}
  settings = {
      'model_type': 'llama', 'vocab_size': _VOCAB, 'hidden_size': _WIDTH,
      'num_hidden_layers': _LAYERS, 'num_attention_heads': 2,
      'intermediate_size': _MLP, 'max_position_embeddings': 64,
      'hidden_act': 'silu', 'rms_norm_eps': 1e-5, 'rope_theta': 10_000.0,
      'tie_word_embeddings': True,
  }
  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  tokenizer = tokenizers.Tokenizer(
      tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, [])
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.add_special_tokens(['<|endoftext|>'])
  _once(folder / 'tokenizer.json', tokenizer.to_str().encode())
  _once(folder / 'config.json', json.dumps(settings).encode())
  _once(folder / 'model.safetensors', safetensors.save(weights))
  return folder


def _once(path: epath.Path, content: bytes) -> str:
  """Writes a file, unless it is there from an earlier start."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if not path.exists():
    files.write_bytes(path, content)
  return str(path)
