"""GPT-2 with AdamW on tokenised FineWeb or OpenWebText.

  python -m iblm_jax.main --config=configs/gpt2.py:small_gapt \
      --workdir=runs/gpt2 \
      --config.data.shards.train='fineweb10B/fineweb_train_*.bin' \
      --config.data.shards.validation='fineweb10B/fineweb_val_*.bin'

Variants are SIZE_METHOD: small (124 M parameters), medium (355 M), large
(774 M) or xl (1.56 B), with ce, mbe or gapt; and smoke, which runs on a CPU in
a minute on the files of configs/fineweb.py:smoke. The batch is for 64 devices;
what a step needs on which machine, without having it:

  python -m iblm_jax.main --config=configs/gpt2.py:xl_gapt --compile_only \
      --topology=v5e:8x8 --config.mesh.fsdp=64 --workdir=runs/plan

The table of sizes and machines is in docs/scale.md. Nothing here has been
trained at these sizes by us.
"""

import dataclasses

import ml_collections

from iblm_jax.models import config as model_config

_SIZES = ('small', 'medium', 'large', 'xl')
_METHODS = ('ce', 'mbe', 'gapt')


def get_config(variant: str = 'small_gapt') -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = [f'{size}_{method}' for size in _SIZES for method in _METHODS]
  if variant not in (*variants, 'smoke'):
    raise ValueError(
        f'variant must be smoke or one of {variants}, got {variant!r}.'
    )
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
      seed=0,
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
      reduction='mean',
      layer_schedule='rotate',
      skip_first=1,
      skip_last=1,
      floor='max',
      measure_entropy=method != 'ce',
  )
  c.gate = dict(
      patience_main=125,  # updates
      patience_aux=75,
      rtol_main=0.01,
      rtol_aux=0.01,
      spike=0.1,
      best='every_step',
      ema=0.98,
      reset_aux_best=True,
  )
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
  # Cosine of both losses' gradients, every so many steps; 0 for never.
  c.alignment = dict(every=0, matrices=False, halves=False, norm_control=False)
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.train = dict(
      num_steps=20_000,
      seed=0,
      accumulation=1,
      log_every=10,
      eval_every=1000,
      checkpoint_every=1000,
      keep_checkpoints=3,
      tensorboard=False,
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
