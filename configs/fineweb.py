"""Pre-training as in arXiv 2505.08727, on tokenised FineWeb.

  python -m iblm_jax.main --config=configs/fineweb.py:small_gapt \
      --workdir=runs/fineweb \
      --config.data.shards.train='fineweb10B/fineweb_train_*.bin' \
      --config.data.shards.validation='fineweb10B/fineweb_val_*.bin'

The files are those many have already: 256 int32 of header, then uint16 GPT-2
tokens (docs/data.md). Variants are SIZE_METHOD. What each
needs on which machine is in docs/scale.md; nothing here has been trained at
these sizes by us.

A step reads 256 rows of 2,048 tokens: as many tokens as the paper's 16 rows of
32,768. Attention looks back at most 1,792 tokens, so only the beginnings of
rows see less; `--config.data.shards.seq_len` makes rows longer.

The variants tldr_ce, tldr_mbe, tldr_gapt and smoke are stand-ins that run on a
CPU in minutes, on bytes of any text prepared into data/tldr:

  python -m iblm_jax.data.prepare tldr_all.jsonl.gz --out=data/tldr
"""

import dataclasses

import ml_collections

from iblm_jax import config_files
from iblm_jax.models import config as model_config

_SIZES = {
    'small': '124 M parameters in blocks and one embedding',
    'medium': 'the size of GPT-2 medium',
    'large': 'the size of GPT-2 large',
    'xl': 'the size of GPT-2 XL',
    'tldr': 'a stand-in that runs on a CPU',
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
VARIANTS['smoke'] = 'a check of a minute on a CPU, on the files of tldr'


def get_config(variant: str = 'small_gapt') -> ml_collections.ConfigDict:
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  size, method = ('tldr_gapt' if variant == 'smoke' else variant).split('_')

  c = ml_collections.ConfigDict()
  c.model = dataclasses.asdict(
      model_config.modded_gpt(
          'small' if size == 'tldr' else size, window=1792, remat='dots'
      )
  )
  c.data = dict(
      kind='shards',
      batch_size=256,
      num_threads=2,
      prefetch=8,
      shards=dict(
          train='fineweb10B/fineweb_train_*.bin',
          validation='fineweb10B/fineweb_val_*.bin',
          seq_len=2048,
          eot_id=50_256,
          vocab_size=50_257,
          eval_rows=5120,  # 10,485,760 tokens
      ),
  )
  c.objective = dict(
      method=method,
      weight=1.0,  # lambda
      measure_entropy=True,
  )
  c.gate = dict(
      ema=0.98,  # the paper's gate reads single batches: ema=0
      reset_aux_best=True,
  )
  c.optimizer = dict(
      name='muon',  # for the matrices of blocks; Adam for the rest
      b1=0.8,
      b2=0.95,
      weight_decay=0.0,
      clip_norm=None,
      momentum=0.95,
      momentum_start=0.85,
      momentum_warmup_steps=300,
      group_peaks=dict(head=0.008, embedding=0.6, scalar=0.04),
      schedule=dict(
          name='wsd',
          peak=0.05,
          warmup_steps=0,
          cooldown_fraction=0.4,
          final_fraction=0.1,
      ),
  )
  c.mesh = dict(data=-1, fsdp=8 if size in ('large', 'xl') else 1, tensor=1)
  c.train = dict(
      num_steps=1750,
      windows=(64, 256, 512, 768, 1024, 1280, 1536, 1792),
      eval_every=125,
      checkpoint_every=125,
  )
  if size == 'tldr':
    c.model.update(
        vocab_size=259,
        num_layers=4,
        width=128,
        num_heads=2,
        max_length=256,
        window=192,
        dtype='float32',
        remat='none',
        scan_layers=False,
    )
    c.data.update(batch_size=16, num_threads=1)
    c.data.shards.update(
        train='data/tldr/train_*.bin',
        validation='data/tldr/validation_*.bin',
        seq_len=256,
        eot_id=256,
        vocab_size=259,
        eval_rows=256,
    )
    c.train.update(
        num_steps=600,
        windows=(64, 128, 192),
        eval_every=100,
        checkpoint_every=100,
    )
    c.optimizer.momentum_warmup_steps = 100
  if variant == 'smoke':
    c.model.update(width=64, window=64, scan_layers=True)
    c.data.update(batch_size=4)
    c.data.shards.update(seq_len=128, eval_rows=8)
    c.gate.update(patience_main=6, patience_aux=4)
    c.train.update(
        num_steps=20, windows=(32, 64), eval_every=10, checkpoint_every=10
    )
  return c
