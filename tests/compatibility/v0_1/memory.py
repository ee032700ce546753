"""A memory model on Markov chains, asked for next tokens and for copies."""

from ml_collections import config_dict


def get_config():
  stack = dict(
      vocab_size=9, num_layers=1, width=8, num_heads=1, mlp_width=8,
      activation='swiglu', positions='rotary', document_mask=False,
      scan_layers=False, entropy=dict(patch_size=4))
  return config_dict.ConfigDict(dict(
      model=dict(
          family='memory', encoder=dict(stack, tie_embeddings=True),
          decoder=dict(stack), num_chunks=2, chunk_length=4, layout='recent'),
      task=dict(kind='combined', copy_weight=0.5, copying='blank_copy'),
      data=dict(
          kind='markov', batch_size=4,
          markov=dict(
              vocab_size=8, num_topics=2, successors=(2, 3), length=8,
              num_heldout=8)),
      objective=dict(
          method='mbe', weight=0.1, skip_first=0, skip_last=0),
      frozen=('^slot',),
      optimizer=dict(
          weight_decay=0.0,
          schedule=dict(name='cosine', peak=1e-2, warmup_steps=2)),
      train=dict(
          num_steps=8, log_every=2, eval_every=4, checkpoint_every=4)))
