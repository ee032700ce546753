"""The curriculum of arXiv 2602.13466: memories of a frozen autoencoder.

  python -m iblm_jax.curriculum --config=configs/curriculum.py --workdir=DIR

autoencoder (one vector a chunk), blank (its encoder is frozen; the decoder
learns to read memories: it copies from blanks), copy (the same with the tokens
in sight), combined (next tokens, and copying from blanks). Fields of a
stage are flags: --config.blank.train.num_steps=500.
"""

import ml_collections

from iblm_jax import config_files

VARIANTS = {
    'markov': 'documents of an artificial language (default)',
    'smoke': 'a check of a minute that everything runs',
}


def get_config(variant: str = 'markov') -> ml_collections.ConfigDict:
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  smoke = variant == 'smoke'
  chunks, length = 4, 8
  stack = dict(
      vocab_size=33,  # one more than the data has, for the blank
      num_layers=1 if smoke else 2,
      width=32 if smoke else 64,
      num_heads=2 if smoke else 4,
      norm='rms',
      positions='rotary',
      activation='swiglu',
      mlp_width=64 if smoke else 256,
      document_mask=False,
      scan_layers=False,
      entropy=dict(alpha=2.0, patch_size=8, center=False, normalize=False),
  )
  parts = dict(encoder=dict(stack, tie_embeddings=True), decoder=dict(stack))

  def stage(model, task, row_length, steps, peak, after=None, taken=None):
    c = ml_collections.ConfigDict()
    c.model = model
    c.task = task
    c.data = dict(
        kind='markov',
        batch_size=8 if smoke else 32,
        seed=0,
        markov=dict(
            vocab_size=32, num_topics=4, length=row_length, seed=0,
            num_heldout=64 if smoke else 1024,
        ),
    )
    c.objective = dict(
        method='ce', skip_first=0, skip_last=0, measure_entropy=False
    )
    c.optimizer = dict(
          weight_decay=0.0,
          schedule=dict(
            name='cosine', peak=peak, warmup_steps=5 if smoke else 50
        ),
    )
    c.train = dict(
        num_steps=10 if smoke else steps,
        seed=0,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 500,
        checkpoint_every=5 if smoke else 500,
    )
    if after is not None:
      c.start = dict(workdir=after, parts=taken)
      c.frozen = ('^encoder/',)
    return c

  memory = dict(
      family='memory',
      num_chunks=chunks,
      chunk_length=length,
      layout='recent',
      encoder=parts['encoder'],
      # Positions within the window. Blank tokens have no other feature that
      # distinguishes them.
      decoder=dict(
          stack,
          positions='learned',
          max_length=chunks + length,
          num_heads=2 if smoke else 8,
          mlp_width=64 if smoke else 512,
      ),
  )
  views = ('causal', 'copy', 'blank_copy')
  c = ml_collections.ConfigDict()
  c.order = ('autoencoder', 'blank', 'copy', 'combined')
  c.autoencoder = stage(
      dict(family='autoencoder', length=length, **parts),
      dict(kind='regeneration'),
      row_length=length,
      steps=1500,
      peak=1e-2,
  )
  for name, task, steps, peak, after, taken in (
      ('blank', dict(kind='blank_copy'), 500, 5e-3, 'autoencoder',
       {'encoder': 'encoder'}),
      ('copy', dict(kind='copy'), 500, 5e-3, 'blank', {'': ''}),
      # Next tokens are all new. With the tokens in sight nothing would tell a
      # copy from a text, and the causal loss would pay for that.
      ('combined', dict(kind='combined', copying='blank_copy'), 1000, 1e-2,
       'copy', {'': ''}),
  ):
    c[name] = stage(
        memory, dict(task, also_measure=views), chunks * length, steps, peak,
        after, taken,
    )
  return c
