"""The runs of `faults.py`: four families, a second of training each."""

import ml_collections
from ml_collections import config_dict

VARIANTS = ('transformer', 'mixer', 'memory', 'sublora')
TEXT = 'text'  # a transformer that reads files
VOCAB, CHUNKS, CHUNK = 16, 4, 8
LENGTH = CHUNKS * CHUNK
STEPS, EVERY = 40, 4


def get_config(variant: str) -> ml_collections.ConfigDict:
  if variant not in (*VARIANTS, TEXT):
    raise ValueError(f'variant must be one of {VARIANTS}, got {variant!r}.')
  c = ml_collections.ConfigDict()
  stack = dict(
      vocab_size=VOCAB, num_layers=1, width=16, num_heads=2, mlp_width=32,
      activation='relu2', document_mask=False, scan_layers=False,
      entropy=dict(patch_size=4),
  )
  if variant == 'mixer':
    stack.update(
        positions='none', num_heads=1, mixer=dict(length=LENGTH, num_heads=2)
    )
  c.model = stack
  if variant == 'memory':
    c.model = dict(
        family='memory', num_chunks=CHUNKS, chunk_length=CHUNK,
        encoder=dict(stack, tie_embeddings=True), decoder=stack,
    )
    c.task = dict(kind='combined', copying='blank_copy')
  c.data = dict(
      kind='markov', batch_size=8,
      markov=dict(vocab_size=VOCAB - 1, length=LENGTH, num_heldout=8),
  )
  if variant == TEXT:
    c.model.vocab_size = 259
    c.data = dict(
        kind='text', batch_size=8,
        text=dict(
            paths=config_dict.placeholder(str), documents='line',
            tokenizer='bytes', seq_len=LENGTH, eval_rows=8,
        ),
    )
  c.objective = dict(
      method='gapt' if variant == 'transformer' else 'ce', skip_first=0,
      skip_last=0, measure_entropy=variant == 'transformer',
  )
  if variant == 'transformer':  # no step improves by half: phases alternate
    c.gate = dict(patience_main=3, patience_aux=2, rtol_main=0.5)
  c.optimizer = dict(schedule=dict(peak=0.01, warmup_steps=2))
  if variant == 'sublora':
    c.model.tie_embeddings = False
    c.parameterisation = dict(
        kind='sublora', dims=12, entries='sign',
        lora=dict(patterns=('query/kernel$', '^head/kernel$'), rank=2),
    )
    c.optimizer.weight_decay = 0.0
  c.train = dict(
      num_steps=STEPS, log_every=1, eval_every=2 * EVERY,
      checkpoint_every=EVERY, keep_checkpoints=3,
  )
  return c


def certificate(path: str) -> ml_collections.ConfigDict:
  """A certificate about the words of a file, of the fewest numbers."""
  c = ml_collections.ConfigDict()
  c.model = dict(
      vocab_size=27, num_layers=1, width=8, num_heads=1, activation='relu2',
      tie_embeddings=False, document_mask=False, scan_layers=False,
      entropy=dict(patch_size=4),
  )
  c.data = dict(
      kind='words', batch_size=8, eval_units=8,
      words=dict(path=path, num_train=60, length=8),
  )
  c.objective = dict(
      method='ce', measure_entropy=False, skip_first=0, skip_last=0
  )
  c.optimizer = dict(
      weight_decay=0.0, schedule=dict(peak=0.1, warmup_steps=0)
  )
  c.parameterisation = dict(kind='subspace', dims=(3, 4), entries='sign')
  c.train = dict(num_steps=6, log_every=3, checkpoint_every=3)
  c.certificate = dict(
      levels=(3, 5), tuning_steps=2, alphas=(0.05, 0.5), top_k=(1,),
      sample=40, heldout=9, search_bits=2.5,
  )
  return c
