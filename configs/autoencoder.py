"""An autoencoder: one vector that a whole row of tokens can be read from.

python -m iblm_jax.main --config=configs/autoencoder.py --workdir=runs/ae
python -m iblm_jax.probe --workdir=runs/ae
"""

import ml_collections
from ml_collections import config_dict

from iblm_jax import config_files

VARIANTS = {
    'markov': 'documents of an artificial language, made on the fly (default)',
    'mixer': 'the same with masked mixers',
    'text': 'bytes of your own files: --config.data.text.paths=...',
    'smoke': 'a check of a minute that everything runs',
}


def get_config(variant: str = 'markov') -> ml_collections.ConfigDict:
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  length = 32 if variant == 'text' else 16

  c = ml_collections.ConfigDict()
  stack = dict(
      # One more than the data has: the blank of a memory model that takes the
      # encoder (configs/memory.py).
      vocab_size=260 if variant == 'text' else 33,
      num_layers=2,
      width=128 if variant in ('text', 'mixer') else 64,
      num_heads=4,
      activation='swiglu',
      mlp_width=256,
      document_mask=False,
      scan_layers=False,
      entropy=dict(alpha=2.0, patch_size=8, center=False, normalize=False),
  )
  if variant == 'mixer':
    stack.update(
        norm='layer', positions='none', activation='gelu', biases=True,
        num_heads=1, mixer=dict(length=length, num_heads=4, kernel=1),
    )
  c.model = dict(
      family='autoencoder',
      encoder=dict(stack, tie_embeddings=True),
      decoder=dict(stack),
      length=length,
      injection='repeat' if variant == 'mixer' else 'unroll',
  )
  c.task = dict(kind='regeneration')
  c.data = dict(kind='markov', batch_size=64)
  if variant == 'text':
    c.data.kind = 'text'
    c.data.text = dict(
        paths=config_dict.placeholder(str),
        seq_len=length,
        eval_rows=512,
    )
  else:
    c.data.markov = dict(vocab_size=32, num_topics=4, length=length, seed=0)
  c.objective = dict(
      method='ce',  # or mbe, gapt: the entropy of the encoder's layers
      weight=0.1,
      skip_first=0,
      skip_last=0,
      measure_entropy=True,
  )
  c.optimizer = dict(
      weight_decay=0.0,
      schedule=dict(
          name='cosine',
          peak=4e-3 if variant == 'mixer' else 1e-2,
          warmup_steps=100,
      ),
  )
  c.train = dict(
      num_steps=3000,
      log_every=50,
      eval_every=500,
      checkpoint_every=500,
  )
  if variant == 'smoke':
    for part in (c.model.encoder, c.model.decoder):
      part.update(num_layers=1, width=32, num_heads=2, mlp_width=64)
    c.data.batch_size = 8
    c.data.markov.num_heldout = 64
    c.train.update(
        num_steps=20, log_every=5, eval_every=10, checkpoint_every=10
    )
    c.optimizer.schedule.warmup_steps = 5
  return c
