"""A gated decoder of one layer on multiplication."""

from ml_collections import config_dict


def get_config():
  return config_dict.ConfigDict(dict(
      model=dict(
          vocab_size=15, num_layers=3, width=8, num_heads=1,
          activation='relu2', qk_norm=True, positions='rotary',
          document_mask=False, scan_layers=True,
          entropy=dict(alpha=2.0, patch_size=4)),
      data=dict(
          kind='multiplication', batch_size=4,
          multiplication=dict(digits=(1, 2), ood_digits=(3, 3), eval_rows=8)),
      objective=dict(method='gapt', weight=0.1, layer_schedule='rotate'),
      gate=dict(
          patience_main=2, patience_aux=3, ema=0.5, reset_aux_best=True),
      optimizer=dict(
          name='adamw', weight_decay=0.1, clip_norm=1.0,
          schedule=dict(name='wsd', peak=1e-2, warmup_steps=2)),
      train=dict(
          num_steps=12, log_every=1, eval_every=6, checkpoint_every=6)))
