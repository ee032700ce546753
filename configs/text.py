"""Language modelling of any text files, byte by byte.

Point it at your own text:

  python -m iblm_jax.main --config=configs/text.py:gapt --workdir=runs/mine \
      --config.data.text.paths=my_book.txt

Paths are separated by commas: `.txt` and `.jsonl` files (with a field `text`),
each also as `.gz`, and folders of these. A tenth is held out: whole documents,
or the tail of each where there are fewer than twenty.

The default is a decoder of 0.9 M parameters and 600 steps of 16 x 256 bytes.
Measured times and losses are in docs/training_on_text.md.
"""

import ml_collections
from ml_collections import config_dict

from iblm_jax import config_files

VARIANTS = {
    'ce': 'cross-entropy alone',
    'mbe': 'plus the entropy of the layers at every step',
    'gapt': 'plus the entropy in compression phases (default)',
    'smoke': 'a check of a minute that everything runs',
}


def get_config(variant: str = 'gapt') -> ml_collections.ConfigDict:
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)

  c = ml_collections.ConfigDict()
  c.model = dict(
      vocab_size=259,  # 256 bytes and three marks
      num_layers=4,
      width=128,
      num_heads=4,
      activation='relu2',
      qk_norm=True,
      document_mask=True,
      scan_layers=False,  # four layers: unrolled is faster on a CPU
      entropy=dict(alpha=2.0, patch_size=8, center=False, normalize=False),
  )
  c.data = dict(
      kind='text',
      batch_size=16,
      text=dict(
          paths=config_dict.placeholder(str),
          documents='file',  # of a .txt: the file, or each line or paragraph
          text_field='text',
          holdout=0.1,
          tokenizer='bytes',  # or a tokenizer.json, or a SentencePiece .model
          seq_len=256,
          eval_rows=256,
      ),
  )
  c.objective = dict(
      method=variant if variant in ('ce', 'mbe') else 'gapt',
      weight=0.1,  # lambda
      measure_entropy=True,
  )
  c.gate = dict(ema=0.98, reset_aux_best=True)
  c.optimizer = dict(
      weight_decay=0.1,
      schedule=dict(name='wsd', peak=2e-3, warmup_steps=50),
  )
  c.train = dict(
      num_steps=600,
      eval_every=100,
      checkpoint_every=100,
  )
  if variant == 'smoke':
    c.model.update(
        num_layers=3, width=64, num_heads=2, scan_layers=True
    )
    c.data.batch_size = 4
    c.data.text.update(seq_len=128, eval_rows=8)
    c.train.update(num_steps=20, eval_every=10, checkpoint_every=10)
    c.optimizer.schedule.warmup_steps = 5
    c.gate.update(patience_main=6, patience_aux=4)
  return c
