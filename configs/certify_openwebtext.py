"""The paper's setting: GPT-2 small with SubLoRA on OpenWebText token shards.

  python -m iblm_jax.certify --config=configs/certify_openwebtext.py \
      --workdir=DIR \
      --config.data.shard_documents.files="('openwebtext/*.bin',)"
  python -m iblm_jax.experiments.budget

The first trains and certifies; nothing of this size has been trained by us. The
second prints the addends of the bound for the published d, m, n and α: all but
the empirical risk are known before training.

As in arXiv 2312.17173 and its public code: rank 4 on query, value and head,
50,000 numbers, 11 levels without quantisation-aware training, AdamW with a peak
of 5e-3 and a cosine to 6e-5 over 600,000 steps, 2,000 of them warm-up, 320 rows
of 1,024 tokens a step in micro-batches of 8, float32; 8,009,762 training
documents, of which 10,000 are scored in windows of 1,024 tokens shifted by 100,
with 7 bits for the search and one more for alphas. Other than there: documents
are a random part of all documents of the shards and rows hold one document
each; the projector is `kron` with dims (200, 250), whose numbers all act on all
adapters (theirs, `rdkronqr`, is a flag away:
--config.parameterisation.projector=rdkronqr); the head is a matrix of its own
at its random start instead of the embedding's copy; no dropout. Shards are
`.bin` files as `iblm_jax.data.prepare` writes them, with GPT-2's tokenizer.
"""

import dataclasses

from ml_collections import config_dict

from iblm_jax import config_files
from iblm_jax.models import config as model_config

VARIANTS = {
    'small': '124 M parameters, d = 50,000 (default)',
    'medium': '355 M parameters',
    'large': '774 M parameters',
    'smoke': 'a check of a minute on a CPU, on the files of fineweb:smoke',
}


def get_config(variant='small'):
  """Returns the config of a variant."""
  config_files.check_variant(variant, VARIANTS)
  c = config_dict.ConfigDict()
  size = 'small' if variant == 'smoke' else variant
  c.model = dataclasses.asdict(
      model_config.gpt2(
          size, vocab_size=50_304, biases=False, tie_embeddings=False,
          remat='dots',
      )
  )
  c.data = dict(
      kind='shard_documents',
      batch_size=320,
      num_threads=2,
      prefetch=8,
      shard_documents=dict(
          files=('openwebtext/*.bin',),
          eot_id=50_256,
          vocab_size=50_257,
          num_train=8_009_762,
          length=1024,
          stride=100,
      ),
      eval_units=1024,
  )
  c.objective = dict(
      method='ce', measure_entropy=False, skip_first=0, skip_last=0
  )
  c.optimizer = dict(
      name='adamw',
      b1=0.9,
      b2=0.999,
      eps=1e-6,
      weight_decay=1e-2,  # pulls w to 0, where the code is shortest
      clip_norm=1.0,
      schedule=dict(
          name='cosine', peak=5e-3, warmup_steps=2000, final_fraction=0.012
      ),
  )
  c.parameterisation = dict(
      kind='sublora',
      dims=(200, 250),
      projector='kron',
      lora=dict(rank=4, alpha_scale=32.0),
  )
  c.train = dict(
      num_steps=600_000,
      seed=137,
      accumulation=40,
      eval_every=2000,
      checkpoint_every=2000,
  )
  c.certificate = dict(
      levels=(11,),
      codebook='uniform',
      scheme='table',
      sample=10_000,
      search_bits=8.0,
      max_tokens=32_768,
  )
  if variant == 'smoke':
    c.model.update(
        vocab_size=259, num_layers=2, width=64, num_heads=2, max_length=128,
        remat='none', scan_layers=False,
    )
    c.data.update(batch_size=4, num_threads=1, eval_units=8)
    c.data.shard_documents.update(
        files=('data/tldr/*.bin',), eot_id=256, vocab_size=259,
        num_train=1000, length=128, stride=64,
    )
    c.parameterisation.dims = (8, 8)
    c.optimizer.schedule.update(warmup_steps=5)
    c.train.update(
        num_steps=20, accumulation=1, eval_every=10, checkpoint_every=10
    )
    c.certificate.update(sample=200, heldout=50, max_tokens=8192)
  return c
