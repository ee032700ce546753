"""Multiplication of integers, one digit a token (arXiv 2505.08727, section 5).

A decoder of 0.8 M parameters reads `<bos>12x34=408<eos>` and is trained on the
digits after '='. Operands have 1 or 2 digits; a tenth of the pairs is held out
(`in_distribution`), and `out_of_distribution` has operands of 3 digits.
"""

import ml_collections

from iblm_jax import config_files

VARIANTS = {
    'ce': 'cross-entropy alone (the entropy is measured, not trained)',
    'mbe': "plus the entropy of the layers' representations at every step",
    'gapt': (
        'plus the entropy in compression phases; the gate reads smoothed'
        ' losses, so that phases have a length (default)'
    ),
    'gapt_paper': (
        "the gate with the paper's defaults: raw losses of each batch"
    ),
    'gapt_vn': 'order 1 (von Neumann), so the eigendecomposition is trained',
    'dual': 'as little entropy as a cross-entropy of 0.6 nats allows',
    'smoke': 'a check of a minute that everything runs',
}


def get_config(variant: str = 'gapt') -> ml_collections.ConfigDict:
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  method = variant if variant in ('ce', 'mbe', 'dual') else 'gapt'

  c = ml_collections.ConfigDict()
  c.model = dict(
      vocab_size=15,
      num_layers=4,
      width=128,
      num_heads=4,
      activation='relu2',
      qk_norm=True,
      positions='rotary',
      document_mask=False,  # one example a row, padded at the end
      scan_layers=False,  # four layers: unrolled is faster on a CPU
      entropy=dict(
          alpha=1.0 if variant == 'gapt_vn' else 2.0,
          patch_size=8,  # tokens; the paper's
          center=False,
          normalize=False,
      ),
  )
  c.data = dict(
      kind='multiplication',
      batch_size=64,
      seed=0,
      num_threads=1,
      prefetch=4,
      multiplication=dict(
          digits=(1, 2),
          ood_digits=(3, 3),
          holdout=0.1,  # share of operand pairs never trained on
          eval_rows=1024,
      ),
  )
  c.objective = dict(
      method=method,
      weight=0.1,  # lambda
      reduction='mean',
      layer_schedule='rotate',  # the reference's default
      skip_first=1,
      skip_last=1,
      floor='max',
      measure_entropy=True,
  )
  c.gate = dict(
      patience_main=125,  # updates; the paper's
      patience_aux=75,
      rtol_main=0.01,
      rtol_aux=0.01,
      spike=0.1,
      best='every_step',
      ema=0.0 if variant == 'gapt_paper' else 0.98,
      reset_aux_best=variant != 'gapt_paper',
  )
  c.optimizer = dict(
      name='adamw',
      weight_decay=0.1,
      clip_norm=1.0,
      schedule=dict(name='wsd', peak=2e-3, warmup_steps=100),
  )
  if method == 'dual':
    c.dual = dict(
        target=0.6,  # nats, of the training batches' cross-entropy
        rate=0.1,
        weight=0.01,  # lambda at the start
        min_weight=1e-3,
        max_weight=10.0,
        ema=0.98,
    )
  # Cosine of both losses' gradients, every so many steps; 0 for never.
  c.alignment = dict(every=0, matrices=False, halves=False, norm_control=False)
  c.mesh = dict(data=-1, fsdp=1, tensor=1)
  c.train = dict(
      num_steps=1500,
      seed=0,
      accumulation=1,
      log_every=10,
      eval_every=250,
      checkpoint_every=250,
      keep_checkpoints=3,
      tensorboard=False,
  )
  if variant == 'smoke':
    c.train.update(
        num_steps=60, log_every=5, eval_every=30, checkpoint_every=30
    )
    c.optimizer.schedule.warmup_steps = 10
    c.model.update(num_layers=3, width=64, scan_layers=True)
    c.gate.update(patience_main=15, patience_aux=10)
  return c
