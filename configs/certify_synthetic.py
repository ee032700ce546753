"""A certificate on documents of a known distribution.

python -m iblm_jax.certify --config=configs/certify_synthetic.py --workdir=DIR
"""

from ml_collections import config_dict

from iblm_jax import config_files

VARIANTS = {
    'subspace': 'all parameters in a random subspace (default)',
    'sublora': 'adapters on query, value and head in a random subspace',
    'lora': 'adapters, every number of them trained and coded',
    'full': 'all parameters trained and coded',
    'smoke': 'a check of a minute that everything runs',
}


def get_config(variant='subspace'):
  config_files.check_variant(variant, VARIANTS)
  c = config_dict.ConfigDict()
  c.model = dict(
      vocab_size=27,
      num_layers=2,
      width=64,
      num_heads=2,
      activation='relu2',
      document_mask=False,
      scan_layers=False,
      entropy=dict(patch_size=8),
  )
  c.data = dict(
      kind='topics',
      batch_size=128,
      topics=dict(num_train=1_000_000, num_heldout=100_000, length=64, seed=0),
      eval_units=2048,
  )
  c.objective = dict(
      method='ce', measure_entropy=False, skip_first=0, skip_last=0
  )
  c.optimizer = dict(
      weight_decay=0.0,
      schedule=dict(
          name='cosine', peak=0.08, warmup_steps=50, total_steps=1000
      ),
  )
  kind = 'subspace' if variant == 'smoke' else variant
  c.parameterisation = dict(kind=kind)
  if kind in ('sublora', 'subspace'):
    c.parameterisation.dims = (64, 64)
  if kind in ('sublora', 'lora'):
    c.parameterisation.lora = dict(rank=4)
  if kind in ('full', 'lora'):
    c.optimizer.schedule.peak = 3e-3
  c.train = dict(
      num_steps=1000, log_every=50, eval_every=500, checkpoint_every=250
  )
  c.certificate = dict(
      levels=(9, 15),
      codebook='kmeans',
      tuning_steps=800,
      tuning_rate=0.05,
      sample=20_000,
      heldout=10_000,
      # Declared: 2^12 configurations of width, dims, rate and steps.
      search_bits=12.0,
  )
  if variant == 'smoke':
    c.model.update(width=16)
    c.data.update(batch_size=16, eval_units=64)
    c.data.topics.update(num_train=10_000, num_heldout=1000, length=32)
    c.parameterisation.dims = (8, 8)
    c.optimizer.schedule.update(warmup_steps=5, total_steps=20)
    c.train.update(num_steps=20, log_every=10, eval_every=20)
    c.certificate.update(
        levels=(9, 15), tuning_steps=5, sample=200, heldout=200
    )
  return c
