"""GPT-2 with AdamW on tokenised FineWeb or OpenWebText.

  python -m iblm_jax.main --config=configs/gpt2.py:small_gapt \
      --workdir=runs/gpt2 \
      --config.data.shards.train='fineweb10B/fineweb_train_*.bin' \
      --config.data.shards.validation='fineweb10B/fineweb_val_*.bin'

Variants are SIZE_METHOD. The batch is for 64 devices. What a step needs on a
machine that you do not have:

  python -m iblm_jax.main --config=configs/gpt2.py:xl_gapt --compile_only \
      --topology=v5e:8x8 --config.mesh.fsdp=64 --workdir=runs/plan

The table of sizes and machines is in docs/scale.md. Nothing here has been
trained at these sizes by us.
"""

import dataclasses

import ml_collections

from iblm_jax import config_files
from iblm_jax.models import config as model_config

_SIZES = {
    'small': '124 M parameters',
    'medium': '355 M parameters',
    'large': '774 M parameters',
    'xl': '1.56 B parameters',
}
_METHODS = {
    'ce': 'cross-entropy alone',
    'mbe': 'plus the entropy of the layers at every step',
    'gapt': 'plus the entropy in compression phases',
}
VARIANTS = {
    f'{size}_{method}': f'{what}, {how}'
    for size, what in _SIZES.items()
    for method, how in _METHODS.items()
}
VARIANTS['smoke'] = (
    'a check of a minute on a CPU, on the files of fineweb:smoke'
)


def get_config(variant: str = 'small_gapt') -> ml_collections.ConfigDict:
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  size, method = ('small_gapt' if variant == 'smoke' else variant).split('_')

  c = ml_collections.ConfigDict()
  c.model = dataclasses.asdict(
      model_config.gpt2(
          size, dtype='bfloat16', remat='dots', document_mask=True
      )
  )
  c.data = dict(
      kind='shards',
      batch_size=128,
      num_threads=2,
      prefetch=8,
      shards=dict(
          train='fineweb10B/fineweb_train_*.bin',
          validation='fineweb10B/fineweb_val_*.bin',
          seq_len=1024,
          eot_id=50_256,
          vocab_size=50_257,
          eval_rows=1024,
      ),
  )
  c.objective = dict(
      method=method,
      weight=0.1,  # lambda
      measure_entropy=method != 'ce',
  )
  c.gate = dict(ema=0.98, reset_aux_best=True)
  c.optimizer = dict(
      name='adamw',
      b1=0.9,
      b2=0.95,
      weight_decay=0.1,
      clip_norm=1.0,
      schedule=dict(
          name='cosine', peak=6e-4, warmup_steps=1000, final_fraction=0.1
      ),
  )
  c.train = dict(
      num_steps=20_000,
      eval_every=1000,
      checkpoint_every=1000,
  )
  if variant == 'smoke':
    c.model.update(
        vocab_size=259, num_layers=3, width=64, num_heads=2, max_length=128,
        dtype='float32', remat='none',
    )
    c.data.update(batch_size=4, num_threads=1)
    c.data.shards.update(
        train='data/tldr/train_*.bin',
        validation='data/tldr/validation_*.bin',
        seq_len=128, eot_id=256, vocab_size=259, eval_rows=8,
    )
    c.gate.update(patience_main=6, patience_aux=4)
    c.optimizer.schedule.update(peak=2e-3, warmup_steps=5)
    c.train.update(num_steps=20, eval_every=10, checkpoint_every=10)
  return c
