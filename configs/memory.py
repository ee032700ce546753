"""A memory model: chunks of a row that see the past as one vector a chunk.

  python -m iblm_jax.main --config=configs/memory.py --workdir=runs/memory

Half of the rows of a step ask for the next token, half for the first half of
the row again, which only memories can tell: without these, memories hold little
of their chunks (docs/results/memory.md). The encoder of a trained autoencoder
may be taken, and kept as it is:

  ... --config.start.workdir=runs/ae --config.frozen=^encoder/

(several patterns: --config.frozen="('^encoder/', '^slot')").
"""

import ml_collections
from ml_collections import config_dict

from iblm_jax import config_files

VARIANTS = {
    'combined': 'next tokens, and copying from blanks (default)',
    'causal': 'next tokens alone',
    'blank': 'copying from blanks alone',
    'no_memory': 'chunks that see nothing of the past',
    'recurrent': 'one memory that each chunk updates',
    'oracle': 'a vector of the whole row',
    'mixer': 'masked mixers instead of transformers',
    'gapt': 'combined, with the entropy of the encoder compressed in phases',
    'full_context': 'a plain decoder of the whole row, for comparison',
    'text': 'combined, on bytes of your files: --config.data.text.paths=...',
    'smoke': 'a check of a minute that everything runs',
}


def get_config(variant: str = 'combined') -> ml_collections.ConfigDict:
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  chunks, length = 4, 16 if variant == 'text' else 8

  c = ml_collections.ConfigDict()
  stack = dict(
      # One more than the data has, for the blank; bytes have three marks.
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
        num_heads=1,
    )
  kinds = dict(no_memory='none', recurrent='recurrent', oracle='oracle_token')
  c.model = dict(
      family='memory',
      encoder=dict(stack, tie_embeddings=True),
      decoder=dict(stack),
      num_chunks=chunks,
      chunk_length=length,
      kind=kinds.get(variant, 'parallel'),
      # The chunk before this one is always in the same slot.
      layout='recent',
      empty='masked',
  )
  if variant == 'mixer':
    # That of configs/autoencoder.py:mixer, whose sequences are longer.
    c.model.encoder.mixer = dict(length=2 * length, num_heads=4, kernel=1)
    c.model.decoder.mixer = dict(
        length=chunks + length, num_heads=4, kernel=1
    )
  if variant not in ('mixer', 'recurrent', 'oracle'):
    # Positions within the window. Blank tokens have no other feature that
    # distinguishes them.
    c.model.decoder.update(
        positions='learned', max_length=chunks + length,
        # It takes more to read a chunk out of one vector than to write it.
        num_heads=8, mlp_width=512,
    )
  if variant == 'full_context':
    c.model = stack
  causal = ('causal', 'no_memory', 'recurrent', 'oracle', 'full_context')
  c.task = dict(
      kind='combined' if variant not in causal else 'causal',
      copy_weight=0.5,
      copying='blank_copy',
      also_measure=('copy', 'blank_copy'),
  )
  if variant == 'blank':
    c.task.kind = 'blank_copy'
  c.data = dict(kind='markov', batch_size=32)
  if variant == 'text':
    c.data.kind = 'text'
    c.data.text = dict(
        paths=config_dict.placeholder(str),
        seq_len=chunks * length,
        eval_rows=512,
    )
  else:
    c.data.markov = dict(
        vocab_size=32, num_topics=4, length=chunks * length, seed=0
    )
  c.objective = dict(
      method='gapt' if variant == 'gapt' else 'ce',
      weight=0.1,
      skip_first=0,
      skip_last=0,
      measure_entropy=True,
  )
  # With a workdir, the run begins with parts of that run's parameters; what a
  # pattern of `frozen` is found in stays as it began.
  c.start = dict(
      workdir=config_dict.placeholder(str), parts=dict(encoder='encoder')
  )
  c.frozen = ()
  if variant == 'gapt':
    c.gate = dict(
        patience_main=60, patience_aux=30, spike=0.1, ema=0.98,
        reset_aux_best=True,
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
      num_steps=2000,
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
